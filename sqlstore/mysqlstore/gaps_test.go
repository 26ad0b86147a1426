package mysqlstore

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// Whatever is seen in whatever order, the gaps hold all that was read past and not seen; as long as they needn't be
// joined, they hold nothing else.
func TestGapsHoldWhatWasReadPast(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var g gaps
		hot := int64(0)
		unseen := map[int64]bool{}
		now := time.Unix(1000, 0)
		for range 200 {
			now = now.Add(time.Second)
			if rnd.IntN(2) == 0 {
				seq := hot + 1 + int64(rnd.IntN(4))
				for n := hot + 1; n < seq; n++ {
					unseen[n] = true
				}
				g.passed(hot, seq, now)
				hot = seq
			} else if hot > 0 {
				seq := 1 + rnd.Int64N(hot)
				delete(unseen, seq)
				g.seen(seq)
			}
			if seed%2 == 0 {
				g.join()
			}
			held := map[int64]bool{}
			last := int64(-1)
			for _, gap := range g {
				if gap.from > gap.to || gap.from <= last || gap.to > hot {
					t.Fatalf("seed %d: %v up to %d", seed, g, hot)
				}
				last = gap.to
				for n := gap.from; n <= gap.to; n++ {
					held[n] = true
				}
			}
			for n := range unseen {
				if !held[n] {
					t.Fatalf("seed %d: %d was read past and is in no gap of %v", seed, n, g)
				}
			}
			if seed%2 == 1 && len(held) != len(unseen) {
				t.Fatalf("seed %d: %v holds %d numbers, want %d", seed, g, len(held), len(unseen))
			}
			if seed%2 == 0 && len(g) > maxGaps {
				t.Fatalf("seed %d: %d gaps after joining", seed, len(g))
			}
		}
	}
}

// A gap that was joined is as young as its younger part: it isn't closed before either could be.
func TestAJoinedGapIsAsYoungAsItsYoungerPart(t *testing.T) {
	var g gaps
	for n := range int64(3 * maxGaps) {
		g.passed(2*n, 2*n+2, time.Unix(n, 0))
	}
	g.join()
	for n := range int64(3 * maxGaps) {
		i := slices.IndexFunc(g, func(gap gap) bool { return gap.from <= 2*n+1 && 2*n+1 <= gap.to })
		if i < 0 || g[i].since.Before(time.Unix(n, 0)) {
			t.Fatalf("number %d is in gap %d of %v", 2*n+1, i, g)
		}
	}
}

// MariaDB's snapshots may show an event without the one of its key that was committed before. The second look finds that
// one; then the event isn't handed out, nor a later one of its key.
func TestAnEventBeforeWhichAnotherTurnsUpIsHeldBack(t *testing.T) {
	entry := func(seq int64, key string) relay.Entry { return relay.Entry{Seq: seq, Event: surepost.Event{Key: key}} }
	found := []relay.Entry{entry(3, "a"), entry(5, "b"), entry(6, ""), entry(7, "a"), entry(9, "c"), entry(11, "a")}
	var got []int64
	for _, e := range confirm(found, map[string]int64{"a": 4, "c": 10, "d": 1}) {
		got = append(got, e.Seq)
	}
	if want := []int64{3, 5, 6, 9}; !slices.Equal(got, want) {
		t.Errorf("handed out %v, want %v", got, want)
	}
}
