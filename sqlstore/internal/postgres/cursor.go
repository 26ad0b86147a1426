package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// cursor is how far a lane has read the log, and the heart of this package.
//
// The problem: rows become visible in the order of their commits, but are numbered in the order of their inserts. A
// reader that remembers only the highest number loses every row that commits later under a lower one.
//
// The cursor remembers three things about the read that it comes from:
//
//	hot   every row with seq <= hot that this read could see has been handed out, by it or by an earlier one
//	snap  the read's snapshot: what it could see
//	next  the next transaction id to be assigned, taken after snap and after hot
//
// and the next read consists of
//
//	stragglers  seq <= hot, written by a transaction that snap didn't see and that had its id before next:
//	            tx in xip(snap), or xmax(snap) <= tx < next
//	fresh       seq > hot, in order of seq, whatever their transaction
//
// handed out in this order, and of several lanes each takes the rows of its slots. What follows holds for every row, whatever
// its slot: numbers and transaction ids are drawn by all alike.
//
// Nothing is skipped. Let r be a row with seq(r) <= hot that the read couldn't see. Its number was drawn before hot
// was taken: either hot is the number of a row that the read saw, and that row's transaction, which drew it after r
// drew its own (CACHE 1: numbers are drawn in order), had committed; or hot is the last number that the sequence gave
// out, read between snap and next. A row has its transaction id before its number (tx is the first column: defaults
// are evaluated in column order). So tx(r) was assigned before next was taken: tx(r) < next. And as snap doesn't see
// it, tx(r) is in xip(snap) or at least xmax(snap). So r is among the stragglers of the next read that sees it. (xmax
// alone won't do as the upper bound: it is the last *completed* id plus one, and running transactions lie above it.)
//
// Nothing is handed out twice: a straggler was invisible to snap, and so to every read before.
//
// Order per key holds, provided that a key's writers serialise before they draw the number (a row lock on the
// aggregate does it). If B's transaction waited for A's commit, seq(A) < seq(B), and every snapshot that sees B sees
// A. So A was handed out before, or both come in this read: both stragglers or both fresh, by seq; or A a straggler
// and B fresh, in that order. B a straggler and A fresh is impossible, since seq(A) < seq(B) <= hot.
//
// It is flat: a read touches the rows that it returns, and one index probe per transaction that was running. Nobody's
// open transaction holds anybody else's rows back.
//
// Where stragglers fill a page, the read's snapshot is pinned: the following pages hand out the rest of the
// stragglers that the pinned snapshot sees, by seq, and nothing else, before the cursor moves on to (hot, pin.snap,
// pin.next).
type cursor struct {
	hot  int64
	snap snapshot
	next uint64
	pin  *pin
}

// pin is the snapshot of a read whose stragglers didn't fit in one page.
type pin struct {
	snap  snapshot
	next  uint64
	after int64 // the last straggler handed out
}

// origin is the cursor of a lane that has read nothing: every row is fresh.
func origin() cursor { return cursor{snap: snapshot{xmin: 1, xmax: 1}, next: 1} }

// read is what one read saw, beside the rows.
type read struct {
	snap  snapshot
	next  uint64
	drawn int64 // the last number that the sequence gave out, read after snap and before next
	bound int64 // fresh rows were looked for up to here; 0: without a bound
}

// advance returns the cursor after a read that returned stragglers and fresh rows (only their seqs matter), each
// limited to limit. With use it says how many of each are to be handed out; the rest are read again.
func (c cursor) advance(r read, stragglers, fresh []int64, limit int) (after cursor, useStragglers, useFresh int, full bool) {
	pinned := pin{snap: r.snap, next: r.next}
	if c.pin != nil {
		pinned = *c.pin
	}
	switch {
	case len(stragglers) >= limit:
		// There may be more: they come before anything fresh.
		pinned.after = stragglers[len(stragglers)-1]
		c.pin = &pinned
		return c, len(stragglers), 0, true
	case c.pin != nil:
		// The last page of pinned stragglers. What committed since is a straggler of the pinned snapshot, or fresh:
		// the next read's.
		return cursor{hot: c.hot, snap: pinned.snap, next: pinned.next}, len(stragglers), 0, true
	case len(stragglers)+len(fresh) > limit:
		useFresh = limit - len(stragglers)
		return cursor{hot: fresh[useFresh-1], snap: r.snap, next: r.next}, len(stragglers), useFresh, true
	case len(fresh) >= limit:
		return cursor{hot: fresh[len(fresh)-1], snap: r.snap, next: r.next}, len(stragglers), len(fresh), true
	default:
		// All that is visible was returned. Numbers up to drawn that weren't belong to transactions that are
		// running, and will be stragglers, or to ones that rolled back. Moving past them keeps a quiet or rolled-back
		// writer's rows from being scanned again by every read. The same goes for any number below drawn, such as the
		// bound of a lane's read.
		reached, more := r.drawn, false
		if r.bound != 0 && r.bound < r.drawn {
			reached, more = r.bound, true
		}
		return cursor{hot: max(c.hot, reached), snap: r.snap, next: r.next}, len(stragglers), len(fresh), more
	}
}

// probes returns where this cursor's stragglers are to be looked for: single transactions, and a range [from, to)
// where listing would be too long.
func (c cursor) probes() (single []uint64, from, to uint64) {
	// Each id costs an index probe of about a microsecond. The gap holds the transactions that began since the last
	// one completed, and their savepoints: a few, but for a transaction with thousands of savepoints.
	const mostListed = 512
	single = slices.Clone(c.snap.xip)
	if c.next <= c.snap.xmax {
		return single, 0, 0
	}
	if c.next-c.snap.xmax > mostListed {
		return single, c.snap.xmax, c.next
	}
	for x := c.snap.xmax; x < c.next; x++ {
		single = append(single, x)
	}
	return single, 0, 0
}

// snapshot is a pg_snapshot (PostgreSQL manual §9.27.8): everything below xmin is decided, xmax is one more than the
// last completed transaction id, and xip were running in between. It holds top-level transactions only, as does the
// column tx.
type snapshot struct {
	xmin, xmax uint64
	xip        []uint64
}

func parseSnapshot(s string) (snapshot, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return snapshot{}, fmt.Errorf("sqlstore: %.100q is not a pg_snapshot", s)
	}
	var snap snapshot
	var err error
	number := func(s string) uint64 {
		n, e := strconv.ParseUint(s, 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("sqlstore: %.100q is not a pg_snapshot: %w", strings.Join(parts, ":"), errors.Unwrap(e))
		}
		return n
	}
	snap.xmin, snap.xmax = number(parts[0]), number(parts[1])
	if parts[2] != "" {
		for _, x := range strings.Split(parts[2], ",") {
			snap.xip = append(snap.xip, number(x))
		}
	}
	return snap, err
}

func (s snapshot) String() string {
	b := strconv.AppendUint(nil, s.xmin, 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, s.xmax, 10)
	b = append(b, ':')
	for i, x := range s.xip {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}
