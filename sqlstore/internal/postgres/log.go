package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/surepost/surepost/relay"
)

// Open implements relay.Store.
func (e *Engine) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	conn, err := e.Dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &log{engine: e, conn: conn, lease: lease, at: origin()}
	if err := l.load(ctx); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	replay, isReplay, err := l.openReplay(ctx)
	switch {
	case err != nil:
		_ = conn.Close(ctx)
		return nil, err
	case isReplay:
		return replay, nil
	}
	return l, nil
}

// log reads one lane over one connection.
type log struct {
	engine *Engine
	conn   Conn
	lease  relay.Lease

	at         cursor
	n          int64  // of the newest checkpoint of this epoch
	fromMemory bool   // at has moved on from the checkpoint
	server     string // identity of the server that the cursor was read from
	drawn      int64  // the last number that had been given out when the log was opened
	foreign    uint64 // from this transaction id on, what the cursor names isn't of this cluster; or native
	statement  string // of reads with limit, and ranged
	limit      int
	ranged     bool // some of the cursor's stragglers are a range of transactions
	plan       replan
}

// native is a log whose cursor is of the cluster that it is read from.
const native uint64 = math.MaxInt64

// foreign returns from which transaction id on what the cursor names isn't of the cluster whose next id is own; native, if all is.
func (c cursor) foreign(own uint64) uint64 {
	switch {
	case c.pin == nil && c.next > own:
		return own
	case c.pin != nil && (c.next > own || c.pin.next > own):
		return min(own, c.pin.next) // if the pin is this cluster's, what was foreign then still is
	}
	return native
}

// load notes which server this is and that it knows of the lease, then reads the newest checkpoint: if a pooler leads to another
// server in between, the first read sees it. A failover may have lost the lease, and with it the number of lanes that it is for;
// the checkpoint of another number's lane would pass over what that lane never had.
func (l *log) load(ctx context.Context) error {
	var own string
	var held bool
	lane := l.lease.Lane
	args := []any{lane.Destination, int64(lane.Index), l.lease.Epoch, l.lease.Owner, int64(lane.Of)}
	if _, err := queryRow(ctx, l.conn, l.engine.sql.here, args, &l.server, &own, &held, &l.drawn); err != nil {
		return l.engine.explain("see which server this is", err)
	}
	if !held {
		return relay.ErrLeaseLost
	}
	var (
		epoch, n, hot, pinAfter      int64
		snap, next, pinSnap, pinNext string
	)
	found, err := queryRow(ctx, l.conn, l.engine.sql.newest, []any{l.lease.Lane.Destination, int64(l.lease.Lane.Index)},
		&epoch, &n, &hot, &snap, &next, &pinSnap, &pinNext, &pinAfter)
	if err != nil {
		return l.engine.explain("read the newest checkpoint", err)
	}
	if !found {
		l.foreign = native
		return nil
	}
	if epoch > l.lease.Epoch {
		return relay.ErrLeaseLost
	}
	if epoch == l.lease.Epoch {
		l.n = n
	}
	l.at = cursor{hot: hot}
	if l.at.snap, err = parseSnapshot(snap); err != nil {
		return err
	}
	if l.at.next, err = strconv.ParseUint(next, 10, 64); err != nil {
		return fmt.Errorf("sqlstore: checkpoint of lane %s: %w", l.lease.Lane, err)
	}
	if pinSnap != "" {
		p := pin{after: pinAfter}
		if p.snap, err = parseSnapshot(pinSnap); err != nil {
			return err
		}
		if p.next, err = strconv.ParseUint(pinNext, 10, 64); err != nil {
			return fmt.Errorf("sqlstore: checkpoint of lane %s: %w", l.lease.Lane, err)
		}
		l.at.pin = &p
	}
	// In a dump that was restored into a younger cluster, the checkpoint names transactions that this one hasn't come to.
	ownNext, err := strconv.ParseUint(own, 10, 64)
	if err != nil {
		return fmt.Errorf("sqlstore: the next transaction id: %w", err)
	}
	l.foreign = l.at.foreign(ownNext)
	var reused bool
	var drawn int64
	if _, err := queryRow(ctx, l.conn, l.engine.sql.reused, []any{hot, next, own}, &reused, &drawn); err != nil {
		return l.engine.explain("look at the rows behind the cursor", err)
	}
	if reused {
		return l.setBack(drawn)
	}
	return nil
}

// The arms of the read statement.
const (
	armMeta = iota
	armStraggler
	armFresh
)

// Read implements relay.Log.
func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	_, _, to := l.at.probes()
	if ranged := to > 0; l.statement == "" || l.limit != limit || l.ranged != ranged {
		l.limit, l.ranged = limit, ranged
		l.statement = l.engine.config.readStatement(l.lease.Lane, limit, ranged) + l.plan.comment()
	}
	began := time.Now()
	seen, stragglers, fresh, err := l.query(ctx)
	if now := time.Now(); l.plan.took(now.Sub(began), now) {
		l.statement = ""
	}
	if err != nil {
		return relay.Page{}, l.engine.explain("read the log", err)
	}
	if err := l.trust(seen); err != nil {
		return relay.Page{}, err
	}
	after, nStragglers, nFresh, full := l.at.advance(seen.read, seqs(stragglers), seqs(fresh), limit)
	if l.at.pin == nil && after.pin == nil {
		l.foreign = native // the cursor's snapshot is this read's
	}
	l.at, l.fromMemory = after, true
	return l.leaveOut(ctx, relay.Page{
		Entries:    append(stragglers[:nStragglers:nStragglers], fresh[:nFresh]...),
		After:      after,
		Full:       full,
		Stragglers: nStragglers,
	})
}

// seen is a read's first row.
type seen struct {
	read
	server string
}

func (l *log) query(ctx context.Context) (s seen, stragglers, fresh []relay.Entry, err error) {
	single, from, to := l.at.probes()
	var after int64
	var pinned string
	if l.at.pin != nil {
		after, pinned = l.at.pin.after, l.at.pin.snap.String()
	}
	rows, err := l.conn.Query(ctx, l.statement, l.at.hot, intArray(single), strconv.FormatUint(from, 10), strconv.FormatUint(to, 10), after, pinned,
		strconv.FormatUint(l.foreign, 10))
	if err != nil {
		return seen{}, nil, nil, err
	}
	defer rows.Close()
	var arm int64
	meta := false
	for rows.Next() {
		var r row // afresh: a row keeps the memory that it was scanned into
		if err := rows.Scan(append([]any{&arm}, r.dest()...)...); err != nil {
			return seen{}, nil, nil, err
		}
		if arm == armMeta {
			meta = true
			s.drawn, s.server = r.seq, r.version
			if s.snap, err = parseSnapshot(r.id); err != nil {
				return seen{}, nil, nil, err
			}
			if s.next, err = strconv.ParseUint(r.typ, 10, 64); err != nil {
				return seen{}, nil, nil, err
			}
			if r.source != "" {
				if s.bound, err = strconv.ParseInt(r.source, 10, 64); err != nil {
					return seen{}, nil, nil, err
				}
			}
			continue
		}
		entry := r.entry()
		if arm == armStraggler {
			stragglers = append(stragglers, entry)
		} else {
			fresh = append(fresh, entry)
		}
	}
	if err := rows.Err(); err != nil {
		return seen{}, nil, nil, err
	}
	if !meta {
		return seen{}, nil, nil, errors.New("sqlstore: the read returned nothing about itself: the sequence of the outbox table can't be read")
	}
	// Each arm is sorted, but nothing says that PostgreSQL returns a UNION ALL's rows in the order of its arms.
	bySeq := func(a, b relay.Entry) int { return int(a.Seq - b.Seq) }
	if !slices.IsSortedFunc(stragglers, bySeq) {
		slices.SortFunc(stragglers, bySeq)
	}
	if !slices.IsSortedFunc(fresh, bySeq) {
		slices.SortFunc(fresh, bySeq)
	}
	return s, stragglers, fresh, nil
}

var errServerChanged = errors.New("sqlstore: the connection leads to another server, or to one that was restarted or promoted: the checkpoint is read again")

// trust checks that the cursor still belongs to the server that answered.
func (l *log) trust(s seen) error {
	// A cursor in memory must not outlive what it was read from: after a failover or a crash that lost the tail of
	// the log, numbers are drawn a second time, and a remembered hot would skip them. A new connection reads the
	// checkpoint anyway; behind a pooler, the timeline and the start of the server show what the connection hides.
	if l.server != s.server {
		return errServerChanged
	}
	if s.drawn < l.at.hot && l.fromMemory {
		// A crash that a pooler hides may have lost numbers that were drawn and not yet used. The checkpoint lost as
		// much: what it says decides.
		return errServerChanged
	}
	if s.drawn < l.at.hot {
		return l.setBack(s.drawn)
	}
	return nil
}

// setBack says that the sequence gives out numbers again that lie behind the cursor, and how to mend it: the events
// that have such a number are appended once more, under new ones. Some of them may be old, and are only published
// again.
func (l *log) setBack(drawn int64) error {
	c := l.engine.config
	return fmt.Errorf("sqlstore: %w: the outbox's sequence stands at %d and the cursor of lane %s at %d: the sequence was set back, or the table was "+
		"copied without it, and events would be skipped. Stop the producers, then run: SELECT setval('%s', greatest(%d, (SELECT max(seq) FROM %s))); "+
		"INSERT INTO %[7]s (%[8]s) SELECT %[8]s FROM %[7]s WHERE seq <= %[9]d ORDER BY seq; DELETE FROM %[7]s WHERE seq <= %[9]d; and start the relay again",
		relay.ErrHalt, drawn, l.lease.Lane, l.at.hot, c.name("sequence"), l.at.hot, c.name("outbox"), eventColumns, min(drawn, l.at.hot))
}

func seqs(entries []relay.Entry) []int64 {
	s := make([]int64, len(entries))
	for i := range entries {
		s[i] = entries[i].Seq
	}
	return s
}

// Checkpoint implements relay.Log.
func (l *log) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	c, ok := at.(cursor)
	if !ok {
		return fmt.Errorf("sqlstore: a position of type %T isn't one of this log's", at)
	}
	var pinSnap, pinNext string
	var pinAfter int64
	if c.pin != nil {
		pinSnap, pinNext, pinAfter = c.pin.snap.String(), strconv.FormatUint(c.pin.next, 10), c.pin.after
	}
	affected, err := l.conn.Exec(ctx, l.engine.sql.checkpoint, l.lease.Lane.Destination, int64(l.lease.Lane.Index), l.lease.Epoch, l.n+1,
		c.hot, c.snap.String(), strconv.FormatUint(c.next, 10), pinSnap, pinNext, pinAfter,
		textArray(len(parked), func(i int) string { return strconv.FormatInt(parked[i].Seq, 10) }),
		textArray(len(parked), func(i int) string { return strconv.FormatBool(parked[i].Behind) }),
		textArray(len(parked), func(i int) string { return parked[i].Reason }), l.lease.Owner, l.server)
	if err != nil {
		return l.engine.explain("write a checkpoint", err)
	}
	if affected == 0 {
		return relay.ErrLeaseLost
	}
	l.n++
	// Often enough that the table stays small (a few hundred rows a lane), seldom enough to cost nothing.
	const trimEvery, keep = 256, 16
	if l.n%trimEvery == 1 {
		if _, err := l.conn.Exec(ctx, l.engine.sql.trim, l.lease.Lane.Destination, int64(l.lease.Lane.Index), l.lease.Epoch, l.n-keep); err != nil {
			return l.engine.explain("remove old checkpoints", err)
		}
	}
	return nil
}

// Close implements relay.Log.
func (l *log) Close(ctx context.Context) error { return l.conn.Close(ctx) }
