package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/relay"
)

// position is how far a lane has read the log: everything up to seq, whose event has this id. Rows commit in the order
// of their numbers, so a number would do; the id tells whether the file is still the one that the number was read from.
type position struct {
	seq int64
	id  string
}

// log reads one lane. It keeps no connection: what it remembers of the file is checked against the file by every read.
type log struct {
	store      *Store
	lease      relay.Lease
	at         position
	fromMemory bool // at has moved on from the checkpoint
}

// Open implements relay.Store.
func (s *Store) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	if s.db == nil {
		return nil, errNoDB
	}
	if lease.Lane.Of != 1 {
		return nil, fmt.Errorf("sqlitestore: %w: lane %s: several lanes are not supported yet: use one", relay.ErrHalt, lease.Lane)
	}
	l := &log{store: s, lease: lease}
	var epoch int64
	err := s.db.QueryRowContext(ctx, s.sql.newest, lease.Lane.Destination, int64(lease.Lane.Index)).Scan(&epoch, &l.at.seq, &l.at.id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return l, nil
	case err != nil:
		return nil, explain("read the newest checkpoint", err)
	case epoch > lease.Epoch:
		return nil, relay.ErrLeaseLost
	}
	// The first read checks the position; it must not be the first to tell of a file that was set back.
	meta, _, err := l.query(ctx, 0)
	if err != nil {
		return nil, explain("look at the event behind the cursor", err)
	}
	if err := l.trust(meta); err != nil {
		return nil, err
	}
	return l, nil
}

// Read implements relay.Log.
func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	seen, entries, err := l.query(ctx, limit)
	if err != nil {
		return relay.Page{}, explain("read the log", err)
	}
	if err := l.trust(seen); err != nil {
		return relay.Page{}, err
	}
	if n := len(entries); n > 0 {
		last := &entries[n-1]
		l.at, l.fromMemory = position{last.Seq, last.Event.ID}, true
	}
	return relay.Page{Entries: entries, After: l.at, Full: len(entries) == limit}, nil
}

// seen is what a read tells of the log itself.
type seen struct {
	drawn int64  // the highest number that was given out
	id    string // of the event that has the cursor's number, if there is one
}

// belongs reports whether the position is of the log of which a read tells this. Without an id, the event was removed since.
func (p position) belongs(s seen) bool { return s.drawn >= p.seq && (s.id == p.id || s.id == "") }

func (l *log) query(ctx context.Context, limit int) (about seen, entries []relay.Entry, err error) {
	rows, err := l.store.db.QueryContext(ctx, l.store.sql.read, l.at.seq, l.at.seq, int64(limit))
	if err != nil {
		return seen{}, nil, err
	}
	defer rows.Close()
	meta := false
	for rows.Next() {
		var arm int64
		var r row
		if err := rows.Scan(append([]any{&arm}, r.dest()...)...); err != nil {
			return seen{}, nil, err
		}
		if arm == 0 {
			meta, about = true, seen{drawn: r.seq, id: r.id}
			continue
		}
		entries = append(entries, r.entry())
	}
	if err := rows.Err(); err != nil {
		return seen{}, nil, err
	}
	if !meta {
		return seen{}, nil, errors.New("the read returned nothing about itself")
	}
	// Each arm is sorted, but nothing says that SQLite returns a UNION ALL's rows in the order of its arms.
	bySeq := func(a, b relay.Entry) int { return int(a.Seq - b.Seq) }
	if !slices.IsSortedFunc(entries, bySeq) {
		slices.SortFunc(entries, bySeq)
	}
	return about, entries, nil
}

var errFileWentBack = errors.New("sqlitestore: the file was replaced by an older copy of itself: the checkpoint is read again")

// trust checks that the cursor still belongs to the file that answered. A number that was given out lies below all that
// come later; where that isn't so, or another event has the cursor's number, reading on would skip events.
func (l *log) trust(s seen) error {
	if l.at.belongs(s) {
		return nil
	}
	if l.fromMemory {
		// An older copy was restored while the relay ran. Its checkpoint is as old: what that says decides.
		return errFileWentBack
	}
	outbox := l.store.config.name("outbox")
	last := max(s.drawn, l.at.seq)
	remedy := fmt.Sprintf("DELETE FROM sqlite_sequence WHERE name = '%[1]s'; INSERT INTO sqlite_sequence (name, seq) VALUES ('%[1]s', %[2]d); "+
		"INSERT INTO %[1]s (%[3]s) SELECT %[3]s FROM %[1]s WHERE seq <= %[2]d ORDER BY seq; DELETE FROM %[1]s WHERE seq <= %[2]d;", outbox, last, eventColumns)
	return fmt.Errorf("sqlitestore: %w: the cursor of lane %s stands at number %d (event %q), but the outbox has given out %d, and that number to event %q: "+
		"it was set back, or restored from an older copy without its checkpoints, and events would be skipped. Stop the producers, run in one "+
		"transaction: %s and start the relay again. Events that were published before are published again then",
		relay.ErrHalt, l.lease.Lane, l.at.seq, l.at.id, s.drawn, s.id, remedy)
}

// Checkpoint implements relay.Log.
func (l *log) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	p, ok := at.(position)
	if !ok {
		return fmt.Errorf("sqlitestore: a position of type %T isn't one of this log's", at)
	}
	s, lease := l.store, l.lease
	return s.transact(ctx, func(tx *sql.Tx) error {
		now := micros(time.Now())
		stored, err := exec(ctx, tx, s.sql.checkpoint,
			p.seq, p.id, now, lease.Lane.Destination, int64(lease.Lane.Index), lease.Epoch, lease.Owner)
		if err != nil {
			return explain("write a checkpoint", err)
		}
		if stored == 0 {
			return relay.ErrLeaseLost
		}
		for i := range parked {
			_, err := tx.ExecContext(ctx, s.sql.park,
				lease.Lane.Destination, integer(parked[i].Behind), parked[i].Reason, now, parked[i].Seq)
			if err != nil {
				return explain("park an event", err)
			}
		}
		return nil
	})
}

// Close implements relay.Log.
func (l *log) Close(context.Context) error { return nil }

// integer returns a truth value as the tables hold it.
func integer(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
