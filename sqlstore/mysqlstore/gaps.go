package mysqlstore

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// span is a range of numbers, both ends included.
type span struct{ from, to int64 }

// gap is a span of numbers that this log hasn't seen and has read past: of transactions that are open or have rolled
// back.
type gap struct {
	span
	since time.Time
}

// maxGaps bounds the ranges of a statement. Where there are more, neighbours are joined: that is as correct, and only
// means going over rows in between that are in hand or not purged yet.
const maxGaps = 64

// gaps are in order and don't touch.
type gaps []gap

// passed notes that the reader goes from hot on to seq, which it has seen.
func (g *gaps) passed(hot, seq int64, now time.Time) {
	if seq > hot+1 {
		*g = append(*g, gap{span{hot + 1, seq - 1}, now})
	}
}

// seen takes a number out of its gap.
func (g *gaps) seen(seq int64) {
	i, found := slices.BinarySearchFunc(*g, seq, func(gap gap, seq int64) int {
		switch {
		case gap.to < seq:
			return -1
		case gap.from > seq:
			return 1
		}
		return 0
	})
	if !found {
		return
	}
	old := (*g)[i]
	var left []gap
	if old.from < seq {
		left = append(left, gap{span{old.from, seq - 1}, old.since})
	}
	if seq < old.to {
		left = append(left, gap{span{seq + 1, old.to}, old.since})
	}
	*g = slices.Replace(*g, i, i+1, left...)
}

// join joins gaps, the oldest first and two by two, until there are few enough.
func (g *gaps) join() {
	for i := 0; len(*g) > maxGaps; i = (i + 1) % (len(*g) - 1) {
		a, b := (*g)[i], (*g)[i+1]
		since := a.since
		if b.since.After(since) {
			since = b.since
		}
		*g = slices.Replace(*g, i, i+2, gap{span{a.from, b.to}, since})
	}
}

// spans returns the gaps' numbers.
func (g gaps) spans() []span {
	spans := make([]span, len(g))
	for i := range g {
		spans[i] = g[i].span
	}
	return spans
}

// lowest returns the lowest number of a gap.
func (g gaps) lowest() int64 {
	if len(g) == 0 {
		return math.MaxInt64
	}
	return g[0].from
}

// within writes a condition for seq to be in one of the spans, of which there is at least one.
func within(spans []span) string {
	var b strings.Builder
	for i, s := range spans {
		if i > 0 {
			b.WriteString(" OR ")
		}
		b.WriteString("seq BETWEEN " + strconv.FormatInt(s.from, 10) + " AND " + strconv.FormatInt(s.to, 10))
	}
	return b.String()
}
