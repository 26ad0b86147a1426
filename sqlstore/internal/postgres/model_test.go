package postgres

import (
	"slices"
	"testing"

	"github.com/surepost/surepost/internal/model"
)

// The explorer of internal/model proves something about cursors only if its cursors are these. So for every small input both must
// say the same.
func TestTheModelsCursorIsThisOne(t *testing.T) {
	const ids, numbers = 4, 4
	var snaps []model.Snapshot
	for xmax := uint8(1); xmax <= ids; xmax++ {
		for xip := range uint8(1 << ids) {
			if xip&1 == 0 && xip>>xmax == 0 && xip&(1<<(xmax-1)) == 0 { // running ones are below xmax, and the one below it has ended
				snaps = append(snaps, model.Snapshot{Xmax: xmax, Xip: xip})
			}
		}
	}
	var cursors []model.Cursor
	for _, snap := range snaps {
		for next := snap.Xmax; next <= ids+1; next++ {
			for hot := range uint8(numbers) {
				c := model.Cursor{Hot: hot, Snap: snap, Next: next}
				cursors = append(cursors, c)
				if hot > 1 && next < ids {
					c.Pin = model.Pin{Snap: model.Snapshot{Xmax: next, Xip: 0}, Next: next + 1, After: hot - 1}
					cursors = append(cursors, c)
				}
			}
		}
	}
	checked := 0
	for _, c := range cursors {
		mine := cursorOf(c)
		single, from, to := mine.probes()
		for id := uint8(1); id <= ids+2; id++ {
			if got, want := c.Probed(id), slices.Contains(single, uint64(id)) || uint64(id) >= from && uint64(id) < to; got != want {
				t.Fatalf("%v: the model looks for stragglers of transaction %d: %t", c, id, got)
			}
		}
		for limit := 1; limit <= 3; limit++ {
			for nStragglers := 0; nStragglers <= limit; nStragglers++ {
				for nFresh := 0; nFresh <= limit; nFresh++ {
					for _, r := range []model.Read{
						{Snap: model.Snapshot{Xmax: 3, Xip: 2}, Next: 5, Drawn: c.Hot + 4},
						{Snap: model.Snapshot{Xmax: 3, Xip: 2}, Next: 5, Drawn: c.Hot + 4, Bound: c.Hot + 3},
						{Snap: model.Snapshot{Xmax: 4, Xip: 0}, Next: 4, Drawn: c.Hot + 3, Bound: c.Hot + 5},
						{Snap: model.Snapshot{Xmax: 4, Xip: 0}, Next: 4, Drawn: c.Hot},
					} {
						stragglers, fresh := []uint8{1, 2, 3}[:nStragglers], []uint8{c.Hot + 1, c.Hot + 2, c.Hot + 3}[:nFresh]
						after, us, uf, full := c.Advance(r, stragglers, fresh, limit)
						saw := read{snap: snapOf(r.Snap), next: uint64(r.Next), drawn: int64(r.Drawn), bound: int64(r.Bound)}
						wantAfter, wantUS, wantUF, wantFull := mine.advance(saw, wide(stragglers), wide(fresh), limit)
						if !sameCursor(cursorOf(after), wantAfter) || us != wantUS || uf != wantUF || full != wantFull {
							t.Fatalf("%v advances by %+v (%v, %v, limit %d) to %v %d %d %t, in the model to %v %d %d %t",
								mine, r, stragglers, fresh, limit, wantAfter, wantUS, wantUF, wantFull, after, us, uf, full)
						}
						checked++
					}
				}
			}
		}
	}
	for _, a := range cursors {
		for _, b := range cursors {
			got, want := model.Oldest([]model.Cursor{a, b}), oldest([]cursor{cursorOf(a), cursorOf(b)})
			if !sameCursor(cursorOf(got), want) {
				t.Fatalf("the oldest of %v and %v is %v, in the model %v", a, b, want, got)
			}
			checked++
		}
	}
	if !sameCursor(cursorOf(model.Origin()), origin()) {
		t.Error("the model's lanes begin elsewhere")
	}
	t.Logf("%d comparisons, %d cursors", checked, len(cursors))
}

func cursorOf(c model.Cursor) cursor {
	mine := cursor{hot: int64(c.Hot), snap: snapOf(c.Snap), next: uint64(c.Next)}
	if c.Pin.Next != 0 {
		mine.pin = &pin{snap: snapOf(c.Pin.Snap), next: uint64(c.Pin.Next), after: int64(c.Pin.After)}
	}
	return mine
}

func snapOf(s model.Snapshot) snapshot {
	mine := snapshot{xmin: uint64(s.Xmax), xmax: uint64(s.Xmax)}
	for id := uint64(1); id < mine.xmax; id++ {
		if s.Xip&(1<<id) != 0 {
			mine.xmin = min(mine.xmin, id)
			mine.xip = append(mine.xip, id)
		}
	}
	return mine
}

// sameCursor leaves out xmin, which nothing looks at.
func sameCursor(a, b cursor) bool {
	if (a.pin == nil) != (b.pin == nil) {
		return false
	}
	if a.pin != nil && (!sameSnap(a.pin.snap, b.pin.snap) || a.pin.next != b.pin.next || a.pin.after != b.pin.after) {
		return false
	}
	return a.hot == b.hot && a.next == b.next && sameSnap(a.snap, b.snap)
}

func sameSnap(a, b snapshot) bool { return a.xmax == b.xmax && slices.Equal(a.xip, b.xip) }

func wide(numbers []uint8) []int64 {
	list := make([]int64, len(numbers))
	for i, n := range numbers {
		list[i] = int64(n)
	}
	return list
}
