package chance

import (
	"context"
	"testing"
)

func drawn(s *Source) (list [8]int64) {
	for i := range list {
		list[i] = s.Int64N(1 << 40)
	}
	return list
}

func TestEverythingFollowsFromTheSeed(t *testing.T) {
	seeded := With(context.Background(), 7)
	one := drawn(From(seeded, "a"))
	if drawn(From(seeded, "a")) != one {
		t.Error("the same seed and name gave other numbers")
	}
	if drawn(From(seeded, "b")) == one || drawn(From(With(seeded, 8), "a")) == one {
		t.Error("another name, or another seed, gave the same numbers")
	}
}

func TestWithoutASeedNothingIsForeseeable(t *testing.T) {
	s := From(context.Background(), "a")
	one, other := drawn(s), drawn(s)
	if s != nil || one == other {
		t.Error("a source without a seed gives the same numbers again")
	}
	if f, n := s.Float64(), s.IntN(3); f < 0 || f >= 1 || n < 0 || n > 2 {
		t.Errorf("out of range: %v, %d", f, n)
	}
}
