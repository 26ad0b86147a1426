package mysqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"

	"github.com/surepost/surepost/relay"
)

// log reads one lane over one connection, and is the heart of this package.
//
// The problem: rows become visible in the order of their commits, but are numbered in the order of their inserts. A
// reader that remembers only the highest number loses every row that commits later under a lower one. PostgreSQL's
// remedy, a cursor made of a snapshot, isn't to be had here. So the rows are the cursor: what is published is deleted,
// and what is there and isn't in hand is to be read. A read takes
//
//	stragglers  seq <= hot, where hot is the highest number that was handed out, but for those in hand: handed out by
//	            this log, and not deleted by a checkpoint yet
//	fresh       seq > hot, in order of seq
//
// in one snapshot, which is enough to lose nothing, invent nothing and repeat nothing. It isn't enough for the order of
// a key's events.
//
// Let B's transaction have waited for A's commit, before it drew its number: seq(A) < seq(B), since numbers are drawn
// in ascending order (in every innodb_autoinc_lock_mode; gaps don't matter), and a reader that takes B must have A. Both
// servers make a commit visible to new snapshots before they release its locks: trx_release_impl_and_expl_locks in
// MySQL 8, trx_t::commit_in_memory in MariaDB. But MariaDB's snapshot is not taken at one moment: it walks a lock-free
// hash of the transactions that are active (trx_sys_t::snapshot_ids). The walk can pass A while A is active, and reach
// B's place when B has come and gone: a snapshot that sees B and doesn't see A.
//
// So a page is confirmed by a second snapshot, of keys and numbers only, which is begun when the first is complete. If
// the first sees B, B had ended before it was complete, A before B; so the second sees A, or A was deleted, which means
// that it has been published. A row of the first snapshot before which the second shows another row of its key, one
// that is neither in hand nor in the page, is held back: the next read finds both. So no row is handed out before all
// that was committed before it under its key.
//
// A crash forgets what was in hand, and the next owner of the lane reads everything from the head: events are published
// again, in the same order for each key, so first occurrences stay in order. A relay that has lost its lease and doesn't
// know it yet does no harm either: what it reads is complete up to what it publishes, and it deletes nothing (Checkpoint).
//
// Numbers that are drawn a second time (TRUNCATE, a failover that lost the tail) cost nothing: rows behind hot are looked
// for anyway, and rows are deleted by number and id, so a new event that has the number of one in hand is read once that is
// deleted.
//
// Nobody waits: reads take no locks, deletes lock the rows they delete (READ COMMITTED, by primary key). What a read
// costs besides its rows: going over the numbers in hand, and over rows that are deleted and not purged yet, because
// somebody holds a snapshot from before. See DESIGN.md.
type log struct {
	store *Store
	conn  *sql.Conn
	lease relay.Lease

	hot    int64
	inHand map[int64]bool
	pages  []handed // that aren't deleted yet, in the order of reading
	read   int      // pages so far
}

// handed is what is deleted when a page is settled.
type handed struct {
	page int
	seqs []int64
	ids  []string
}

// position says that all pages up to one, of one log, are settled.
type position struct {
	of   *log
	page int
}

// Open implements relay.Store.
func (s *Store) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	if lease.Lane.Of != 1 {
		return nil, misfit("lane %s: several lanes are not supported yet: use one", lease.Lane)
	}
	if lease.Lane.Destination != relay.DefaultDestination {
		return nil, relay.ErrLeaseLost // nobody was given such a lease
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &log{store: s, conn: conn, lease: lease, inHand: map[int64]bool{}}
	if err := l.stillLeased(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// stillLeased returns ErrLeaseLost if a successor has the lane.
func (l *log) stillLeased(ctx context.Context) error {
	return explain("look at the lane's lease", own(ctx, l.conn, func(tx *sql.Tx) error {
		h, err := l.store.holder(ctx, tx, l.lease.Lane)
		if err == nil && (h.epoch != l.lease.Epoch || h.owner != l.lease.Owner) {
			return relay.ErrLeaseLost
		}
		return err
	}))
}

// Read implements relay.Log.
func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	found, more, err := l.look(ctx, limit)
	if err != nil {
		return relay.Page{}, explain("read the log", err)
	}
	if len(found) == 0 {
		return relay.Page{After: position{l, l.read}}, nil
	}
	late, err := l.lookAgain(ctx, found)
	if err != nil {
		return relay.Page{}, explain("read the log", err)
	}
	page := relay.Page{Full: more}
	given := handed{page: l.read + 1}
	for _, e := range found {
		if first, is := late[e.Event.Key]; is && first < e.Seq {
			page.Full = true // its predecessor is there now
			continue
		}
		if e.Seq <= l.hot {
			page.Stragglers++
		}
		l.inHand[e.Seq] = true
		given.seqs, given.ids = append(given.seqs, e.Seq), append(given.ids, e.Event.ID)
		page.Entries = append(page.Entries, e)
	}
	l.hot = max(l.hot, found[len(found)-1].Seq)
	if len(page.Entries) > 0 {
		l.read++
		l.pages = append(l.pages, given)
	}
	page.After = position{l, l.read}
	return page, nil
}

// look returns what is visible and not in hand, in order of seq, at most limit; more may be there if it says so.
func (l *log) look(ctx context.Context, limit int) (found []relay.Entry, more bool, err error) {
	err = snapshot(ctx, l.conn, func(tx *sql.Tx) error {
		var stragglers []int64
		if err := l.seen(ctx, tx, l.hot, func(seq int64, _ string) { stragglers = append(stragglers, seq) }); err != nil {
			return err
		}
		if more = len(stragglers) > limit; more {
			stragglers = stragglers[:limit]
		}
		if len(stragglers) > 0 {
			if found, err = entries(tx.QueryContext(ctx, l.store.sql.rows+numbers(stragglers)+" ORDER BY seq")); err != nil {
				return err
			}
		}
		if room := limit - len(found); room > 0 {
			fresh, err := entries(tx.QueryContext(ctx, l.store.sql.fresh+strconv.FormatInt(l.hot, 10)+" ORDER BY seq LIMIT "+strconv.Itoa(room)))
			if err != nil {
				return err
			}
			more = len(fresh) == room
			found = append(found, fresh...)
		}
		return nil
	})
	return found, more, err
}

// lookAgain returns, in a snapshot of its own, the lowest number of each key of which there is a row that is neither in
// hand nor found.
func (l *log) lookAgain(ctx context.Context, found []relay.Entry) (late map[string]int64, err error) {
	known := make(map[int64]bool, len(found))
	for _, e := range found {
		known[e.Seq] = true
	}
	late = map[string]int64{}
	err = snapshot(ctx, l.conn, func(tx *sql.Tx) error {
		return l.seen(ctx, tx, found[len(found)-1].Seq, func(seq int64, key string) {
			if _, is := late[key]; !is && key != "" && !known[seq] {
				late[key] = seq
			}
		})
	})
	return late, err
}

// seen calls each for the visible rows up to a number that are not in hand, in order of seq.
func (l *log) seen(ctx context.Context, tx *sql.Tx, upTo int64, each func(seq int64, key string)) error {
	rows, err := tx.QueryContext(ctx, l.store.sql.seen+strconv.FormatInt(upTo, 10)+" ORDER BY seq")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var seq int64
		var key sql.RawBytes
		if err := rows.Scan(&seq, &key); err != nil {
			return err
		}
		if !l.inHand[seq] {
			each(seq, string(key))
		}
	}
	return rows.Err()
}

// Checkpoint implements relay.Log: it deletes what was settled, and parks the parked events, if the lease is still the
// relay's own.
func (l *log) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	p, ok := at.(position)
	if !ok || p.of != l {
		if err := l.stillLeased(ctx); err != nil {
			return err
		}
		return fmt.Errorf("mysqlstore: a position of type %T isn't one of this log's: positions don't outlive the log that returned them", at)
	}
	n := 0
	var seqs []int64
	var ids []string
	for ; n < len(l.pages) && l.pages[n].page <= p.page; n++ {
		seqs, ids = append(seqs, l.pages[n].seqs...), append(ids, l.pages[n].ids...)
	}
	err := l.guarded(ctx, func(tx *sql.Tx) error {
		if err := l.park(ctx, tx, parked); err != nil {
			return err
		}
		return l.remove(ctx, tx, seqs, ids)
	})
	if err != nil {
		return explain("write a checkpoint", err)
	}
	for _, seq := range seqs {
		delete(l.inHand, seq)
	}
	l.pages = slices.Delete(l.pages, 0, n)
	return nil
}

// guarded runs work in a transaction that commits only if the lease is still the relay's own. The lease's row is locked
// last and for a moment, so that neither its renewal nor a successor waits for the work.
func (l *log) guarded(ctx context.Context, work func(tx *sql.Tx) error) error {
	return own(ctx, l.conn, func(tx *sql.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		return held(tx.ExecContext(ctx, l.store.sql.fence, ownLeaseArgs(l.lease)...))
	})
}

// removeAtOnce bounds a statement: 500 ids are a quarter of a MiB at most, as hexadecimal literals.
const removeAtOnce = 500

// remove deletes rows by number and id: the number may have been drawn again.
func (l *log) remove(ctx context.Context, tx *sql.Tx, seqs []int64, ids []string) error {
	for from := 0; from < len(seqs); from += removeAtOnce {
		to := min(from+removeAtOnce, len(seqs))
		if _, err := tx.ExecContext(ctx, l.store.sql.remove+texts(ids[from:to]), array(seqs[from:to])); err != nil {
			return err
		}
	}
	return nil
}

// Close implements relay.Log.
func (l *log) Close(context.Context) error {
	if err := l.conn.Close(); err != nil && err != sql.ErrConnDone {
		return err
	}
	return nil
}
