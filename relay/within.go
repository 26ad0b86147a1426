package relay

import (
	"context"
	"time"
)

// abandonAfter is how long a call may take to notice that its context has ended, before it is left to itself.
const abandonAfter = 500 * time.Millisecond

// within runs call and waits for it no longer than until ctx ends, whatever call does: some database drivers don't
// interrupt a read from a dead connection. A result that comes later is given to late, which frees what it holds.
func within[T any](ctx context.Context, call func(context.Context) (T, error), late func(T)) (T, error) {
	type answer struct {
		result T
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := call(ctx)
		answers <- answer{result, err}
	}()
	select {
	case a := <-answers:
		return a.result, a.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(abandonAfter)
	defer grace.Stop()
	select {
	case a := <-answers:
		return a.result, a.err
	case <-grace.C:
	}
	go func() {
		if a := <-answers; a.err == nil && late != nil {
			late(a.result)
		}
	}()
	var none T
	return none, context.Cause(ctx)
}

// errorOnly adapts a call without a result to within.
func errorOnly(call func(context.Context) error) func(context.Context) (struct{}, error) {
	return func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) }
}
