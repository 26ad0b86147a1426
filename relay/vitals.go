package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Vitals are the signs of life of a relay, by which package relay/health judges it.
type Vitals struct {
	StartedAt time.Time // when Run was called last; zero: never
	Running   bool      // Run hasn't returned
	Stopping  bool      // Run's context has ended
	Err       error     // why Run returned, if not because its context ended

	// DecidedAt is when one of the relay's loops last went round, that for which it is longest ago: those that publish a
	// lane, which do so at least once a second, and the one that looks after the lanes. It lies ahead as long as that one
	// waits on purpose, or for the store. Zero while Run doesn't run.
	DecidedAt time.Time

	Store  Contact
	Broker Contact // of the publishing lanes: a standby doesn't talk to the broker

	Sessions int // with the broker, that are open
}

// Contact is how the relay and a server stand.
type Contact struct {
	At  time.Time // of the last answer, or of the opening of the last session; zero: none yet
	Err error     // what came instead since then
}

// vitals keep a relay's Vitals. All methods are safe for concurrent use.
type vitals struct {
	mu     sync.Mutex
	signs  Vitals
	pulses map[*pulse]bool
}

// began notes that Run was called with ctx. The function that it returns notes how Run returned.
func (v *vitals) began(ctx context.Context) (ended func(error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.signs.StartedAt, v.signs.Running, v.signs.Stopping, v.signs.Err = time.Now(), true, false, nil
	watching := context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.signs.Stopping = v.signs.Running
	})
	return func(err error) {
		watching()
		v.mu.Lock()
		defer v.mu.Unlock()
		v.signs.Running, v.signs.Stopping, v.signs.Err = false, false, err
	}
}

// heard notes what a server answered, or that it didn't.
func (v *vitals) heard(from *Contact, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled): // nobody waited for an answer
	case err == nil || isAnswer(err):
		from.At, from.Err = time.Now(), nil
	default:
		from.Err = err
	}
}

func (v *vitals) store(err error)  { v.heard(&v.signs.Store, err) }
func (v *vitals) broker(err error) { v.heard(&v.signs.Broker, err) }

// session notes that a session was opened, until end is called.
func (v *vitals) session() (end func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.signs.Sessions++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.signs.Sessions--
	}
}

// isAnswer reports whether an error shows that the server is there.
func isAnswer(err error) bool {
	return errors.As(err, new(*LeaseHeldError)) || errors.As(err, new(*LanesChangedError)) || errors.As(err, new(*OwnerTakenError)) ||
		errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrHalt) || errors.Is(err, ErrRefused)
}

// pulse is how a loop shows that it goes round.
type pulse struct {
	start time.Time
	last  atomic.Int64 // nanoseconds since start, by the monotonic clock
}

func (p *pulse) beat(now time.Time) { p.last.Store(int64(now.Sub(p.start))) }

// begin returns the pulse of a loop that begins now, until end.
func (v *vitals) begin() *pulse {
	p := &pulse{start: time.Now()}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pulses == nil {
		v.pulses = map[*pulse]bool{}
	}
	v.pulses[p] = true
	return p
}

func (v *vitals) end(p *pulse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.pulses, p)
}

func (v *vitals) read() Vitals {
	v.mu.Lock()
	defer v.mu.Unlock()
	signs := v.signs
	for p := range v.pulses {
		at := p.start.Add(time.Duration(p.last.Load()))
		if signs.DecidedAt.IsZero() || at.Before(signs.DecidedAt) {
			signs.DecidedAt = at
		}
	}
	return signs
}

// CheckBroker verifies that the broker can be published to, as Check does: it opens a session and closes it. Package
// relay/health lets a standby do so now and then.
func (r *Relay) CheckBroker(ctx context.Context) error {
	session, err := r.publisher.Open(ctx)
	if err != nil {
		return err
	}
	return session.Close(ctx)
}

// renewed takes in what came of a renewal of the lease.
func (l *leader) renewed(err error) {
	l.vitals.store(err)
	if h := l.config.Hooks.OnRenew; h != nil {
		h(l.lane, err)
	}
	if err != nil && !errors.Is(err, ErrLeaseLost) {
		l.failed(l.lane, l.log, "the lease couldn't be renewed yet", err)
	}
}
