package amqp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/outbox"
)

// The simulation runs real consumers with real inboxes in a world of their own: package sim decides by a seed in which
// order things come to pass, and what fails before or after it took place. Simulated are the database (simDatabase), the
// broker (simBroker) and a session without frames (simSession); all else is what runs in production.
//
//	go test ./amqp -run TestConsumersKeepTheirPromises -seeds 1000000
//	go test ./amqp -run TestConsumersKeepTheirPromises -seed 4711

// TestConsumersKeepTheirPromises: whatever fails, each event takes effect exactly once for each consumer, in order per
// key, with the events that follow from it, or is dead-lettered for its own fault; nothing is acknowledged before that;
// one event's outage holds up its own key only; consumers stop in time, and no goroutine is left.
func TestConsumersKeepTheirPromises(t *testing.T) {
	sim.Explore(t, sim.Budget{Least: 300, For: 8 * time.Second}, func(w *sim.World) { simulate(w, simPlant{}) })
}

// TestASimulationReplays: a seed decides what happens, so that a failure can be looked at again.
func TestASimulationReplays(t *testing.T) {
	const seeds = 60
	same, differs := sim.Replays(t, seeds, func(w *sim.World) { simulate(w, simPlant{}) })
	if same < seeds*95/100 {
		t.Errorf("%d of %d seeds came out the same; %s", same, seeds, differs)
	}
}

// simPlant is a bug, planted beside the code under test: in what wraps it, or in what it is given.
type simPlant struct {
	handler func(in *inbox.Inbox[*simTx]) Handler
	store   func(simStore) inbox.Store[*simTx]
	outbox  func(simStore) outbox.Store[*simTx]
	channel func(simChannel) simChannel
	message func(*message)
	letters func(publish func() error) error
	config  func(*ConsumerConfig)
}

// simulation is one run.
type simulation struct {
	*sim.World
	plant     simPlant
	rnd       *rand.Rand // of the run's beginning
	config    ConsumerConfig
	db        *simDatabase
	broker    *simBroker
	consumers []string
	competing bool
	conflicts float64
	events    map[string]*simEvent
	order     []*simEvent // in which they are published

	blocked bool           // events of kind simBlocked can't be handled; under the world's lock
	servers sync.WaitGroup // what servers have yet to do
	calm    chan struct{}  // closed when no more fault begins
	over    chan struct{}  // closed when all is settled
}

// simKind says what comes of an event that is handled.
type simKind int

const (
	simFine       simKind = iota
	simFlaky              // fails less often than MaxAttempts
	simLate               // fails until it has waited in a retry queue
	simBlocked            // fails as an outage, for as long as the run likes
	simAlways             // fails
	simPermanent          // fails, and says that it always will
	simKiller             // kills its process
	simUnreadable         // isn't an event
	simUnwanted           // has no handler
)

// reason is why an event of this kind is dead-lettered, "" if it mustn't be.
func (k simKind) reason() DeadLetterReason {
	return map[simKind]DeadLetterReason{simLate: AttemptsSpent, simAlways: AttemptsSpent, simPermanent: PermanentFailure,
		simKiller: KillsProcess, simUnreadable: NotAnEvent, simUnwanted: NoHandler}[k]
}

// simEvent is an event, and what it does.
type simEvent struct {
	id, key   string
	place     int // in the order of all
	kind      simKind
	eventType string
	followUps int
	panics    bool // rather than returning an error
	body      []byte
	message   amqp091.Publishing

	// of each consumer
	failures map[string]int              // left
	returned map[string]bool             // from a retry queue
	givenUp  map[string]DeadLetterReason // by a letter
}

// simulate is one run.
func simulate(w *sim.World, plant simPlant) {
	s := &simulation{World: w, plant: plant, rnd: w.Rand("setting"), events: map[string]*simEvent{},
		calm: make(chan struct{}), over: make(chan struct{})}
	s.setUp()
	var processes, troubles sync.WaitGroup
	for _, consumer := range s.consumers {
		for i := range 1 + s.rnd.IntN(3) {
			name := fmt.Sprintf("%s-%d", consumer, i+1)
			processes.Go(func() { s.operate(consumer, name) })
		}
	}
	troubles.Go(s.publish)
	troubles.Go(s.cut)
	troubles.Go(s.outages)
	time.Sleep(s.upTo(1500 * time.Millisecond))
	over := s.Calm()
	close(s.calm)
	troubles.Wait()
	time.Sleep(over - s.Now())
	s.Note("", "no more faults")
	s.await("all other events are settled, while some wait out an outage of their own",
		func() bool { return s.settled(true) })
	s.Look(func() { s.blocked = false })
	s.await("all events are settled", func() bool { return s.settled(false) })
	close(s.over)
	processes.Wait()
	s.servers.Wait()
	if !s.Failed() {
		s.check()
	}
}

func (s *simulation) chance(p float64) bool { return s.rnd.Float64() < p }

func (s *simulation) upTo(d time.Duration) time.Duration { return upTo(s.rnd, d) }

// upTo returns a random time. It counts nanoseconds, so that hardly two things happen at one instant, whose order no seed
// decides.
func upTo(rnd *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(d)) + 1)
}

// setUp chooses how the consumers are configured, what the events are, and how often what fails.
func (s *simulation) setUp() {
	s.consumers = []string{"billing"}
	if s.chance(0.3) {
		s.consumers = append(s.consumers, "shipping")
	}
	s.competing = s.chance(0.15)
	s.blocked = s.chance(0.2)
	c := ConsumerConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Types: []string{"#"},
		Prefetch: 1 + s.rnd.IntN(8), MaxAttempts: 2 + s.rnd.IntN(2), MaxUnfinished: 2 + s.rnd.IntN(2),
		Backoff:       Backoff{Min: s.upTo(10 * time.Millisecond), Max: s.upTo(time.Second) + 100*time.Millisecond},
		DeliveryLimit: 1 << 20, HandlerTimeout: 2 * time.Minute, Competing: s.competing,
		ShutdownTimeout: 2*time.Second + s.upTo(20*time.Second)}
	if s.blocked { // there is room for all that waits
		c.Prefetch = 30
	}
	c.Workers = 1 + s.rnd.IntN(min(4, c.Prefetch))
	if s.chance(0.5) {
		c.BatchSize = 1 + s.rnd.IntN(min(4, c.Prefetch))
		if s.chance(0.5) {
			c.BatchLinger = s.upTo(5 * time.Millisecond)
		}
	}
	if s.chance(0.3) {
		c.RetryDelays = []time.Duration{time.Second, 5 * time.Second}[:1+s.rnd.IntN(2)]
	}
	if s.chance(0.3) {
		c.Unhandled = DeadLetterUnhandled
	}
	quorum := s.chance(0.8)
	if !quorum {
		c.QueueType = ClassicQueue
	}
	if s.plant.config != nil {
		s.plant.config(&c)
	}
	s.config = c
	s.db = &simDatabase{simulation: s, records: map[simRecord]*simRow{}, effects: map[simRecord]int{},
		last: map[simKey]int{}, attempts: map[simRecord]*simAttempts{}}
	s.broker = &simBroker{simulation: s, queues: map[string]*simQueue{},
		version: []serverVersion{{3, 13}, {4, 2}, {4, 3}}[s.rnd.IntN(3)]}
	for _, consumer := range s.consumers {
		for _, name := range []string{consumer, consumer + deadLetterSuffix} {
			s.broker.queues[name] = &simQueue{name: name, quorum: quorum}
		}
	}
	rate := []float64{0, 0.01, 0.03, 0.1}[s.rnd.IntN(4)]
	s.SetRates(sim.Rates{Before: rate / 2, After: rate / 2, Slow: rate / 2, SlowMost: 3 * time.Second})
	s.conflicts = rate / 2
	s.chooseEvents()
}

func (s *simulation) chooseEvents() {
	poison := []float64{0, 0.1, 0.3}[s.rnd.IntN(3)]
	for n := range 3 + s.rnd.IntN(12) {
		e := &simEvent{id: fmt.Sprint("e", n+1), place: n + 1, eventType: "One", followUps: s.rnd.IntN(3),
			panics: s.chance(0.3), failures: map[string]int{}, returned: map[string]bool{}, givenUp: map[string]DeadLetterReason{}}
		if k := s.rnd.IntN(4); k > 0 {
			e.key = fmt.Sprint("k", k)
		}
		if s.chance(0.4) {
			e.eventType = "Many"
		}
		if s.chance(poison) {
			e.kind = simKind(1 + s.rnd.IntN(8))
		}
		switch {
		case e.kind == simBlocked && !s.blocked, e.kind == simLate && s.config.RetryDelays == nil:
			e.kind = simFine
		case e.kind == simFlaky:
			for _, consumer := range s.consumers {
				e.failures[consumer] = 1 + s.rnd.IntN(s.config.MaxAttempts-1)
			}
		case e.kind == simUnwanted:
			e.eventType = "Other"
		case e.kind == simUnreadable:
			e.key = ""
		}
		p, err := PublishingFromEvent(surepost.Event{ID: e.id, Type: e.eventType, Key: e.key, Source: "orders",
			Time: time.Now(), Version: "1.0", CorrelationID: "flow of " + e.id, Data: []byte("{}")})
		must(err)
		if e.kind == simUnreadable {
			p.Body = []byte("{")
		}
		e.body, e.message = p.Body, p
		s.events[e.id] = e
		s.order = append(s.order, e)
	}
}

// publish publishes the events to the queues of all consumers.
func (s *simulation) publish() {
	rnd := s.Rand("publisher")
	burst := rnd.IntN(2) == 0
	for _, e := range s.order {
		if !burst || rnd.IntN(5) == 0 {
			time.Sleep(upTo(rnd, 40*time.Millisecond))
		}
		s.Look(func() {
			for _, consumer := range s.consumers {
				s.broker.publish("events", consumer, e.message)
			}
		})
		s.Note("publisher", "publishes %s, key %q, kind %d", e.id, e.key, e.kind)
	}
}

// pause waits for as long as the faults last, and d at most.
func (s *simulation) pause(d time.Duration) (goesOn bool) {
	select {
	case <-time.After(d):
		return true
	case <-s.calm:
		return false
	}
}

// operate runs one process after the other in a place, until all is settled.
func (s *simulation) operate(consumer, name string) {
	rnd := s.Rand("operator of " + name)
	lively := rnd.IntN(2) == 0
	time.Sleep(upTo(rnd, time.Millisecond))
	for {
		p := s.start(consumer, name)
		for s.disturb(p, rnd, lively) {
		}
		time.Sleep(upTo(rnd, time.Millisecond))
		p.end()
		select {
		case <-s.over:
			return
		case <-time.After(upTo(rnd, 100*time.Millisecond)):
		}
	}
}

// disturb waits until something happens to a process, and reports whether it goes on after that.
func (s *simulation) disturb(p *simProcess, rnd *rand.Rand, lively bool) (goesOn bool) {
	trouble := time.NewTimer(upTo(rnd, 500*time.Millisecond))
	defer trouble.Stop()
	calm, name := s.calm, p.actor.Name()
	for {
		select {
		case <-p.actor.Killed():
			return false
		case <-s.over:
			return false
		case <-calm:
			lively, calm = false, nil
			continue
		case <-trouble.C:
		}
		if !lively {
			continue
		}
		switch rnd.IntN(3) {
		case 0:
			return false
		case 1:
			if s.Strike(name+" is killed", 1, 0) {
				p.kill()
			}
		case 2:
			if long := upTo(rnd, 10*time.Second); s.Strike(name+" is paused", 1, long) {
				p.actor.Pause(long)
			}
		}
		return true
	}
}

// cut cuts connections to the broker. Either end may notice first.
func (s *simulation) cut() {
	rnd := s.Rand("network")
	most := 20*time.Millisecond + upTo(rnd, 400*time.Millisecond)
	for s.pause(upTo(rnd, most)) {
		var live []*simSession
		s.Look(func() {
			for _, consumer := range s.consumers {
				live = append(live, s.broker.queues[consumer].sessions...)
			}
		})
		if len(live) == 0 || !s.Strike("a connection is cut", 0.5, 0) {
			continue
		}
		session, first := live[rnd.IntN(len(live))], rnd.IntN(2)
		long := upTo(rnd, 300*time.Millisecond)
		client, broker := time.Duration(first)*long, time.Duration(1-first)*long
		name := session.process.actor.Name()
		s.after(client, "network", "cuts off the client", name, func() { session.end(errSimCut) })
		s.after(broker, "network", "cuts off the broker", name, func() { s.broker.drop(session) })
	}
}

// outages has the database, or the broker, be away for a while.
func (s *simulation) outages() {
	rnd := s.Rand("outages")
	most := 50*time.Millisecond + upTo(rnd, 2*time.Second)
	for s.pause(upTo(rnd, most)) {
		long := upTo(rnd, 500*time.Millisecond)
		if rnd.IntN(2) == 0 {
			if s.Strike("the database can't be reached", 0.5, long) {
				s.Look(func() { s.db.downUntil = s.Now() + long })
			}
			continue
		}
		if s.Strike("the broker can't be reached", 0.5, long) {
			s.Look(func() {
				s.broker.downUntil = s.Now() + long
				for _, consumer := range s.consumers {
					for _, session := range slices.Clone(s.broker.queues[consumer].sessions) {
						session.end(errSimCut)
						s.broker.drop(session)
					}
				}
			})
		}
	}
}

// simPatience is how long nothing may be acknowledged, once nothing fails any more: somewhat longer than an event is
// suspected of killing its process.
const simPatience = 5 * time.Minute

// await waits until ok, or a promise was broken.
func (s *simulation) await(what string, ok func() bool) {
	since, acked := s.Now(), -1
	for pause := time.Millisecond; !s.Failed(); pause = min(2*pause, 10*time.Second) {
		done := false
		s.Look(func() {
			done = ok()
			if s.broker.acked != acked {
				since, acked = s.Now(), s.broker.acked
			}
		})
		if done {
			return
		}
		if s.Now()-since > simPatience {
			s.Fail("nothing was acknowledged for %v, and it isn't true that %s: %s", simPatience, what, s.left())
			return
		}
		time.Sleep(pause)
	}
}

// settled reports whether nothing waits for the consumers, or nothing but keys that are blocked.
func (s *simulation) settled(butBlocked bool) bool {
	if s.broker.waiting > 0 {
		return false
	}
	stuck := map[string]bool{}
	for _, e := range s.order {
		if e.kind == simBlocked && e.key != "" {
			stuck[e.key] = true
		}
	}
	for _, consumer := range s.consumers {
		for _, m := range s.broker.queues[consumer].all() {
			e := s.events[m.id()]
			if !butBlocked || !stuck[e.key] && e.kind != simBlocked {
				return false
			}
		}
	}
	return true
}

// left says which events aren't settled.
func (s *simulation) left() (text string) {
	s.Look(func() {
		for _, consumer := range s.consumers {
			q := s.broker.queues[consumer]
			for _, m := range q.all() {
				text += " " + m.id()
			}
			text += fmt.Sprintf(" in the queue %s of %d sessions;", consumer, len(q.sessions))
		}
		text += fmt.Sprintf(" %d in retry queues", s.broker.waiting)
	})
	return text
}

// check looks at what came of every event.
func (s *simulation) check() {
	type flow struct{ correlation, cause string }
	written := map[string]flow{}
	for _, f := range s.db.followUps {
		if _, twice := written[f.ID]; twice {
			s.Fail("the event %s was written twice", f.ID)
		}
		written[f.ID] = flow{f.CorrelationID, f.CausationID}
	}
	expected := 0
	for _, consumer := range s.consumers {
		dead := map[string]DeadLetterReason{}
		for _, m := range s.broker.queues[consumer+deadLetterSuffix].all() {
			reason, _ := m.publishing.Headers[HeaderReason].(string)
			dead[m.id()] = DeadLetterReason(reason)
		}
		for _, e := range s.order {
			effects, died := s.db.effects[simRecord{consumer, e.id}], e.givenUp[consumer] == KillsProcess
			reason, isDead := dead[e.id]
			expected += effects * e.followUps
			switch e.kind {
			case simFine, simFlaky, simLate, simBlocked:
				if effects == 0 && !(isDead && died) {
					s.Fail("event %s is lost to %s", e.id, consumer)
				}
				for i := range effects * e.followUps {
					id := fmt.Sprintf("%s>%s.%d", e.id, consumer, i)
					if got, want := written[id], (flow{"flow of " + e.id, e.id}); got != want {
						s.Fail("the event %s that follows is of the flow %+v, want %+v", id, got, want)
					}
				}
			case simUnwanted:
				if isDead != (s.config.Unhandled == DeadLetterUnhandled) {
					s.Fail("event %s, which nobody handles: dead-lettered by %s %v", e.id, consumer, isDead)
				}
			default:
				if !isDead || reason != e.kind.reason() && !died {
					s.Fail("event %s was dead-lettered by %s for %q, want %q", e.id, consumer, reason, e.kind.reason())
				}
			}
		}
	}
	if len(written) != expected {
		s.Fail("%d events were written, %d follow from what took effect", len(written), expected)
	}
}
