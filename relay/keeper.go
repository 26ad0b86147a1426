package relay

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// keeper renews a lease from a goroutine of its own and ends a context when the lease can't be relied on any more.
type keeper struct {
	store      Store
	lease      Lease
	ttl        time.Duration
	validUntil atomic.Int64 // nanoseconds of the monotonic clock since start
	start      time.Time
	told       func(error) // what came of each renewal
}

// keep returns a keeper for a lease that was asked for at asked, and starts renewing it. The context that it returns
// ends, with ErrLeaseLost as its cause, when another relay may have the lane. The caller cancels ctx to end it, and
// waits for done.
func keep(ctx context.Context, store Store, lease Lease, ttl time.Duration, asked time.Time, told func(error)) (k *keeper, held context.Context, done <-chan struct{}) {
	k = &keeper{store: store, lease: lease, ttl: ttl, start: asked, told: told}
	k.validUntil.Store(int64(ttl))
	held, lost := context.WithCancelCause(ctx)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		lost(k.run(held))
	}()
	return k, held, finished
}

// valid reports whether the lease is certainly still held. The local clock only bounds trust: it counts from before
// the request, and the store's clock from after it, so the lease ends here first. A process that was stopped past its
// lease finds out before it sends anything.
func (k *keeper) valid() bool {
	return int64(time.Since(k.start)) < k.validUntil.Load()
}

func (k *keeper) run(ctx context.Context) error {
	every := k.ttl / 3
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		asked := time.Since(k.start)
		left := time.Duration(k.validUntil.Load()) - asked
		if left <= 0 {
			return ErrLeaseLost
		}
		attempt, cancel := context.WithTimeout(ctx, left)
		_, err := within(attempt, errorOnly(func(ctx context.Context) error { return k.store.Renew(ctx, k.lease, k.ttl) }), nil)
		cancel()
		switch {
		case err == nil:
			k.validUntil.Store(int64(asked + k.ttl))
			k.told(nil)
			timer.Reset(every)
		case errors.Is(err, ErrLeaseLost):
			k.told(err)
			return ErrLeaseLost
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			k.told(err)
			timer.Reset(every / 10)
		}
	}
}
