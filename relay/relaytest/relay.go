package relaytest

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// patience is how long a step waits for what must happen before it fails the test.
const patience = 30 * time.Second

// Relay is a relay.Relay that takes one step at a time: each event waits at the broker until the test decides its fate. It
// is used by one goroutine, the test's; a step that can't be taken fails the test at once. It ends with the test.
type Relay struct {
	// Publisher is the broker, to block and to stop it, and to see what it took. The fates of the events are the steps'.
	Publisher *Publisher

	t        testing.TB
	store    relay.Store
	config   relay.Config
	arrivals chan arrival
	returns  map[int64]int // how often an event was returned, by seq
	running  *process      // nil: not started, or crashed
}

// process is one life of a relay.
type process struct {
	relay *relay.Relay
	store *store
	end   context.CancelFunc
	done  chan struct{}
	err   error // of Run; written before done is closed
}

// arrival is an event at the broker's door.
type arrival struct {
	session *session
	entry   relay.Entry
	answer  chan Fate
}

// New returns a relay on the store. It starts with its first step.
func New(t testing.TB, store relay.Store) *Relay {
	t.Helper()
	return NewWithConfig(t, store, relay.Config{})
}

// NewWithConfig returns a relay with a configuration. What it leaves empty is chosen such that steps are small and quick: a
// window and a page of one event, a checkpoint after each, pauses of milliseconds.
//
// Config.Owner stays the same when the relay is started again after a crash, so that it gets its lease back at once. A relay of
// another name would have to wait until the lease has run out.
func NewWithConfig(t testing.TB, store relay.Store, config relay.Config) *Relay {
	t.Helper()
	config.Owner = cmp.Or(config.Owner, "relaytest-"+surepost.NewID())
	config.WindowEvents = cmp.Or(config.WindowEvents, 1)
	config.PageEvents = cmp.Or(config.PageEvents, 1)
	config.CheckpointInterval = cmp.Or(config.CheckpointInterval, time.Nanosecond)
	config.PollBusy = cmp.Or(config.PollBusy, time.Millisecond)
	config.PollIdle = cmp.Or(config.PollIdle, max(config.PollBusy, 10*time.Millisecond))
	config.BackoffMin = cmp.Or(config.BackoffMin, time.Millisecond)
	config.BackoffMax = cmp.Or(config.BackoffMax, max(config.BackoffMin, 10*time.Millisecond))
	config.UnroutableTries = cmp.Or(config.UnroutableTries, 6)
	config.Destination = cmp.Or(config.Destination, relay.DefaultDestination)
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	r := &Relay{
		Publisher: NewPublisher(), t: t, store: store, config: config,
		arrivals: make(chan arrival), returns: map[int64]int{},
	}
	r.Publisher.decide = r.decide
	if _, err := relay.New(store, r.Publisher, config); err != nil {
		t.Fatalf("relaytest: %v", err)
	}
	r.config.Retention = 0 // by steps, nothing is removed: the relay's store hides that it may be able to
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("relaytest: the relay ended: %v", err)
		}
	})
	return r
}

// decide lets an event wait for the test.
func (r *Relay) decide(s *session, e relay.Entry) Fate {
	a := arrival{s, e, make(chan Fate)}
	select {
	case r.arrivals <- a:
	case <-s.ended:
		return LoseBefore
	}
	select {
	case fate := <-a.answer:
		return fate
	case <-s.ended:
		return LoseBefore
	}
}

// PublishNext publishes the next event and returns it. The relay has stored that it did, unless an earlier event is still
// open (one that was rejected waits for its next try; others are published meanwhile).
func (r *Relay) PublishNext() surepost.Event {
	r.t.Helper()
	return r.Step(Confirm)
}

// FailBefore loses the connection before the next event has arrived at the broker, and returns the event. The relay has
// connected anew: it comes again.
func (r *Relay) FailBefore() surepost.Event {
	r.t.Helper()
	return r.Step(LoseBefore)
}

// FailAfter lets the next event arrive, and loses the connection before the relay hears of it. It returns the event. The
// relay has connected anew, and publishes it a second time: that is the duplicate that inboxes are for.
func (r *Relay) FailAfter() surepost.Event {
	r.t.Helper()
	return r.Step(LoseAfter)
}

// Step lets the next event have a fate, and returns the event when the relay has taken in what that means for it.
func (r *Relay) Step(fate Fate) surepost.Event {
	r.t.Helper()
	for {
		a, there := r.next()
		if !there {
			r.t.Fatalf("relaytest: no event is left to be published: was the transaction committed? Published so far: %s", r.story())
		}
		if r.give(a, fate) {
			return a.entry.Event
		}
	}
}

// Crash lets the relay's process die as it stands: from now on it sends nothing and stores nothing, and its lease isn't
// released. The next step starts another one, which goes on from the last checkpoint.
func (r *Relay) Crash() {
	r.t.Helper()
	if r.running == nil {
		return
	}
	p := r.running
	r.running = nil
	p.store.kill()
	r.Publisher.Drop()
	p.end()
	r.await(p.done, "the relay's process doesn't die")
}

// PublishAndCrash lets the relay die at the worst moment: the broker has confirmed the next event, and the relay hasn't
// stored it. It returns the event, which the relay of the next step publishes again.
func (r *Relay) PublishAndCrash() surepost.Event {
	r.t.Helper()
	for {
		a, there := r.next()
		if !there {
			r.t.Fatalf("relaytest: no event is left to be published: was the transaction committed? Published so far: %s", r.story())
		}
		r.running.store.freeze()
		before := len(r.Publisher.Published())
		select {
		case a.answer <- Confirm:
		case <-a.session.ended:
			r.Crash() // frozen, it can't go on
			continue
		}
		r.awaitPublished(before + 1)
		r.Crash()
		return a.entry.Event
	}
}

// Drain publishes all that is left, parked events included whose retry was asked for, and returns the events in the order
// in which they arrived.
func (r *Relay) Drain() []surepost.Event {
	r.t.Helper()
	before := len(r.Publisher.Published())
	for {
		a, there := r.next()
		if !there {
			return r.Publisher.Published()[before:]
		}
		r.give(a, Confirm)
	}
}

// Published returns all events that the broker took, repetitions included, in the order in which they arrived.
func (r *Relay) Published() []surepost.Event { return r.Publisher.Published() }

// Report returns how the relay stands. It is empty while none runs.
func (r *Relay) Report() relay.Report {
	if r.running == nil {
		return relay.Report{}
	}
	return r.running.relay.Report()
}

// Stop ends the relay in good order, as a deployment does: it stores how far it came and releases its lease. The next step
// starts another one.
func (r *Relay) Stop() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatalf("relaytest: the relay ended: %v", err)
	}
}

func (r *Relay) stop() error {
	if r.running == nil {
		return nil
	}
	p := r.running
	r.running = nil
	p.end()
	r.Publisher.Drop() // what waits at the broker's door would be waited for
	r.await(p.done, "the relay doesn't stop")
	return p.err
}

// start returns the process that runs, or a new one.
func (r *Relay) start() *process {
	r.t.Helper()
	if r.running != nil {
		return r.running
	}
	p := &process{store: newStore(r.store), done: make(chan struct{})}
	p.store.owner = r.config.Owner
	p.store.keysGoOn = r.config.Parking == relay.ParkKeyGoesOn
	var err error
	if p.relay, err = relay.New(p.store, r.Publisher, r.config); err != nil {
		r.t.Fatalf("relaytest: %v", err)
	}
	ctx, end := context.WithCancel(context.WithoutCancel(r.t.Context())) // which ends before Cleanup
	p.end = end
	go func() {
		defer close(p.done)
		p.err = p.relay.Run(ctx)
	}()
	r.running = p
	return p
}

// next waits for an event at the broker's door; false if none is left.
func (r *Relay) next() (arrival, bool) {
	r.t.Helper()
	p := r.start()
	began := p.relay.Report().Reads
	tick, limit := time.NewTicker(2*time.Millisecond), time.NewTimer(patience)
	defer tick.Stop()
	defer limit.Stop()
	for {
		if why := r.Publisher.unavailable(); why != "" {
			r.t.Fatalf("relaytest: no event can arrive while the broker %s", why)
		}
		p.relay.Wake()
		select {
		case a := <-r.arrivals:
			return a, true
		case <-p.done:
			r.running = nil
			r.t.Fatalf("relaytest: the relay ended: %v", p.err)
		case <-tick.C:
			if r.nothingLeft(p, began) {
				return arrival{}, false
			}
		case <-limit.C:
			r.t.Fatalf("relaytest: no event arrived within %v, and the relay isn't done: %+v", patience, p.relay.Report())
		}
	}
}

// nothingLeft reports whether the relay has nothing to publish. Of two reads that ended since, the second also began since,
// and would have seen what was committed before.
func (r *Relay) nothingLeft(p *process, readsBefore int64) bool {
	report := p.relay.Report()
	return report.CaughtUp && report.Reads >= readsBefore+2 && !r.retrying()
}

// retrying reports whether parked events are about to be published again. A store that can't list them is taken for one
// without.
func (r *Relay) retrying() bool {
	lister, ok := r.store.(interface {
		Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error)
	})
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patience)
	defer cancel()
	parked, err := lister.Parked(ctx, relay.ParkedFilter{Destination: r.config.Destination}, 10_000)
	if err != nil {
		r.t.Fatalf("relaytest: list the parked events: %v", err)
	}
	stuck := map[string]bool{} // keys with an event that stays parked
	for _, e := range parked {
		switch {
		case e.Event.Key != "" && stuck[e.Event.Key]:
		case e.Retrying, e.Behind:
			return true
		default:
			stuck[e.Event.Key] = true
		}
	}
	return false
}

// give lets an event that arrived have its fate, and waits until the relay has taken in what follows from it. It returns
// false if the event's session ended before.
func (r *Relay) give(a arrival, fate Fate) bool {
	r.t.Helper()
	p := r.running
	published, opened, reported := len(r.Publisher.Published()), r.Publisher.Opened(), a.session.reportedSoFar()
	select {
	case a.answer <- fate:
	case <-a.session.ended:
		return false
	}
	switch fate {
	case Confirm, Reject, Return, Refuse:
		a.session.awaitTakenIn(reported + 1)
		if over, parked := r.isOver(a.entry.Seq, fate); over {
			p.store.isOver(a.entry, parked)
			r.awaitStored(p, a.entry.Seq)
		}
	case Silence:
		r.awaitPublished(published + 1)
	default: // the session has ended
		r.awaitOpened(p, opened+1)
	}
	return true
}

// isOver reports whether an event isn't sent again after an outcome, and whether it is parked then.
func (r *Relay) isOver(seq int64, fate Fate) (over, parked bool) {
	switch fate {
	case Confirm:
		delete(r.returns, seq)
		return true, false
	case Refuse:
		return r.config.Parking != relay.ParkHalts, true
	case Return:
		if r.config.Unroutable == relay.AcceptUnroutable {
			return true, false
		}
		r.returns[seq]++
		return r.returns[seq] == r.config.UnroutableTries, true
	}
	return false, false
}

func (r *Relay) awaitPublished(n int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patience)
	defer cancel()
	if _, err := r.Publisher.Await(ctx, n); err != nil {
		r.t.Fatal(err)
	}
}

// awaitOpened waits until the relay has begun again: it has stored how far it came by then.
func (r *Relay) awaitOpened(p *process, n int) {
	r.t.Helper()
	tick, limit := time.NewTicker(time.Millisecond), time.NewTimer(patience)
	defer tick.Stop()
	defer limit.Stop()
	for r.Publisher.Opened() < n {
		select {
		case <-tick.C:
		case <-p.done:
			r.running = nil
			r.t.Fatalf("relaytest: the relay ended: %v", p.err)
		case <-limit.C:
			r.t.Fatalf("relaytest: the relay didn't connect again within %v: %+v", patience, p.relay.Report())
		}
	}
}

func (r *Relay) awaitStored(p *process, seq int64) {
	r.t.Helper()
	stored := make(chan struct{})
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(stored)
		p.store.awaitStored(seq, stop)
	}()
	r.await(stored, "the relay doesn't store that the event was published")
}

func (r *Relay) await(done <-chan struct{}, otherwise string) {
	r.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		r.t.Fatalf("relaytest: %s (waited %v)", otherwise, patience)
	}
}

// story writes what was published.
func (r *Relay) story() string {
	events := r.Publisher.Published()
	if len(events) == 0 {
		return "nothing"
	}
	words := make([]string, len(events))
	for i, e := range events {
		words[i] = e.Type + " " + e.ID
	}
	return strings.Join(words, ", ")
}
