package mysqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/surepost/surepost/internal/mysqlerr"
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
// A crash forgets what was in hand, and the next owner of the lane reads all that is there: events are published
// again, in the same order for each key, so first occurrences stay in order. A relay that has lost its lease and doesn't
// know it yet does no harm either: what it reads is complete up to what it publishes, and it deletes nothing (Checkpoint).
//
// Numbers that are drawn a second time (TRUNCATE, a failover that lost the tail) lose nothing: rows behind hot are looked
// for, and rows are deleted by number and id, so a new event that has the number of one in hand is read once that is
// deleted.
//
// # Cost
//
// Nobody waits: reads take no locks, deletes lock the rows they delete (READ COMMITTED, by primary key).
//
// A deleted row stays in the index, marked, until it is purged, and it isn't purged while anybody in the database holds a
// snapshot from before: a million of them take most of a second to go over. So a read doesn't go over the numbers up to
// hot, but over the gaps among those that it has seen. A gap is closed when it is older than any INSERT may take, and a
// locking read finds nothing in it, not even a row that isn't committed: its transaction rolled back. Checkpoints store
// the number below which nothing is in hand and no gap is open (settled), where a successor begins. What all this rests
// on, that a number isn't drawn twice and that no INSERT waits for longer than gaps stay open, is not relied on for
// anything but order: a sweep looks at all numbers up to hot now and then, in slices, and what it finds is handed out.
type log struct {
	store *Store
	conn  *sql.Conn
	lease relay.Lease

	hot    int64
	gaps   gaps
	inHand map[int64]bool
	pages  []handed // that aren't deleted yet, in the order of reading
	read   int      // pages so far

	gapAge  time.Duration // after which a gap may be closed
	probed  int           // of the gaps, the next to be probed
	probeAt time.Time     // when gaps are probed next
	swept   int64         // up to where the sweep has come
	sweepBy int64         // numbers at once
	sweepAt time.Time     // when it goes on
}

const (
	// leastGapAge is how long an INSERT may take, beside its waiting for locks.
	leastGapAge = 20 * time.Second
	// probeEvery and probeGaps bound what the closing of gaps costs.
	probeEvery, probeGaps = time.Second, 16
	// A slice of the sweep is as many numbers as take about sweepTime, the first one sweepFirst; what is purged takes no
	// time. Between slices is a pause of at least sweepEvery, and so long that sweeping takes a fiftieth of the time.
	sweepFirst, sweepTime, sweepEvery, sweepShare = 10_000, 50 * time.Millisecond, time.Second, 50
)

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
	l := &log{store: s, conn: conn, lease: lease, inHand: map[int64]bool{}, sweepBy: sweepFirst}
	if err := l.begin(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// begin finds out where to begin. It returns ErrLeaseLost if a successor has the lane.
func (l *log) begin(ctx context.Context) error {
	return explain("look at the lane's lease", own(ctx, l.conn, func(tx *sql.Tx) error {
		h, err := l.store.holder(ctx, tx, l.lease.Lane)
		if err != nil {
			return err
		}
		if h.epoch != l.lease.Epoch || h.owner != l.lease.Owner {
			return relay.ErrLeaseLost
		}
		l.hot = h.settled
		var lockWait int64
		err = tx.QueryRowContext(ctx, "SELECT @@innodb_lock_wait_timeout").Scan(&lockWait)
		l.gapAge = leastGapAge + time.Duration(min(lockWait, 3600))*time.Second
		return err
	}))
}

// Read implements relay.Log.
func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	now := time.Now()
	if err := l.closeGaps(ctx, now); err != nil {
		return relay.Page{}, explain("look for transactions that rolled back", err)
	}
	behind := l.gaps.spans()
	slice, sweeping := l.slice(now)
	if sweeping {
		behind = append(behind, slice)
	}
	found, more, err := l.look(ctx, behind, limit)
	if err != nil {
		return relay.Page{}, explain("read the log", err)
	}
	if sweeping && !more {
		l.sweptTo(slice.to, now, time.Since(now))
	}
	page := relay.Page{After: position{l, l.read}, Full: more}
	if len(found) == 0 {
		return page, nil
	}
	late, err := l.lookAgain(ctx, behind, found)
	if err != nil {
		return relay.Page{}, explain("read the log", err)
	}
	confirmed := confirm(found, late)
	if len(confirmed) < len(found) {
		page.Full = true // what was missing is there now
	}
	if len(confirmed) == 0 {
		return page, nil
	}
	l.read++
	given := handed{page: l.read}
	for _, e := range confirmed {
		if e.Seq > l.hot {
			l.gaps.passed(l.hot, e.Seq, now)
			l.hot = e.Seq
		} else {
			l.gaps.seen(e.Seq)
			page.Stragglers++
		}
		l.inHand[e.Seq] = true
		given.seqs, given.ids = append(given.seqs, e.Seq), append(given.ids, e.Event.ID)
	}
	l.gaps.join()
	l.pages = append(l.pages, given)
	page.Entries, page.After = confirmed, position{l, l.read}
	return page, nil
}

// confirm returns the events before which there is no late one of their key.
func confirm(found []relay.Entry, late map[string]int64) []relay.Entry {
	if len(late) == 0 {
		return found
	}
	var confirmed []relay.Entry
	for _, e := range found {
		if first, is := late[e.Event.Key]; !is || first > e.Seq {
			confirmed = append(confirmed, e)
		}
	}
	return confirmed
}

// look returns what is visible and not in hand, behind hot or beyond, in order of seq, at most limit; more may be there
// if it says so.
func (l *log) look(ctx context.Context, behind []span, limit int) (found []relay.Entry, more bool, err error) {
	err = snapshot(ctx, l.conn, func(tx *sql.Tx) error {
		var stragglers []int64
		if err := l.seen(ctx, tx, behind, func(seq int64, _ string) { stragglers = append(stragglers, seq) }); err != nil {
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
func (l *log) lookAgain(ctx context.Context, behind []span, found []relay.Entry) (late map[string]int64, err error) {
	known := make(map[int64]bool, len(found))
	for _, e := range found {
		known[e.Seq] = true
	}
	if last := found[len(found)-1].Seq; last > l.hot {
		behind = append(slices.Clip(behind), span{l.hot + 1, last})
	}
	late = map[string]int64{}
	err = snapshot(ctx, l.conn, func(tx *sql.Tx) error {
		return l.seen(ctx, tx, behind, func(seq int64, key string) {
			if _, is := late[key]; !is && key != "" && !known[seq] {
				late[key] = seq
			}
		})
	})
	return late, err
}

// slice returns the numbers to be swept by this read, if it is time.
func (l *log) slice(now time.Time) (s span, due bool) {
	if now.Before(l.sweepAt) {
		return span{}, false
	}
	if l.swept >= l.hot {
		l.swept = 0
	}
	return span{l.swept + 1, min(l.swept+l.sweepBy, l.hot)}, l.hot > 0
}

// sweptTo notes that a slice was swept in a read that took so long.
func (l *log) sweptTo(to int64, now time.Time, took time.Duration) {
	l.swept = to
	l.sweepAt = now.Add(max(sweepEvery, sweepShare*took))
	if took < sweepTime/2 {
		l.sweepBy = min(2*l.sweepBy, 1<<40)
	} else if took > 2*sweepTime {
		l.sweepBy = max(l.sweepBy/2, 1000)
	}
}

// closeGaps forgets gaps that nothing can come of any more.
func (l *log) closeGaps(ctx context.Context, now time.Time) error {
	if l.store.config.MultiPrimary || now.Before(l.probeAt) {
		return nil // of several primaries, one may be far behind with its numbers
	}
	l.probeAt = now.Add(probeEvery)
	var open gaps
	for n, gap := range l.gaps {
		if n < l.probed || n >= l.probed+probeGaps || now.Sub(gap.since) < l.gapAge {
			open = append(open, gap)
			continue
		}
		empty, err := l.empty(ctx, gap.span)
		if err != nil {
			return err
		}
		if !empty {
			open = append(open, gap)
		}
	}
	if l.probed += probeGaps; l.probed >= len(l.gaps) {
		l.probed = 0
	}
	l.gaps = open
	return nil
}

// empty reports whether there are no rows in the span, not even ones that aren't committed: those are locked.
func (l *log) empty(ctx context.Context, s span) (bool, error) {
	var there []int64
	err := own(ctx, l.conn, func(tx *sql.Tx) (err error) {
		there, err = column[int64](tx.QueryContext(ctx, l.store.sql.probe+within([]span{s})+" LIMIT 1 FOR UPDATE NOWAIT"))
		return err
	})
	switch mysqlerr.Find(err) {
	case mysqlerr.LockWaitTimeout, mysqlerr.NoWait:
		return false, nil
	}
	return len(there) == 0, err
}

// seen calls each for the visible rows of the spans that are not in hand, in order of seq.
func (l *log) seen(ctx context.Context, tx *sql.Tx, spans []span, each func(seq int64, key string)) error {
	if len(spans) == 0 {
		return nil
	}
	rows, err := tx.QueryContext(ctx, l.store.sql.seen+within(spans)+" ORDER BY seq")
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
		if err := l.guarded(ctx, 0, func(*sql.Tx) error { return nil }); err != nil {
			return explain("write a checkpoint", err)
		}
		return fmt.Errorf("mysqlstore: a position of type %T isn't one of this log's: positions don't outlive the log that returned them", at)
	}
	n := 0
	var seqs []int64
	var ids []string
	for ; n < len(l.pages) && l.pages[n].page <= p.page; n++ {
		seqs, ids = append(seqs, l.pages[n].seqs...), append(ids, l.pages[n].ids...)
	}
	err := l.guarded(ctx, l.settled(n), func(tx *sql.Tx) error {
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

// settled returns the number up to which nothing is in hand and no gap is open once n pages are settled.
func (l *log) settled(n int) int64 {
	least := min(l.hot+1, l.gaps.lowest())
	for _, p := range l.pages[n:] {
		least = min(least, slices.Min(p.seqs))
	}
	return least - 1
}

// guarded runs work in a transaction that commits only if the lease is still the relay's own, and notes up to where the
// log is settled then. The lease's row is locked last and for a moment, so that neither its renewal nor a successor waits
// for the work.
func (l *log) guarded(ctx context.Context, settled int64, work func(tx *sql.Tx) error) error {
	return own(ctx, l.conn, func(tx *sql.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		return held(tx.ExecContext(ctx, l.store.sql.fence, ownLeaseArgs(l.lease, settled)...))
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
