package model

import "cmp"

// Snapshot is a pg_snapshot: Xmax is one more than the highest transaction id that has ended, Xip has a bit for each below it that
// hasn't.
type Snapshot struct{ Xmax, Xip uint8 }

// sees reports whether what the transaction did is visible, if it committed.
func (s Snapshot) sees(xid uint8) bool { return xid < s.Xmax && s.Xip&bit(xid) == 0 }

func bit(n uint8) uint8 { return 1 << (n & 7) }

// Cursor is sqlstore/internal/postgres.cursor.
type Cursor struct {
	Hot  uint8
	Snap Snapshot
	Next uint8
	Pin  Pin
}

// Pin is the snapshot of a read whose stragglers didn't fit in one page; the zero value is none.
type Pin struct {
	Snap  Snapshot
	Next  uint8 // 0: there is no pin
	After uint8
}

// Origin is the cursor of a lane that has read nothing.
func Origin() Cursor { return Cursor{Snap: Snapshot{Xmax: 1}, Next: 1} }

// Read is what one read saw, beside the rows.
type Read struct {
	Snap  Snapshot
	Next  uint8
	Drawn uint8
	Bound uint8
}

// Advance is cursor.advance.
func (c Cursor) Advance(r Read, stragglers, fresh []uint8, limit int) (after Cursor, useStragglers, useFresh int, full bool) {
	pinned := Pin{Snap: r.Snap, Next: r.Next}
	if c.Pin.Next != 0 {
		pinned = c.Pin
	}
	switch {
	case len(stragglers) >= limit:
		pinned.After = stragglers[len(stragglers)-1]
		c.Pin = pinned
		return c, len(stragglers), 0, true
	case c.Pin.Next != 0:
		return Cursor{Hot: c.Hot, Snap: pinned.Snap, Next: pinned.Next}, len(stragglers), 0, true
	case len(stragglers)+len(fresh) > limit:
		useFresh = limit - len(stragglers)
		return Cursor{Hot: fresh[useFresh-1], Snap: r.Snap, Next: r.Next}, len(stragglers), useFresh, true
	case len(fresh) >= limit:
		return Cursor{Hot: fresh[len(fresh)-1], Snap: r.Snap, Next: r.Next}, len(stragglers), len(fresh), true
	}
	reached, more := r.Drawn, false
	if r.Bound != 0 && r.Bound < r.Drawn {
		reached, more = r.Bound, true
	}
	return Cursor{Hot: max(c.Hot, reached), Snap: r.Snap, Next: r.Next}, len(stragglers), len(fresh), more
}

// Probed reports whether the read that follows this cursor looks for stragglers of the transaction: cursor.probes.
func (c Cursor) Probed(xid uint8) bool {
	return c.Snap.Xip&bit(xid) != 0 || xid >= c.Snap.Xmax && xid < c.Next
}

// Oldest is lanes.go's oldest: where new lanes begin.
func Oldest(cursors []Cursor) Cursor {
	first, hot := cursors[0], cursors[0].Hot
	for _, c := range cursors[1:] {
		if older(c, first) < 0 {
			first = c
		}
		hot = min(hot, c.Hot)
	}
	return Cursor{Hot: hot, Snap: first.Snap, Next: first.Next}
}

func older(a, b Cursor) int {
	return cmp.Or(cmp.Compare(a.Snap.Xmax, b.Snap.Xmax), cmp.Compare(ones(b.Snap.Xip), ones(a.Snap.Xip)), cmp.Compare(b.Next, a.Next))
}

// newest is what oldest mustn't be.
func newest(cursors []Cursor) Cursor {
	last, hot := cursors[0], cursors[0].Hot
	for _, c := range cursors[1:] {
		if older(last, c) < 0 {
			last = c
		}
		hot = max(hot, c.Hot)
	}
	return Cursor{Hot: hot, Snap: last.Snap, Next: last.Next}
}

func ones(b uint8) (n int) {
	for ; b != 0; b &= b - 1 {
		n++
	}
	return n
}
