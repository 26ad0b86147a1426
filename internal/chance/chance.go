// Package chance is where the engine's randomness comes from: the jitter of its pauses, and with which lane it begins. It is
// math/rand/v2's, unless a simulation has put a seed into the context, from which everything follows then.
package chance

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
)

// Source is a source of randomness. A nil Source is everybody's, and safe for concurrent use; one with a seed belongs to one
// goroutine at a time.
type Source struct{ rnd *rand.Rand }

type contextKey struct{}

// With returns a context in which everything follows from seed.
func With(ctx context.Context, seed uint64) context.Context {
	return context.WithValue(ctx, contextKey{}, seed)
}

// From returns a source for what it is named after, with the seed of ctx: two of one name and seed give the same numbers. It
// is nil if ctx has none.
func From(ctx context.Context, name string) *Source {
	seed, ok := ctx.Value(contextKey{}).(uint64)
	if !ok {
		return nil
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return &Source{rand.New(rand.NewPCG(seed, h.Sum64()))}
}

// IntN returns a number in [0,n).
func (s *Source) IntN(n int) int { return int(s.Int64N(int64(n))) }

// Int64N returns a number in [0,n).
func (s *Source) Int64N(n int64) int64 {
	if s == nil {
		return rand.Int64N(n)
	}
	return s.rnd.Int64N(n)
}

// Float64 returns a number in [0,1).
func (s *Source) Float64() float64 {
	if s == nil {
		return rand.Float64()
	}
	return s.rnd.Float64()
}
