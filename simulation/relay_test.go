package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/internal/chance"
	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/relay"
)

// Whatever fails, is paused or dies: nothing is lost, nothing is published that was rolled back, first occurrences of a key's
// events come in the order of their commits, nothing is parked without a cause, no checkpoint passes an event that is open, a
// stale relay writes nothing, what an operator discarded isn't read or parked again, every lane is served again soon after the
// last fault, and whoever is told to stop does.
func TestPromisesOfTheRelay(t *testing.T) {
	sim.Explore(t, budget, func(w *sim.World) { begin(w, plant{}).live() })
}

const (
	ttl             = time.Second
	shutdownTimeout = time.Second
)

// run is a seed's world.
type run struct {
	*setting
	w         *sim.World
	db        *database
	broker    *broker
	ledger    *ledger
	plant     plant
	producers *producers

	calmed chan struct{} // closed: no fault begins any more
	ending chan struct{} // closed: the relays are told to stop for good
}

// setting is what a run is like: not every run has every kind of fault, so that the rare ones aren't hidden by the frequent.
type setting struct {
	relays, lanes int
	chaos         time.Duration // how long faults happen
	quiet         time.Duration // between a producer's transactions, at most
	config        relay.Config
	rates         sim.Rates
	causes        float64 // of the events, that can't be published
	rejects       float64
	sameNames     bool // a relay that is started again has the name that it had
	held          bool // a transaction is open all the time
	oneLane       bool // the store has no lanes, and relays stand by for each other
	kills, pauses, stops, clock, crashes, outages, alarms, refusals, unbinds, relanes,
	pooled bool
}

func newSetting(rnd *rand.Rand) *setting {
	some := func() bool { return rnd.IntN(3) == 0 }
	rate := func(rates ...float64) float64 { return rates[rnd.IntN(len(rates))] }
	s := &setting{
		relays: 1 + rnd.IntN(3), lanes: 1 + rnd.IntN(6),
		chaos: time.Second + upTo(rnd, 3*time.Second), quiet: 50*time.Millisecond + upTo(rnd, 300*time.Millisecond),
		rates: sim.Rates{Before: rate(0, 0, 0.003, 0.01, 0.05), After: rate(0, 0, 0.003, 0.01, 0.05),
			Slow: rate(0, 0, 0.003, 0.02), SlowMost: 3 * time.Second},
		causes: rate(0, 0, 0, 0.02, 0.1), rejects: rate(0, 0, 0, 0.05, 0.3),
		sameNames: some(), held: some(),
		kills: some(), pauses: some(), stops: some(), clock: some(), crashes: some(), outages: some(), alarms: some(), refusals: some(),
		unbinds: some(), relanes: some(), pooled: some(),
	}
	if some() {
		s.lanes = 1
		s.oneLane = some()
		s.relanes = s.relanes && !s.oneLane
	}
	s.config = relay.Config{
		Lanes: s.lanes, LeaseTTL: ttl, PageEvents: 1 + rnd.IntN(8), WindowEvents: 1 + rnd.IntN(window), UnroutableTries: 6,
		PollBusy: 30 * time.Millisecond, PollIdle: 500 * time.Millisecond,
		BackoffMin: 100 * time.Millisecond, BackoffMax: 500 * time.Millisecond, ShutdownTimeout: shutdownTimeout,
		CheckpointInterval: []time.Duration{time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond}[rnd.IntN(3)],
		Order:              relay.Order(rnd.IntN(2)), Logger: slog.New(slog.DiscardHandler),
	}
	if some() {
		s.config.Parking = relay.ParkKeyGoesOn
	}
	s.config.BufferEvents = s.config.PageEvents * (1 + rnd.IntN(6))
	return s
}

func begin(w *sim.World, p plant) *run {
	r := &run{w: w, plant: p, setting: newSetting(w.Rand("setting")), calmed: make(chan struct{}), ending: make(chan struct{})}
	r.db = newDatabase(w, p)
	r.db.pooled = r.pooled
	r.ledger = newLedger(w, r.db)
	r.db.ledger = r.ledger
	r.ledger.order, r.ledger.parking = r.config.Order, r.config.Parking
	r.ledger.allSure = r.causes == 0 && r.rejects == 0 && !r.unbinds
	r.broker = newBroker(w, r.ledger)
	r.broker.rejects = r.rejects
	r.producers = &producers{run: r, locked: map[string]int{}}
	w.SetRates(r.rates)
	return r
}

// live runs the world: some seconds of faults, and then the promises are called in.
func (r *run) live() {
	r.w.Note("", "%d relays, %d lanes, order %d, parking %d, pages of %d, window %d, buffer %d; a transaction held: %v, "+
		"behind a pooler: %v", r.relays, r.lanes, r.config.Order, r.config.Parking, r.config.PageEvents, r.config.WindowEvents, r.config.BufferEvents, r.held, r.pooled)
	var writers, relays, others sync.WaitGroup
	for n := range 3 {
		rnd := r.w.Rand(fmt.Sprint("producer ", n))
		writers.Go(func() { r.producers.work(rnd) })
	}
	if r.held {
		rnd := r.w.Rand("held transaction")
		writers.Go(func() { sleepUpTo(rnd, r.quiet); r.producers.transaction(rnd, r.chaos) })
	}
	for n := range r.relays {
		relays.Go(func() { r.process(string(rune('a' + n))) })
	}
	others.Go(r.misfortune)
	others.Go(r.operator)

	for deadline := r.chaos; r.w.Now() < deadline && !r.w.Failed(); {
		time.Sleep(min(100*time.Millisecond, deadline-r.w.Now()))
	}
	close(r.calmed)
	others.Wait()
	writers.Wait()
	over := r.w.Calm()
	r.w.Look(func() { r.broker.mended, r.broker.unbound = true, false })
	r.w.Note("", "from now on nothing fails")
	time.Sleep(over - r.w.Now())
	r.callIn()
	close(r.ending)
	relays.Wait()
	r.w.Look(func() {
		for i, l := range r.db.leases {
			if l.owner != "" && !l.astray {
				r.w.FailIn("a lane that was left in good order is free at once: lane %d is still %s's", i, l.owner)
			}
		}
	})
}

func (r *run) calm() bool {
	select {
	case <-r.calmed:
		return true
	default:
		return false
	}
}

// within is how long it takes at most after the last fault until everything is published.
const (
	servedWithin  = 2 * ttl
	settledWithin = 10 * ttl
)

// callIn waits until all promises are kept.
func (r *run) callIn() {
	began := r.w.Now()
	unserved := func() (lanes []int) { // whose lease wasn't taken or renewed since
		for i := range r.db.lanes {
			if l := r.db.leases[i]; l.owner == "" || l.at < began {
				lanes = append(lanes, i)
			}
		}
		return lanes
	}
	for !r.w.Failed() {
		var lanes []int
		var missing []string
		r.w.Look(func() {
			lanes, missing = unserved(), r.ledger.missing()
			for seq, p := range r.db.parked { // an operator wants all of them tried again
				if !p.behind {
					p.retry = true
					r.db.parked[seq] = p
				}
			}
		})
		took := r.w.Now() - began
		switch {
		case len(lanes) > 0 && took > servedWithin:
			r.w.Fail("every lane is served within two leases: of %d, nobody has %v, %v after the last fault", r.db.lanes, lanes, took)
		case len(missing) > 0 && took > settledWithin:
			r.w.Fail("promise 1, no loss: %v after the last fault, %s", took, strings.Join(missing, ", "))
		case len(missing) == 0 && len(lanes) == 0:
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// process runs a relay, which is paused, killed, stopped and started again.
func (r *run) process(name string) {
	rnd := r.w.Rand("process " + name)
	var zombies sync.WaitGroup
	defer zombies.Wait()
	for life := 1; ; life++ {
		p := r.start(name, life)
		if r.fate(rnd, p) {
			p.stop()
			return
		}
		if isKilled(p.actor) {
			zombies.Go(func() { p.cancel(); <-p.done })
			sleepUpTo(rnd, time.Second) // Strike allowed for that
			continue
		}
		p.stop()
	}
}

func isKilled(a *sim.Actor) bool {
	select {
	case <-a.Killed():
		return true
	default:
		return false
	}
}

// process is a relay that runs.
type process struct {
	*run
	actor  *sim.Actor
	cancel context.CancelFunc
	done   chan error
}

func (r *run) start(name string, life int) *process {
	actor := r.w.Actor(name)
	config := r.config
	config.Owner = name
	if !r.sameNames {
		config.Owner = fmt.Sprint(name, life)
	}
	config.Hooks = relay.Hooks{
		OnState: func(lane relay.Lane, state relay.State) { r.w.Note(name, "is %v of lane %v", state, lane) },
		OnError: func(lane relay.Lane, err error) { r.w.Note(name, "lane %v: %v", lane, err) },
	}
	var s relay.Store = newStore(r.db, actor)
	if r.oneLane {
		s = struct{ relay.Store }{s}
	}
	engine, err := relay.New(s, &publisher{r.broker, actor, r.plant}, config)
	if err != nil {
		panic(err)
	}
	p := &process{run: r, actor: actor, done: make(chan error, 1)}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(chance.With(context.Background(), r.w.Seed()))
	r.w.Note(name, "is started as %s", config.Owner)
	go func() { p.done <- engine.Run(ctx) }()
	return p
}

// fate lets things happen to the process until it is to be stopped for good (true), or was stopped or killed.
func (r *run) fate(rnd *rand.Rand, p *process) (ending bool) {
	for {
		select {
		case <-r.calmed:
			<-r.ending
			return true
		case err := <-p.done:
			r.w.Fail("%s ended by itself: %v", p.actor.Name(), err)
			p.done <- err
			<-r.ending
			return true
		case <-time.After(1 + upTo(rnd, 2*time.Second)):
		}
		name := p.actor.Name()
		pause := upTo(rnd, 2500*time.Millisecond)
		kind := rnd.IntN(3)
		switch {
		case r.calm():
		case kind == 0 && r.kills && r.w.Strike("kill "+name, 0.7, time.Second):
			p.actor.Kill()
			return false
		case kind == 1 && r.pauses && r.w.Strike("pause "+name, 0.7, pause):
			p.actor.Pause(pause)
		case kind == 2 && r.stops && r.w.Strike("stop "+name, 0.7, 0):
			return false
		}
	}
}

// stopsWithin is what Config.ShutdownTimeout allows for settling, and the bounds of what follows it: the last checkpoint, the
// closing of session and log, the lease's release, each with the time that a call has to notice that its context has ended.
const stopsWithin = shutdownTimeout + 10*time.Second

// stop has the relay stop in good order, which takes a bounded time.
func (p *process) stop() {
	began := p.w.Now()
	p.w.Note(p.actor.Name(), "is told to stop")
	p.cancel()
	if err := <-p.done; err != nil {
		p.w.Fail("%s ended with %v", p.actor.Name(), err)
	}
	if took := p.w.Now() - began; took > stopsWithin {
		p.w.Fail("a relay stops within %v: %s took %v", stopsWithin, p.actor.Name(), took)
	}
}

// misfortune is what happens to the servers.
func (r *run) misfortune() {
	rnd := r.w.Rand("misfortune")
	strike := func(enabled bool, what string, p float64, lasting time.Duration) bool {
		return enabled && r.w.Strike(what, p, lasting)
	}
	unbound, latest := false, time.Duration(0) // latest: the database's clock before it was set back
	for r.sleep(rnd, 300*time.Millisecond) {
		lasting := upTo(rnd, 1500*time.Millisecond)
		switch rnd.IntN(8) {
		case 0:
			if strike(r.outages, "the broker is stopped", 0.3, lasting) {
				r.tell("broker", "is stopped", r.broker.stop)
				time.Sleep(lasting)
				r.tell("broker", "is started", func() { r.broker.down = false })
			}
		case 1:
			if strike(r.alarms, "the broker has an alarm", 0.3, lasting) {
				r.tell("broker", "blocks", func() { r.broker.block("memory") })
				time.Sleep(lasting)
				r.tell("broker", "blocks no more", func() { r.broker.block("") })
			}
		case 2:
			if strike(r.refusals, "the exchange is deleted", 0.3, 0) {
				r.tell("broker", "has no exchange any more", func() { r.broker.noExchange = true })
			}
		case 3: // not for as long as it takes to try six times
			if lasting = lasting * 2 / 3; !unbound && strike(r.unbinds, "the queues are unbound", 0.3, lasting) {
				unbound = true
				r.tell("broker", "has no bindings", func() { r.broker.unbound = true })
				time.Sleep(lasting)
				r.tell("broker", "has bindings again", func() { r.broker.unbound = false })
			}
		case 4:
			by := upTo(rnd, 6*time.Second) - 2*time.Second
			var back time.Duration // behind what it has shown, where leases are that were taken by it
			r.w.Look(func() {
				latest = max(latest, r.db.clock())
				back = latest - (r.db.clock() + by)
			})
			if strike(r.clock, "the database's clock jumps by "+by.String(), 0.3, max(back, 0)) {
				r.tell("database", fmt.Sprintf("has its clock set by %v", by), func() { r.db.skew += by })
			}
		case 5:
			if strike(r.outages, "the database is away", 0.3, lasting) {
				r.tell("database", "is away", func() { r.db.down = true })
				time.Sleep(lasting)
				r.tell("database", "is back", func() { r.db.down = false })
			}
		case 6:
			failover := rnd.IntN(2) == 0
			if strike(r.crashes, "the database crashes", 0.3, lasting) {
				r.w.Look(func() { r.db.keep(!failover) })
				time.Sleep(upTo(rnd, 500*time.Millisecond))
				r.tell("database", fmt.Sprintf("crashes; another takes over: %v", failover), func() {
					if lost := r.db.crash(); lost > 0 && !failover {
						panic("the model lost commits that were flushed")
					}
					clear(r.producers.locked)
				})
			}
		}
	}
}

// tell changes a server.
func (r *run) tell(who, what string, change func()) {
	r.w.Note(who, "%s", what)
	r.w.Look(change)
}

// sleep sleeps for a while, and returns false once the world is to be calm.
func (r *run) sleep(rnd *rand.Rand, most time.Duration) bool {
	select {
	case <-r.calmed:
		return false
	case <-time.After(1 + upTo(rnd, most)):
		return !r.calm()
	}
}

// operator changes the number of lanes, and has parked events retried or discards them.
func (r *run) operator() {
	rnd := r.w.Rand("operator")
	s := newStore(r.db, r.w.Actor("operator"))
	for r.sleep(rnd, time.Second) {
		lanes, act := 1+rnd.IntN(6), rnd.IntN(3)
		if r.relanes && r.w.Strike("the number of lanes is changed", 0.7, 0) {
			if err := s.SetLanes(context.Background(), "", lanes); err != nil {
				r.w.Note("operator", "couldn't change the number of lanes: %v", err)
			}
		}
		switch act {
		case 0:
			r.w.Look(func() { r.tidy(rnd, 4) })
		case 1: // while lanes are taken over, and what is parked may be read again
			for n := 0; n < 20 && r.sleep(rnd, 100*time.Millisecond); n++ {
				r.w.Look(func() { r.tidy(rnd, 20) })
			}
		}
	}
}

// tidy discards one of so many parked events, and has as many retried.
func (r *run) tidy(rnd *rand.Rand, of int) {
	for _, seq := range sortedSeqs(r.db.parked) {
		switch p := r.db.parked[seq]; rnd.IntN(of) {
		case 0:
			r.db.discard(seq)
		case 1:
			p.retry = true
			r.db.parked[seq] = p
		}
	}
}

// cause draws why an event can't be published.
func (r *run) cause(rnd *rand.Rand) cause {
	c := cause(1 + rnd.IntN(4))
	if rnd.Float64() >= r.causes {
		return healthy
	}
	return c
}

func sortedSeqs(parked map[int64]parkedRow) []int64 {
	l := log{store: &store{db: &database{state: &state{parked: parked}}}, lease: relay.Lease{Lane: relay.Lane{Of: 1}}}
	return l.parkedSeqs()
}

// A seed that is printed is of use only if it comes out the same again.
func TestASeedReplays(t *testing.T) {
	const seeds = replayed
	same, differs := sim.Replays(t, seeds, func(w *sim.World) { begin(w, plant{}).live() })
	t.Logf("%d of %d seeds came out the same, effect by effect; %s", same, seeds, differs)
	if same < seeds*4/5 {
		t.Errorf("%d of %d seeds came out the same", same, seeds)
	}
}
