package relay

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/surepost/surepost/internal/chance"
)

// leader is the relay as it publishes one lane, for as long as it holds the lane's lease.
type leader struct {
	*Relay
	lane  Lane
	lease Lease
	asked time.Time // for the lease
	log   *slog.Logger
	wake  chan struct{}

	chance *chance.Source

	stop    context.CancelFunc      // ends it in good order
	abandon context.CancelCauseFunc // ends it at once: the lease is lost
	failing atomic.Bool             // without any progress in between

	// Of the supervisor.
	ending bool  // it was asked to
	err    error // why it ended
}

// lead publishes until ctx ends, and then settles what was read and releases the lease, or until life ends or the lease is
// lost.
func (l *leader) lead(ctx, life context.Context) error {
	l.log.Info("leading")
	l.setState(l.lane, Leading, l.lease.Epoch)

	// The lease outlives ctx for as long as it takes to settle what was read.
	life, end := context.WithCancel(life)
	defer end()
	keeper, held, kept := keep(life, l.store, l.lease, l.config.LeaseTTL, l.asked, l.renewed)
	defer func() {
		end()
		<-kept
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout) // a courtesy to others, which wait for the expiry otherwise
		defer cancel()
		_, err := within(release, errorOnly(func(ctx context.Context) error { return l.store.Release(ctx, l.lease) }), nil)
		if err != nil {
			l.log.Warn("the lease wasn't released: it runs out by itself", "err", err)
		}
	}()

	suspects := newSuspects()
	pause := backoff{min: l.config.BackoffMin, max: l.config.BackoffMax, chance: l.chance}
	failing := time.Time{} // since when, without any progress in between
	for {
		before := l.published()
		err := l.run(ctx, held, l.lease, keeper, suspects, l.log)
		switch {
		case ctx.Err() != nil && held.Err() == nil:
			return nil
		case held.Err() != nil:
			return context.Cause(held)
		case errors.Is(err, ErrHalt), errors.Is(err, ErrLeaseLost), errors.Is(err, errDone):
			return err
		}
		l.failed(l.lane, l.log, "beginning again from the checkpoint", err)
		if failing.IsZero() || l.published() != before {
			failing = time.Now()
			pause.reset()
		}
		l.failing.Store(true)
		if time.Since(failing) > 2*l.config.LeaseTTL {
			return &givenAwayError{err}
		}
		wait, cancel := context.WithCancel(held)
		stop := context.AfterFunc(ctx, cancel)
		sleep(wait, pause.next())
		stop()
		cancel()
	}
}

// published returns how many events of the lane were confirmed.
func (l *leader) published() (n int64) {
	l.update(func(rp *LaneReport) { n = rp.Published })
	return n
}

// update changes the lane's report.
func (l *leader) update(change func(rp *LaneReport)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.lanes[l.lane])
}

// givenAwayError says that the lane was left to others after failing for long.
type givenAwayError struct{ err error }

func (e *givenAwayError) Error() string {
	return "relay: giving the lane to another relay, which may reach what this one can't: " + e.err.Error()
}

func (e *givenAwayError) Unwrap() error { return e.err }
