package postgres

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/surepost/surepost/relay"
)

func TestALanesReadMovesAsFarAsItLooked(t *testing.T) {
	start := cursor{hot: 100, snap: snap(t, "10:20:"), next: 20}
	for name, c := range map[string]struct {
		bound int64
		fresh []int64
		want  string
	}{
		"nothing of the lane up to the bound":     {140, nil, "140 true"},
		"some of it up to the bound":              {140, []int64{120}, "140 true"},
		"a full page before the bound":            {140, []int64{101, 105, 110}, "110 true"},
		"the bound lies beyond all that is drawn": {500, []int64{120}, "150 false"},
		"the bound is the last number":            {150, nil, "150 false"},
		"no row at all, and no bound":             {0, nil, "150 false"},
	} {
		after, _, _, full := start.advance(read{snap: snap(t, "11:30:"), next: 30, drawn: 150, bound: c.bound}, nil, c.fresh, 3)
		if got := fmt.Sprint(after.hot, full); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// The speed of the one lane that most have rests on its read being the plain one.
func TestOneLaneReadsWithoutAFilter(t *testing.T) {
	one := Config{}.readStatement(relay.Lane{Of: 1}, 250, false)
	if strings.Contains(one, "slot") || strings.Contains(one, "near") {
		t.Errorf("the read of lane 0 of 1 looks at slots:\n%s", one)
	}
	if several := (Config{}).readStatement(relay.Lane{Index: 2, Of: 3}, 250, true); strings.Count(several, "(slot & 1023) % 3 = 2") != 3 {
		t.Errorf("not every arm of lane 2 of 3 looks at slots:\n%s", several)
	}
}

// history is a database's transactions and a log of theirs, one row each, as the cursor's proof sees them.
type history struct {
	rnd     *rand.Rand
	next    uint64
	running []uint64
	xmax    uint64
	drawn   int64
	rows    []historyRow
}

type historyRow struct {
	seq  int64
	tx   uint64
	lane int
}

func (h *history) step(lanes int) {
	switch {
	case len(h.running) < 6 && h.rnd.IntN(2) == 0:
		h.running = append(h.running, h.next)
		h.next++
	case len(h.running) > 0 && h.rnd.IntN(2) == 0:
		h.drawn++
		h.rows = append(h.rows, historyRow{h.drawn, h.running[h.rnd.IntN(len(h.running))], h.rnd.IntN(lanes)})
	case len(h.running) > 0:
		i := h.rnd.IntN(len(h.running))
		h.xmax = max(h.xmax, h.running[i]+1)
		h.running = slices.Delete(h.running, i, i+1)
	}
}

func (h *history) snapshot() snapshot {
	s := snapshot{xmin: h.xmax, xmax: h.xmax}
	for _, x := range h.running {
		if x < h.xmax {
			s.xip = append(s.xip, x)
			s.xmin = min(s.xmin, x)
		}
	}
	return s
}

func (s snapshot) sees(tx uint64) bool { return tx < s.xmax && !slices.Contains(s.xip, tx) }

// due reports whether the row is to be handed out by a lane at the cursor, sooner or later.
func (c cursor) due(r historyRow) bool {
	single, from, to := c.probes()
	return r.seq > c.hot || slices.Contains(single, r.tx) || r.tx >= from && r.tx < to
}

// Lanes read at different times, in pages; whatever one of them has yet to hand out, a lane that begins at the oldest of
// their cursors hands out too. The order of the snapshots is found although the cursors come in any.
func TestTheOldestCursorPassesOverNothing(t *testing.T) {
	const lanes = 3
	merged, repeated := 0, 0
	for seed := range uint64(3000) {
		h := &history{rnd: rand.New(rand.NewPCG(seed, 1)), next: 3, xmax: 3}
		at := [lanes]cursor{origin(), origin(), origin()}
		read1 := func(lane int) {
			now := h.snapshot()
			limit := 1 + h.rnd.IntN(4)
			var stragglers, fresh []int64
			for _, r := range h.rows {
				switch {
				case r.lane != lane || !now.sees(r.tx):
				case r.seq > at[lane].hot:
					fresh = append(fresh, r.seq)
				case at[lane].due(r):
					stragglers = append(stragglers, r.seq)
				}
			}
			if at[lane].pin != nil { // pages of a pin are the reader's business; here they come at once
				at[lane].pin = nil
			}
			if len(stragglers) >= limit {
				limit = len(stragglers) + 1
			}
			fresh = fresh[:min(len(fresh), limit)]
			at[lane], _, _, _ = at[lane].advance(read{snap: now, next: h.next, drawn: h.drawn}, stragglers, fresh, limit)
		}
		for range 60 {
			h.step(lanes)
			if h.rnd.IntN(4) == 0 {
				read1(h.rnd.IntN(lanes))
			}
		}
		from := at
		h.rnd.Shuffle(lanes, func(i, j int) { from[i], from[j] = from[j], from[i] })
		c := oldest(from[:])
		merged++
		for _, r := range h.rows {
			switch {
			case at[r.lane].due(r) && !c.due(r):
				t.Fatalf("seed %d: row %+v is due at %+v, and passed over by %+v", seed, r, at[r.lane], c)
			case !at[r.lane].due(r) && c.due(r):
				repeated++
			}
		}
	}
	if repeated == 0 {
		t.Errorf("of %d merged cursors none was older than another's: the test doesn't bite", merged)
	}
}
