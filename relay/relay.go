package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Relay publishes a log's events to a broker. One Run at a time; the other methods are safe for concurrent use.
type Relay struct {
	store     Store
	publisher Publisher
	config    Config
	lane      Lane
	wake      chan struct{}
	vitals    vitals

	mu      sync.Mutex
	report  Report
	running bool
}

// New returns a relay from the store to the publisher.
func New(store Store, publisher Publisher, config Config) (*Relay, error) {
	config = config.withDefaults()
	err := config.validate()
	if store == nil {
		err = errors.Join(err, errors.New("relay: no store: pass a pgxstore.Store or a sqlstore.Store"))
	}
	if publisher == nil {
		err = errors.Join(err, errors.New("relay: no publisher: pass an amqp.Publisher"))
	}
	if w, ok := publisher.(interface{ Window() int }); ok && w.Window() < config.WindowEvents {
		err = errors.Join(err, fmt.Errorf("relay: Config.WindowEvents is %d, and the publisher allows %d events without an outcome: lower the one or raise the other",
			config.WindowEvents, w.Window()))
	}
	if err != nil {
		return nil, err
	}
	lane := Lane{Destination: config.Destination, Index: 0, Of: 1}
	return &Relay{
		store: store, publisher: publisher, config: config, lane: lane,
		wake:   make(chan struct{}, 1),
		vitals: vitals{signs: Vitals{LeaseTTL: config.LeaseTTL}},
		report: Report{Lane: lane, Owner: config.Owner},
	}, nil
}

// Wake tells the relay that events may have been committed, so that it need not wait for its next poll. It never
// blocks. Services that run their relay themselves call it after a commit.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Check verifies that the store is ready and that the broker can be published to, and reports everything that isn't.
// Call it before Run to find a wrong configuration at once: Run itself takes a server that doesn't answer for an
// outage, and waits.
func (r *Relay) Check(ctx context.Context) error {
	return errors.Join(r.store.Check(ctx), r.CheckBroker(ctx))
}

// Run publishes until ctx ends: it waits for the lane's lease, holds it, and begins again after every failure of the
// store or the broker, for as long as it takes. When ctx ends it settles what it has read, stores how far it came,
// releases the lease and returns nil. It returns an error only if something is wrong that time doesn't mend (it
// matches ErrHalt, and says what to do), such as tables that were not migrated.
func (r *Relay) Run(ctx context.Context) (err error) {
	r.mu.Lock()
	if r.running {
		r.mu.Unlock()
		return errors.New("relay: Run is running already: make another Relay to run a standby")
	}
	r.running = true
	r.mu.Unlock()
	ended := r.vitals.began(ctx)
	defer func() {
		ended(err)
		r.setState(Stopped)
		r.mu.Lock()
		r.running = false
		r.mu.Unlock()
	}()

	defer r.chores(ctx)()
	log := r.config.Logger.With("lane", r.lane.String(), "owner", r.config.Owner)
	pause := backoff{min: r.config.BackoffMin, max: r.config.BackoffMax}
	for {
		began := time.Now()
		err := r.term(ctx, log)
		var held *LeaseHeldError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrHalt):
			log.Error("the lane is halted", "err", err)
			return err
		case errors.As(err, &held):
			// A standby looks again when the lease may have run out, and now and then before that in case it is
			// released.
			r.setState(Standby)
			pause.reset()
			sleep(ctx, min(max(held.Expires, 50*time.Millisecond), r.config.LeaseTTL/5)+rand.N(50*time.Millisecond))
		default:
			r.setState(Standby)
			r.failed(log, "not leading", err)
			var given *givenAwayError
			if errors.As(err, &given) { // longer than a standby takes to look again, or this relay would be the first
				sleep(ctx, r.config.LeaseTTL/2)
				pause.reset()
				continue
			}
			if time.Since(began) > r.config.LeaseTTL {
				pause.reset()
			}
			sleep(ctx, pause.next())
		}
	}
}

// term is one holding of the lease.
func (r *Relay) term(ctx context.Context, log *slog.Logger) error {
	attempt, cancel := context.WithTimeout(ctx, r.config.LeaseTTL)
	defer cancel()
	if _, err := within(attempt, errorOnly(r.store.Check), nil); err != nil {
		r.vitals.store(err)
		return err
	}
	asked := time.Now()
	lease, err := within(attempt, func(ctx context.Context) (Lease, error) {
		return r.store.Acquire(ctx, r.lane, r.config.Owner, r.config.LeaseTTL)
	}, nil) // a lease that comes late runs out
	r.vitals.store(err)
	if err != nil {
		return err
	}
	log = log.With("epoch", lease.Epoch)
	log.Info("leading")
	r.lead(lease.Epoch)

	// The lease outlives ctx for as long as it takes to settle what was read.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	keeper, held, kept := keep(life, r.store, lease, r.config.LeaseTTL, asked, func(err error) { r.renewed(log, err) })
	defer func() {
		end()
		<-kept
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout) // a courtesy to standbys, which wait for the expiry otherwise
		defer cancel()
		_, err := within(release, errorOnly(func(ctx context.Context) error { return r.store.Release(ctx, lease) }), nil)
		if err != nil {
			log.Warn("the lease wasn't released: it runs out by itself", "err", err)
		}
	}()

	suspects := newSuspects()
	pause := backoff{min: r.config.BackoffMin, max: r.config.BackoffMax}
	failing := time.Time{} // since when, without any progress in between
	for {
		before := r.Report().Published
		err := r.run(ctx, held, lease, keeper, suspects, log)
		switch {
		case ctx.Err() != nil && held.Err() == nil:
			return nil
		case held.Err() != nil:
			return context.Cause(held)
		case errors.Is(err, ErrHalt), errors.Is(err, ErrLeaseLost):
			return err
		}
		r.failed(log, "beginning again from the checkpoint", err)
		if failing.IsZero() || r.Report().Published != before {
			failing = time.Now()
			pause.reset()
		}
		if time.Since(failing) > 2*r.config.LeaseTTL {
			return &givenAwayError{err}
		}
		wait, cancel := context.WithCancel(held)
		stop := context.AfterFunc(ctx, cancel)
		sleep(wait, pause.next())
		stop()
		cancel()
	}
}

// givenAwayError says that the lane was left to others after failing for long.
type givenAwayError struct{ err error }

func (e *givenAwayError) Error() string {
	return "relay: giving the lane to another relay, which may reach what this one can't: " + e.err.Error()
}

func (e *givenAwayError) Unwrap() error { return e.err }

func (r *Relay) failed(log *slog.Logger, what string, err error) {
	log.Warn(what, "err", err)
	r.mu.Lock()
	r.report.LastError, r.report.LastErrorAt = err, time.Now()
	r.mu.Unlock()
	if h := r.config.Hooks.OnError; h != nil {
		h(r.lane, err)
	}
}

// backoff is a pause that doubles, with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"):
// clients that failed together don't come back together.
type backoff struct {
	min, max time.Duration
	tries    int
}

func (b *backoff) next() time.Duration {
	d := doubled(b.min, b.max, b.tries)
	b.tries++
	return b.min/2 + rand.N(d)
}

// doubled returns least, doubled as often as times says, and at most most.
func doubled(least, most time.Duration, times int) time.Duration {
	d := least << min(times, 20)
	if d > most || d <= 0 { // the shift may overflow
		return most
	}
	return d
}

func (b *backoff) reset() { b.tries = 0 }

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
