package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/relay"
)

// cursor is sqlstore/internal/postgres's, whose proof stands there: hot, snap, next, and the snapshot that is pinned while its
// stragglers are paged.
type cursor struct {
	hot  int64
	snap snapshot
	next uint64
	pin  *pin
}

type pin struct {
	snap  snapshot
	next  uint64
	after int64
}

func origin() cursor { return cursor{snap: snapshot{xmax: 1}, next: 1} }

func (c cursor) String() string {
	s := fmt.Sprintf("%d, %d:%v, next %d", c.hot, c.snap.xmax, c.snap.xip, c.next)
	if c.pin != nil {
		s += fmt.Sprintf(", pinned %d:%v, next %d, after %d", c.pin.snap.xmax, c.pin.snap.xip, c.pin.next, c.pin.after)
	}
	return s
}

// straggles reports whether the next read looks for a transaction's rows among the stragglers.
func (c cursor) straggles(tx uint64) bool {
	return slices.Contains(c.snap.xip, tx) || tx >= c.snap.xmax && tx < c.next
}

// read is what one read saw beside the rows.
type read struct {
	snap  snapshot
	drawn int64
	next  uint64
	bound int64
}

// advance is sqlstore/internal/postgres's.
func (c cursor) advance(r read, stragglers, fresh []*row, limit int) (after cursor, useFresh int, full bool) {
	pinned := pin{snap: r.snap, next: r.next}
	if c.pin != nil {
		pinned = *c.pin
	}
	switch {
	case len(stragglers) >= limit:
		pinned.after = stragglers[len(stragglers)-1].seq
		c.pin = &pinned
		return c, 0, true
	case c.pin != nil:
		return cursor{hot: c.hot, snap: pinned.snap, next: pinned.next}, 0, true
	case len(stragglers)+len(fresh) > limit:
		useFresh = limit - len(stragglers)
		return cursor{hot: fresh[useFresh-1].seq, snap: r.snap, next: r.next}, useFresh, true
	case len(fresh) >= limit:
		return cursor{hot: fresh[len(fresh)-1].seq, snap: r.snap, next: r.next}, len(fresh), true
	}
	reached, more := r.drawn, false
	if r.bound != 0 && r.bound < r.drawn {
		reached, more = r.bound, true
	}
	return cursor{hot: max(c.hot, reached), snap: r.snap, next: r.next}, len(fresh), more
}

// oldest is sqlstore/internal/postgres's: where all lanes begin when their number has changed.
func oldest(cursors []cursor) cursor {
	first := slices.MinFunc(cursors, func(a, b cursor) int {
		return cmp.Or(cmp.Compare(a.snap.xmax, b.snap.xmax), cmp.Compare(len(b.snap.xip), len(a.snap.xip)), cmp.Compare(b.next, a.next))
	})
	hot := first.hot
	for _, c := range cursors {
		hot = min(hot, c.hot)
	}
	return cursor{hot: hot, snap: first.snap, next: first.next}
}

// passed reports whether a lane that stands at the cursor has handed out the row.
func (db *database) passed(c cursor, r *row) bool {
	return r.seq <= c.hot && (db.sees(c.snap, r.tx) || c.pin != nil && db.sees(c.pin.snap, r.tx) && r.seq <= c.pin.after)
}

// log is a connection that reads a lane: log.go of sqlstore/internal/postgres.
type log struct {
	*store
	lease      relay.Lease
	name       string
	at         cursor
	n          int64
	fromMemory bool
	server     int
	drawn      int64 // when it was opened
	failed     bool
	reads      int
}

// laneScan is small, so that bounds matter in logs of some ten events.
const laneScan = 12

var (
	errConnection    = errors.New("the connection to the database was lost")
	errServerChanged = errors.New("the connection leads to another server")
)

// on runs a statement on the connection, which is of no use after an error.
func on[T any](ctx context.Context, l *log, what string, statement func() (T, error)) (T, error) {
	if l.failed {
		l.db.w.Fail("%s: %s of %s on a log that had failed before", l.actor.Name(), what, l.name)
	}
	result, err := sim.Do(ctx, l.actor, what, l.name, func() (T, error) {
		if l.db.down || !l.db.pooled && l.server != l.db.server {
			var none T
			return none, errConnection
		}
		return statement()
	})
	if err != nil {
		l.failed = true
	}
	return result, err
}

// mine reports whether the lane has the row's slot.
func (l *log) mine(r *row) bool { return r.slot%l.lease.Lane.Of == l.lease.Lane.Index }

func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	var r read
	type arms struct {
		read              read
		server            int
		at                time.Time
		stragglers, fresh []*row
	}
	at := l.at
	begin := func() (a arms) {
		a.read.snap, a.server, a.at = l.db.snapshot(), l.db.server, l.handed()
		a.stragglers, a.fresh, a.read.bound = l.rows(at, a.read.snap, limit)
		return a
	}
	end := func(r *read) { r.drawn, r.next = l.db.drawn, l.db.nextID }
	// The statement's snapshot, the sequence and the next transaction id are read one after the other: others go on in between.
	l.reads++
	together := l.reads%3 > 0
	seen, err := on(ctx, l, "read", func() (arms, error) {
		a := begin()
		if together {
			end(&a.read)
			l.db.w.Detail("%d stragglers, %d fresh", len(a.stragglers), len(a.fresh))
		}
		return a, nil
	})
	if err == nil && !together {
		a := seen // the effect's own, since it may take place after its caller has given up
		seen, err = on(ctx, l, "read on", func() (arms, error) {
			end(&a.read)
			l.db.w.Detail("%d stragglers, %d fresh", len(a.stragglers), len(a.fresh))
			return a, nil
		})
	}
	if err != nil {
		return relay.Page{}, err
	}
	r = seen.read
	if l.db.plant.xmaxForNext {
		r.next = r.snap.xmax
	}
	if seen.server != l.server || r.drawn < l.at.hot && l.fromMemory {
		l.failed = true
		return relay.Page{}, errServerChanged
	}
	if r.drawn < l.at.hot {
		l.failed = true
		return relay.Page{}, fmt.Errorf("%w: the sequence stands at %d behind the cursor's %d", relay.ErrHalt, r.drawn, l.at.hot)
	}
	after, useFresh, full := l.at.advance(r, seen.stragglers, seen.fresh, limit)
	l.at, l.fromMemory = after, true
	rows := append(slices.Clone(seen.stragglers), seen.fresh[:useFresh]...)
	if l.db.plant.freshFirst {
		rows = append(slices.Clone(seen.fresh[:useFresh]), seen.stragglers...)
	}
	page := relay.Page{After: after, Full: full}
	rows, handed, err := l.leaveOut(ctx, rows, seen.at)
	if err != nil {
		return relay.Page{}, err
	}
	page.Full = full || len(rows) == 0 && len(seen.stragglers)+useFresh > 0
	for _, r := range rows {
		if slices.Contains(seen.stragglers, r) {
			page.Stragglers++
		}
		e := relay.Entry{Seq: r.seq, Event: r.event}
		e.Event.Time = handed
		if l.db.plant.keysForgotten {
			e.Event.Key = ""
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// handed is the time of what is read now, by which the ledger knows which discards were before it; none for a log whose lease was
// lost, which may know nothing of what others park and an operator discards.
func (l *log) handed() time.Time {
	if !l.db.held(l.lease) {
		return time.Time{}
	}
	return time.Unix(0, 0).Add(l.db.w.Now())
}

// leaveOut takes out what an operator has discarded: discarded.go of sqlstore/internal/postgres.
func (l *log) leaveOut(ctx context.Context, rows []*row, read time.Time) (kept []*row, handed time.Time, err error) {
	if l.db.plant.discardsRead || !slices.ContainsFunc(rows, func(r *row) bool { return r.seq <= l.drawn }) {
		return rows, read, nil
	}
	kept, err = on(ctx, l, "see discards", func() (kept []*row, err error) {
		for _, r := range rows {
			if r.seq > l.drawn || !l.db.discarded(r) {
				kept = append(kept, r)
			}
		}
		l.db.w.Detail("%d of %d", len(rows)-len(kept), len(rows))
		handed = l.handed()
		return kept, nil
	})
	return kept, handed, err
}

// rows returns what a read sees, as its two arms return it.
func (l *log) rows(at cursor, snap snapshot, limit int) (stragglers, fresh []*row, bound int64) {
	for _, r := range l.db.rows { // in order of seq
		switch {
		case r.seq > at.hot:
			if at.pin != nil || !l.db.sees(snap, r.tx) {
				continue
			}
			if bound == 0 && l.lease.Lane.Of > 1 {
				bound = r.seq + laneScan - 1
			}
			if l.mine(r) && (bound == 0 || r.seq <= bound) && len(fresh) < limit {
				fresh = append(fresh, r)
			}
		case !l.mine(r) || !at.straggles(r.tx) || !l.db.sees(snap, r.tx) || len(stragglers) == limit:
		case at.pin != nil && (r.seq <= at.pin.after || !l.db.sees(at.pin.snap, r.tx)):
		default:
			stragglers = append(stragglers, r)
		}
	}
	return stragglers, fresh, bound
}

// guarded reports whether the lease and the server are still those that the log was opened with.
func (l *log) guarded() bool {
	return l.db.plant.noFencing || l.db.held(l.lease) && l.db.server == l.server
}

func (l *log) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	n := l.n + 1
	_, err := on(ctx, l, "checkpoint", func() (bool, error) {
		if !l.guarded() {
			return false, relay.ErrLeaseLost
		}
		c := at.(cursor)
		l.db.w.Detail("epoch %d at %v, %d parked", l.lease.Epoch, c, len(parked))
		l.db.writes()
		for _, p := range parked {
			l.park(p)
		}
		l.db.addCheckpoint(l.lease.Lane.Index, checkpoint{l.lease.Epoch, n, c})
		checkPassed(l, c)
		return true, nil
	})
	if err == nil {
		l.n = n
		if l.db.plant.remembers {
			l.memo[l.lease.Lane.Index] = at.(cursor)
		}
	}
	return err
}

// park stores a copy of an event that is in the log and not parked yet.
func (l *log) park(p relay.Parked) {
	i := slices.IndexFunc(l.db.rows, func(r *row) bool { return r.seq == p.Seq })
	if i < 0 {
		return
	}
	if _, there := l.db.parked[p.Seq]; there || l.db.plant.parkedDropped || l.db.discarded(l.db.rows[i]) && !l.db.plant.discardsParked {
		return
	}
	checkParked(l, l.db.rows[i], p)
	l.db.parked[p.Seq] = parkedRow{row: l.db.rows[i], behind: p.Behind, reason: p.Reason}
}

// parkedSeqs returns the numbers of the parked rows that the lane has, in order.
func (l *log) parkedSeqs() (seqs []int64) {
	for seq, p := range l.db.parked {
		if l.mine(p.row) {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

func (l *log) ParkedKeys(ctx context.Context) ([]string, error) {
	return on(ctx, l, "parked keys", func() (keys []string, err error) {
		for _, seq := range l.parkedSeqs() {
			if key := l.db.parked[seq].event.Key; key != "" && !l.db.plant.parkedForgot && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
		return keys, nil
	})
}

func (l *log) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	return on(ctx, l, "released", func() (entries []relay.Entry, err error) {
		stuck := map[string]bool{}
		for _, seq := range l.parkedSeqs() {
			p := l.db.parked[seq]
			key := p.event.Key
			if stuck[key] && key != "" || !p.retry && (!p.behind || key == "") {
				stuck[key] = true
				continue
			}
			if len(entries) < limit {
				e := relay.Entry{Seq: seq, Event: p.event}
				e.Event.Time = l.handed()
				entries = append(entries, e)
			}
		}
		l.db.w.Detail("%d", len(entries))
		return entries, nil
	})
}

func (l *log) Unpark(ctx context.Context, published []relay.Entry, again []relay.Parked, keys []string) ([]string, error) {
	return on(ctx, l, "unpark", func() (clear []string, err error) {
		if !l.guarded() {
			return nil, relay.ErrLeaseLost
		}
		l.db.writes()
		l.db.w.Detail("%d published, %d again", len(published), len(again))
		for _, e := range published {
			checkUnparked(l, e.Seq)
			delete(l.db.parked, e.Seq)
		}
		for _, p := range again {
			if was, there := l.db.parked[p.Seq]; there {
				checkParked(l, was.row, p)
				l.db.parked[p.Seq] = parkedRow{row: was.row, behind: p.Behind, reason: p.Reason}
			}
		}
		for _, key := range keys {
			if !slices.ContainsFunc(l.parkedSeqs(), func(seq int64) bool { return l.db.parked[seq].event.Key == key }) {
				clear = append(clear, key)
			}
		}
		return clear, nil
	})
}

// Close is no effect on anybody.
func (l *log) Close(context.Context) error { return nil }
