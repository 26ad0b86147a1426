package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// The property tests run the real publisher under the real relay, and the real consumer, against amqptest with random
// faults. Each seed chooses the events and which faults strike how often; which messages and frames they strike follows
// from the seed too, but when things happen also depends on the machine: a seed that failed is worth several tries.
//
//	go test -run TestPublisherProperty -seeds 20000
//	go test -run TestPublisherProperty -seed 4711 -count 20 -v
var (
	seedsFlag = flag.Int("seeds", 0, "how many seeds the property tests run; 0: as many as in each run of the tests")
	seedFlag  = flag.Uint64("seed", 0, "the only seed that the property tests run; 0: all")
)

// turmoil is one run of a seed.
type turmoil struct {
	rnd    *rand.Rand // of the goroutine that makes the faults
	broker *amqptest.Broker
	began  time.Time
	stop   context.Context // ends with the seed's time

	mu    sync.Mutex
	trace []step // the last of them
}

// step is a line of the trace. It is only put into words if it must be shown.
type step struct {
	at     time.Duration
	format string
	args   []any
}

func (s step) String() string {
	return fmt.Sprintf("%9.3f ms  ", float64(s.at.Microseconds())/1000) + fmt.Sprintf(s.format, s.args...)
}

const traceSteps = 400

// note adds to the trace. It may be called under the broker's lock. The arguments must not change later.
func (w *turmoil) note(format string, args ...any) {
	s := step{time.Since(w.began), format, args}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trace = append(w.trace, s); len(w.trace) > 2*traceSteps {
		w.trace = append(w.trace[:0], w.trace[traceSteps:]...)
	}
}

// Write makes it the output of a logger.
func (w *turmoil) Write(p []byte) (int, error) {
	w.note("%s", string(bytes.TrimSpace(p)))
	return len(p), nil
}

func (w *turmoil) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// chance is true with a probability of p.
func (w *turmoil) chance(p float64) bool { return w.rnd.Float64() < p }

// upTo returns a random time.
func (w *turmoil) upTo(d time.Duration) time.Duration { return rand.N(d) }

func (w *turmoil) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.stop.Done():
	}
}

// await waits until ok, and is an error if that takes too long.
func (w *turmoil) await(what string, ok func() bool) error {
	for !ok() {
		if w.stop.Err() != nil {
			return fmt.Errorf("%s: not in time", what)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// watch puts what happens at the broker into the trace.
func (w *turmoil) watch() {
	w.broker.Inject(amqptest.Fault{When: func(e amqptest.Event) bool {
		w.note("%s", wireEvent(e))
		return false
	}})
}

// wireEvent is an event in a line: connection/channel, direction, method, number, what it is about.
type wireEvent amqptest.Event

func (e wireEvent) String() string {
	direction, about := "→", ""
	if e.Outgoing {
		direction = "←"
	}
	if e.Message != nil {
		about = e.Message.MessageID
	}
	if e.Tag > 0 {
		about = fmt.Sprintf("%d multiple %v", e.Tag, e.Multiple)
	}
	return fmt.Sprintf("%d/%d %s %s #%d %s", e.Conn, e.Channel, direction, e.Method, e.Nth, about)
}

// breakdown is a fault of the broker, or of the way to it.
type breakdown struct {
	name  string
	share float64 // the most that is struck of what when chooses
	when  func(amqptest.Event) bool
	do    func(w *turmoil) amqptest.Action
	ends  bool // of a session: it may strike before or after the effect
}

func does(a amqptest.Action) func(*turmoil) amqptest.Action {
	return func(*turmoil) amqptest.Action { return a }
}

// anyOf chooses methods, those that are sent by their direction.
func anyOf(outgoing bool, methods ...string) func(amqptest.Event) bool {
	return func(e amqptest.Event) bool { return e.Outgoing == outgoing && slices.Contains(methods, e.Method) }
}

// stalled stalls until a gate opens by itself. Heal ends it at last.
func stalled(stall func(*amqptest.Gate) amqptest.Action) func(*turmoil) amqptest.Action {
	return func(w *turmoil) amqptest.Action {
		gate := amqptest.NewGate()
		time.AfterFunc(time.Millisecond+w.upTo(150*time.Millisecond), gate.Open)
		return stall(gate)
	}
}

var (
	handshake = anyOf(false, "connection.start-ok", "connection.tune-ok", "connection.open", "channel.open", "exchange.declare",
		"confirm.select", "queue.declare", "queue.bind", "basic.qos", "basic.consume")
	answers = anyOf(true, "connection.tune", "connection.open-ok", "channel.open-ok", "exchange.declare-ok", "confirm.select-ok",
		"queue.declare-ok", "basic.consume-ok", "basic.qos-ok")
	publishes = amqptest.Publish(nil)
)

// forced is how an operator ends a connection.
var forced = amqptest.CloseConnection(320, "CONNECTION_FORCED - by the test")

// lostSessions are the faults that end or hold up connections.
var lostSessions = []breakdown{
	{"drop at publish", 0.01, publishes, does(amqptest.Drop()), true},
	{"reset at publish", 0.01, publishes, does(amqptest.Reset()), true},
	{"forced at publish", 0.01, publishes, does(forced), true},
	{"internal error at publish", 0.005, publishes, does(amqptest.CloseConnection(541, "INTERNAL_ERROR - test")), true},
	{"cut confirm", 0.01, anyOf(true, "basic.ack", "basic.nack", "basic.return"), does(amqptest.CutFrame()), false},
	{"cut answer", 0.01, answers, does(amqptest.CutFrame()), false},
	{"drop in handshake", 0.03, handshake, does(amqptest.Drop()), true},
	{"forced in handshake", 0.02, handshake, does(forced), true},
	{"refused login", 0.05, anyOf(false, "connection.start-ok"), does(amqptest.RefuseLogin()), false},
	{"stalled reads", 0.003, publishes, stalled(amqptest.StallReads), false},
	{"stalled writes", 0.003, publishes, stalled(amqptest.StallWrites), false},
	{"stalled handshake", 0.01, answers, stalled(amqptest.StallWrites), false},
}

// lateConfirms are those that change when a publisher hears of what.
var lateConfirms = []breakdown{
	{"no confirm", 0.005, publishes, does(amqptest.NeverConfirm()), false},
	{"late confirm", 0.1, publishes, func(w *turmoil) amqptest.Action {
		return amqptest.ConfirmAfter(w.upTo(20 * time.Millisecond))
	}, false},
}

// refusals are those in which the broker doesn't take a message. With relay.Pipelined they cost the order.
var refusals = []breakdown{
	{"nack", 0.6, publishes, does(amqptest.Nack()), false},
	{"nack though stored", 0.1, publishes, does(amqptest.NackStored()), false},
	{"returned", 0.05, publishes, does(amqptest.Unroutable()), false},
}

// inject chooses among the faults and injects them.
func (w *turmoil) inject(all ...breakdown) {
	for _, f := range all {
		if !w.chance(0.4) {
			continue
		}
		fault := amqptest.Fault{Do: f.do(w), After: f.ends && w.chance(0.5)}
		share := f.share * (0.1 + 0.9*w.rnd.Float64())
		fault.When = amqptest.Sometimes(w.rnd.Uint64(), share, f.when)
		w.note("fault: %s, %.2f %% of events, after the effect %v", f.name, 100*share, fault.After)
		if f.name == "stalled reads" || f.name == "stalled writes" || f.name == "stalled handshake" {
			fault.Times = 2 // each gate opens once
		}
		w.broker.Inject(fault)
	}
}

// disturb does something to all connections.
func (w *turmoil) disturb(crash bool) {
	switch w.rnd.IntN(5) {
	case 0:
		w.note("all connections are dropped")
		w.broker.Drop()
	case 1:
		w.note("all connections are closed")
		w.broker.CloseConnections(320, "CONNECTION_FORCED - by the test")
	case 2, 3:
		w.note("the broker raises an alarm")
		w.broker.Block("low on memory")
		w.pause(w.upTo(20 * time.Millisecond))
		w.note("the alarm is over")
		w.broker.Unblock()
	case 4:
		w.note("the broker goes down, a crash: %v", crash)
		if crash {
			w.broker.Crash()
		} else {
			w.broker.Kill()
		}
		w.pause(w.upTo(10 * time.Millisecond))
		w.broker.Start()
	}
}

// forEachSeed runs a property under many seeds at once, and shows the trace of those that fail.
func forEachSeed(t *testing.T, seeds int, property func(w *turmoil) error) {
	if *seedsFlag > 0 {
		seeds = *seedsFlag
	}
	first := uint64(1)
	if *seedFlag > 0 {
		first, seeds = *seedFlag, 1
	}
	before := goleak.IgnoreCurrent()
	began := time.Now()
	var next, failed, passed atomic.Uint64
	next.Store(first)
	var workers sync.WaitGroup
	for range min(seeds, 16*runtime.GOMAXPROCS(0)) { // a seed mostly waits
		workers.Go(func() {
			for failed.Load() < 3 {
				seed := next.Add(1) - 1
				if seed >= first+uint64(seeds) {
					return
				}
				if runSeed(t, seed, property) {
					passed.Add(1)
				} else {
					failed.Add(1)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d of %d seeds passed in %s", passed.Load(), seeds, time.Since(began).Round(time.Millisecond))
	if err := goleak.Find(before); err != nil {
		t.Errorf("goroutines are left; each has its seed as a label:\n%s", goroutinesOf(t.Name()))
	}
}

// runSeed runs the property in a goroutine with a label, which all that it starts inherits: it tells who left them.
func runSeed(t *testing.T, seed uint64, property func(w *turmoil) error) (passed bool) {
	stop, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	w := &turmoil{rnd: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), stop: stop}
	var err error
	pprof.Do(stop, pprof.Labels(t.Name(), fmt.Sprint(seed)), func(context.Context) { err = property(w) })
	if err == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var trace strings.Builder
	for _, s := range w.trace[max(0, len(w.trace)-traceSteps):] {
		fmt.Fprintln(&trace, s)
	}
	t.Errorf("seed %d: %v\nonce more: go test -run '^%s$' -seed %d -count 20\n%s",
		seed, err, t.Name(), seed, trace.String())
	return false
}

// goroutinesOf returns the stacks of the goroutines that have a label.
func goroutinesOf(label string) string {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return err.Error()
	}
	var stacks []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:", label)) {
			stacks = append(stacks, stack)
		}
	}
	return strings.Join(stacks, "\n\n")
}

const (
	// shutdownTimeout is the relays' and consumers', and afterShutdown what closing a connection that hangs may cost
	// beyond it: a good-bye of 1 s, and something for a machine under load.
	shutdownTimeout = 100 * time.Millisecond
	afterShutdown   = 5 * time.Second
)

// startBroker starts the broker.
func (w *turmoil) startBroker(cfg amqptest.Config) (stop func(), err error) {
	cfg.Confirms.Seed = w.rnd.Uint64()
	w.note("broker: %+v", cfg)
	w.broker, err = amqptest.Start(cfg)
	if err != nil {
		return nil, err
	}
	return w.broker.Close, nil
}

func (w *turmoil) connection() amqp.Connection {
	return amqp.Connection{
		URLs: []string{w.broker.URL()}, Heartbeat: time.Second,
		ConnectTimeout: time.Second, WriteTimeout: 200 * time.Millisecond, RPCTimeout: 500 * time.Millisecond,
	}
}

// TestPublisherProperty: whatever the broker does, each committed event gets into the queue, the first occurrences of
// each key's events are in order, nothing is parked that doesn't have to be, relays stop in time, and no goroutine is
// left.
func TestPublisherProperty(t *testing.T) {
	forEachSeed(t, 2000, func(w *turmoil) error {
		confirms := amqptest.Confirms{Gather: w.rnd.IntN(8), Within: w.upTo(time.Millisecond) + 1,
			Shuffle: w.chance(0.5), Multiple: w.chance(0.5)}
		cfg, heavy := amqptest.Config{Confirms: confirms}, 0.01
		if w.chance(0.1) { // a broker that doesn't read makes itself felt
			cfg.ReadBufferBytes, heavy = 64<<10, 0.3
		}
		stop, err := w.startBroker(cfg)
		if err != nil {
			return err
		}
		defer stop()
		p := &publishing{turmoil: w, store: newMemoryStore(), order: relay.StrictPerKey, heavy: heavy,
			poison: map[string]bool{}, again: &resendings{pending: map[int]map[uint64]string{}}}
		if w.chance(0.4) {
			p.order = relay.Pipelined
		}
		return p.run()
	})
}

// publishing is a seed of TestPublisherProperty.
type publishing struct {
	*turmoil
	store     *memoryStore
	publisher *amqp.Publisher
	order     relay.Order
	committed int
	heavy     float64 // the share of large events
	relays    []*running
	poison    map[string]bool // ids of events that the broker ends the session over
	again     *resendings
}

// running is a relay that runs.
type running struct {
	name   string
	relay  *relay.Relay
	cancel context.CancelFunc
	result chan error
}

func (p *publishing) run() error {
	conn, err := amqp091.Dial(p.broker.URL())
	if err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err == nil {
		err = errors.Join(
			ch.ExchangeDeclare("events", "topic", true, false, false, false, nil),
			errorOf(ch.QueueDeclare("q", true, false, false, false, nil)),
			ch.QueueBind("q", "#", "events", false, nil))
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	p.publisher, err = amqp.NewPublisher(amqp.PublisherConfig{Connection: p.connection(),
		ConfirmTimeout: 400 * time.Millisecond, Window: 64, Logger: p.logger()})
	if err != nil {
		return err
	}
	p.watch()
	p.broker.Inject(amqptest.Fault{When: p.again.see})
	p.inject(lostSessions...)
	p.inject(lateConfirms...)
	if p.chance(0.1) {
		what, when := "publish", publishes
		if p.chance(0.5) {
			what, when = "handshake", answers
		}
		p.note("fault: at a %s the broker stops reading and writing for good", what)
		gate := amqptest.NewGate()
		p.broker.Inject(amqptest.Fault{When: when, Skip: p.rnd.IntN(20), Times: 1,
			Do: amqptest.Together(amqptest.StallReads(gate), amqptest.StallWrites(gate), amqptest.NeverConfirm())})
	}
	if p.order == relay.StrictPerKey {
		p.inject(refusals...)
	}
	p.closeChannels()
	p.commit(10 + p.rnd.IntN(40))
	p.poisonOne()
	if err := p.startRelay(); err != nil {
		return err
	}
	for range p.rnd.IntN(8) {
		p.pause(p.upTo(15 * time.Millisecond))
		switch p.rnd.IntN(6) {
		case 0, 1:
			p.disturb(p.order == relay.StrictPerKey)
		case 2, 3:
			p.commit(p.rnd.IntN(20))
		case 4:
			err = p.restart()
		case 5:
			err = p.takeOver()
		}
		if err != nil {
			return err
		}
	}
	if p.chance(0.2) { // while it still hangs where it hangs
		if err := p.restart(); err != nil {
			return err
		}
	}
	p.note("no more faults")
	p.broker.Heal()
	p.watch()
	p.broker.Inject(amqptest.Fault{When: p.again.see})
	p.inPoison() // this one isn't a passing fault
	if err := p.await("all is settled", p.store.settled); err != nil {
		return errors.Join(err, p.stopAll())
	}
	if err := p.stopAll(); err != nil {
		return err
	}
	if err := p.await("all connections are closed", func() bool { return p.broker.Connections() == 0 }); err != nil {
		return err
	}
	return errors.Join(p.again.err, p.check())
}

// resendings finds messages that are sent again on a channel that still owes their confirm: the broker may merely be
// slow.
type resendings struct {
	pending map[int]map[uint64]string // per connection: the ids of the messages that aren't confirmed, by their numbers
	err     error
}

// see is called under the broker's lock.
func (r *resendings) see(e amqptest.Event) bool {
	pending := r.pending[e.Conn]
	switch {
	case e.Method == "basic.publish" && !e.Outgoing:
		if pending == nil {
			pending = map[uint64]string{}
			r.pending[e.Conn] = pending
		}
		for number, id := range pending {
			if id == e.Message.MessageID {
				r.err = fmt.Errorf("event %s was sent again as number %d, while number %d wasn't confirmed",
					id, e.Message.Number, number)
			}
		}
		pending[e.Message.Number] = e.Message.MessageID
	case e.Outgoing && (e.Method == "basic.ack" || e.Method == "basic.nack"):
		for number := range pending {
			if number == e.Tag || e.Multiple && number < e.Tag {
				delete(pending, number)
			}
		}
	}
	return false
}

func errorOf[T any](_ T, err error) error { return err }

// commit commits n events of a few keys, some without one.
func (p *publishing) commit(n int) {
	keys := 1 + p.rnd.IntN(8)
	var entries []relay.Entry
	for range n {
		p.committed++
		key := ""
		if k := p.rnd.IntN(keys + 1); k > 0 {
			key = fmt.Sprint("k", k)
		}
		data := fmt.Sprintf(`{"n":%d}`, p.committed)
		if p.chance(p.heavy) {
			data = `"` + strings.Repeat("x", p.rnd.IntN(300_000)) + `"`
		}
		entries = append(entries, relay.Entry{Event: surepost.Event{ID: fmt.Sprint("e", p.committed), Type: "Tested",
			Source: "test", Version: "1.0", Key: key, Time: time.Now().UTC(), Data: []byte(data)}})
	}
	p.note("%d events are committed", n)
	p.store.append(entries...)
}

// closeChannels makes the broker close the channel over some messages, over each once: it isn't their fault.
func (p *publishing) closeChannels() {
	if !p.chance(0.2) {
		return
	}
	struck := map[string]bool{}
	when := amqptest.Sometimes(p.rnd.Uint64(), 0.02, publishes)
	p.note("fault: channels are closed")
	p.broker.Inject(amqptest.Fault{After: p.chance(0.5),
		Do: amqptest.CloseChannel(404, "NOT_FOUND - no exchange 'events' in vhost '/'"),
		When: func(e amqptest.Event) bool {
			if !when(e) || struck[e.Message.MessageID] {
				return false
			}
			struck[e.Message.MessageID] = true
			return true
		}})
}

// poisonOne makes the broker close the channel over one event for ever.
func (p *publishing) poisonOne() {
	if p.chance(0.1) {
		p.poison[fmt.Sprint("e", 1+p.rnd.IntN(p.committed))] = true
		p.inPoison()
	}
}

func (p *publishing) inPoison() {
	if len(p.poison) > 0 {
		p.broker.Inject(amqptest.Fault{
			When: amqptest.Publish(func(m *amqptest.Message) bool { return p.poison[m.MessageID] }),
			Do:   amqptest.CloseChannel(406, "PRECONDITION_FAILED - poison"),
		})
	}
}

func (p *publishing) startRelay() error {
	name := fmt.Sprint("relay", len(p.relays)+1)
	r, err := relay.New(p.store, p.publisher, relay.Config{
		Owner: name, Order: p.order, PageEvents: 1 + p.rnd.IntN(20), WindowEvents: 1 + p.rnd.IntN(64),
		BufferEvents: 20 + p.rnd.IntN(200), LeaseTTL: time.Second,
		PollBusy: time.Millisecond, PollIdle: 5 * time.Millisecond, CheckpointInterval: 2 * time.Millisecond,
		BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond, ShutdownTimeout: shutdownTimeout,
		Logger: p.logger(),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{name: name, relay: r, cancel: cancel, result: make(chan error, 1)}
	p.relays = append(p.relays, run)
	p.note("%s starts", name)
	go func() { run.result <- r.Run(ctx) }()
	return nil
}

// stopRelay stops one, in time.
func (p *publishing) stopRelay(r *running) error {
	p.note("%s is stopped", r.name)
	began := time.Now()
	r.cancel()
	select {
	case err := <-r.result:
		p.note("%s has stopped after %s", r.name, time.Since(began))
		return err
	case <-time.After(shutdownTimeout + afterShutdown):
		return fmt.Errorf("%s hasn't stopped %s after its ShutdownTimeout", r.name, afterShutdown)
	}
}

// restart stops the newest relay and starts another.
func (p *publishing) restart() error {
	last := p.relays[len(p.relays)-1]
	p.relays = p.relays[:len(p.relays)-1]
	if err := p.stopRelay(last); err != nil {
		return err
	}
	return p.startRelay()
}

// takeOver starts another relay, which takes the lane from the one that leads.
func (p *publishing) takeOver() error {
	p.note("the lane is taken from its owner")
	p.store.depose()
	return p.startRelay()
}

func (p *publishing) stopAll() error {
	var errs []error
	for _, r := range p.relays {
		errs = append(errs, p.stopRelay(r))
	}
	return errors.Join(errs...)
}

// check looks at what has arrived.
func (p *publishing) check() error {
	parked := map[string]bool{}
	poisoned := "" // the key
	for _, e := range p.store.parkedEvents() {
		if p.poison[e.Event.ID] {
			poisoned = e.Event.Key
		}
	}
	for _, e := range p.store.parkedEvents() {
		parked[e.Event.ID] = true
		if !p.poison[e.Event.ID] && (!e.Behind || e.Event.Key != poisoned || poisoned == "") {
			return fmt.Errorf("event %s of key %q was parked: %s", e.Event.ID, e.Event.Key, e.Reason)
		}
	}
	for id := range p.poison {
		if !parked[id] {
			return fmt.Errorf("event %s was not parked, though it ends every session", id)
		}
	}
	arrived := map[string]bool{}
	var first []string
	for _, m := range p.broker.Messages("q") {
		if !arrived[m.MessageID] {
			first = append(first, m.MessageID)
		}
		arrived[m.MessageID] = true
	}
	place := map[string]*relay.Entry{}
	for i := range p.store.entries {
		e := &p.store.entries[i]
		place[e.Event.ID] = e
		if !arrived[e.Event.ID] && !parked[e.Event.ID] {
			return fmt.Errorf("event %s of key %q is lost", e.Event.ID, e.Event.Key)
		}
	}
	last := map[string]*relay.Entry{}
	for _, id := range first {
		e := place[id]
		switch before := last[e.Event.Key]; {
		case e.Event.Key == "":
		case before != nil && before.Seq > e.Seq:
			return fmt.Errorf("of key %q event %s arrived before %s", e.Event.Key, before.Event.ID, id)
		}
		last[e.Event.Key] = e
	}
	return nil
}

// TestConsumerProperty: whatever the broker and the handler do, each event takes effect exactly once, in order per key,
// or is dead-lettered for its own fault; nothing stays unacknowledged, consumers stop in time, and no goroutine is left.
func TestConsumerProperty(t *testing.T) {
	forEachSeed(t, 400, func(w *turmoil) error {
		cfg := amqptest.Config{Version: []string{"3.13.0", "4.2.0", "4.3.0"}[w.rnd.IntN(3)]}
		if w.chance(0.3) { // shorter than some handlers take
			cfg.ConsumerTimeout = 300 * time.Millisecond
		}
		stop, err := w.startBroker(cfg)
		if err != nil {
			return err
		}
		defer stop()
		return (&consuming{turmoil: w, poison: map[string]amqp.DeadLetterReason{}, flaky: map[string]int{},
			slow: map[string]bool{}, busy: map[string]bool{}, effects: map[string]int{}, last: map[string]int{},
			place: map[string]int{}}).run()
	})
}

// lostDeliveries are the faults on a consumer's way.
var lostDeliveries = []breakdown{
	{"cut delivery", 0.01, anyOf(true, "basic.deliver"), does(amqptest.CutFrame()), false},
	{"drop at acknowledgement", 0.02, anyOf(false, "basic.ack"), does(amqptest.Drop()), true},
	{"reset at acknowledgement", 0.01, anyOf(false, "basic.ack"), does(amqptest.Reset()), true},
	{"channel closed at acknowledgement", 0.01, anyOf(false, "basic.ack"),
		does(amqptest.CloseChannel(406, "PRECONDITION_FAILED - by the test")), true},
	{"forced at acknowledgement", 0.01, anyOf(false, "basic.ack"), does(forced), true},
	{"stalled deliveries", 0.01, anyOf(true, "basic.deliver"), stalled(amqptest.StallWrites), false},
	{"stalled acknowledgements", 0.01, anyOf(false, "basic.ack"), stalled(amqptest.StallReads), false},
	{"drop at dead letter", 0.2, publishes, does(amqptest.Drop()), true},
	{"dead letter refused", 0.2, publishes, does(amqptest.Nack()), false},
	{"dead letter returned", 0.2, publishes, does(amqptest.Unroutable()), false},
	{"drop at consume", 0.1, anyOf(false, "basic.consume"), does(amqptest.Drop()), true},
}

// consuming is a seed of TestConsumerProperty. It is its own handler: an inbox in memory.
type consuming struct {
	*turmoil
	published int
	stopLast  func() error

	// prefetch is the same for all sessions of a seed: a quorum queue takes back what a lost session held behind what
	// is left of what an earlier one held (rabbit_fifo, returns), and that is something only if a session takes less
	// than its predecessor.
	prefetch int

	mu      sync.Mutex
	choices *rand.Rand // of the handlers
	poison  map[string]amqp.DeadLetterReason
	flaky   map[string]int // how often it still fails
	slow    map[string]bool
	busy    map[string]bool // keys
	place   map[string]int  // each event's place in its key
	effects map[string]int
	last    map[string]int // per key: the place of the last one that took effect
	wrong   []error
}

func (c *consuming) run() error {
	c.choices = rand.New(rand.NewPCG(c.rnd.Uint64(), 1))
	c.prefetch = 8 + c.rnd.IntN(30)
	if err := c.startConsumer(); err != nil { // which declares the queue
		return err
	}
	there := func() bool { s, _ := c.broker.Queue("work"); return s.Consumers > 0 }
	if err := c.await("the consumer is there", there); err != nil {
		return err
	}
	c.watch()
	c.inject(lostDeliveries...)
	err := c.publish(10 + c.rnd.IntN(60))
	for range c.rnd.IntN(5) {
		if err != nil {
			return errors.Join(err, c.stopLast())
		}
		c.pause(c.upTo(40 * time.Millisecond))
		switch c.rnd.IntN(4) {
		case 0:
			c.disturb(false)
		case 1:
			err = c.publish(c.rnd.IntN(20))
		case 2, 3:
			if err = c.stopLast(); err == nil {
				err = c.startConsumer()
			}
		}
	}
	c.note("no more faults")
	c.broker.Heal()
	c.watch()
	return errors.Join(
		c.await("the queue is empty", func() bool { s, _ := c.broker.Queue("work"); return s.Ready+s.Unacked == 0 }),
		c.stopLast(), c.check())
}

func (c *consuming) startConsumer() error {
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: c.connection(), Handler: c, Queue: "work", Types: []string{"#"}, Prefetch: c.prefetch,
		MaxAttempts: 3, Backoff: amqp.Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond},
		DeliveryLimit:  1000, // the broker's own dead letters aren't under test
		HandlerTimeout: time.Minute, ShutdownTimeout: 10 * shutdownTimeout, Logger: c.logger(),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	c.note("a consumer starts")
	go func() { result <- consumer.Run(ctx) }()
	c.stopLast = func() error {
		c.note("the consumer is stopped")
		began := time.Now()
		cancel()
		select {
		case err := <-result:
			c.note("the consumer has stopped after %s: %v", time.Since(began), err)
			return err
		case <-time.After(2*shutdownTimeout + afterShutdown):
			return fmt.Errorf("the consumer hasn't stopped %s after its ShutdownTimeout", afterShutdown)
		}
	}
	return nil
}

// publish puts n events into the queue, some of which are trouble.
func (c *consuming) publish(n int) error {
	c.note("%d events are published", n)
	for range n {
		c.published++
		id, key := fmt.Sprint("e", c.published), ""
		if k := c.rnd.IntN(6); k > 0 {
			key = fmt.Sprint("k", k)
		}
		c.mu.Lock()
		c.place[id] = c.published
		switch x := c.rnd.Float64(); {
		case x < 0.02:
			c.poison[id] = amqp.PermanentFailure
		case x < 0.04:
			c.poison[id] = amqp.AttemptsSpent
		case x < 0.1:
			c.flaky[id] = 1 + c.rnd.IntN(2)
		case x < 0.12:
			c.slow[id] = true
		}
		c.mu.Unlock()
		_, err := c.broker.Publish(amqptest.Message{Exchange: "events", RoutingKey: "test.Tested",
			Properties: amqptest.Properties{MessageID: id, DeliveryMode: 2},
			Body:       fmt.Appendf(nil, `{"eventId":%q,"eventType":"Tested","source":"test","key":%q,"data":1}`, id, key)})
		if err != nil {
			return err
		}
	}
	return nil
}

var errFailed = errors.New("failed by the test")

// Handle takes effect once per event, and notes what must not be.
func (c *consuming) Handle(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	c.note("%s is handled", e.ID)
	c.mu.Lock()
	if e.Key != "" && c.busy[e.Key] {
		c.wrong = append(c.wrong, fmt.Errorf("event %s was handled beside another one of its key", e.ID))
	}
	c.busy[e.Key] = true
	pause := time.Duration(c.choices.IntN(1000)) * time.Microsecond
	if c.slow[e.ID] {
		pause = 400 * time.Millisecond
		c.slow[e.ID] = false
	}
	c.mu.Unlock()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[e.Key] = false
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case c.effects[e.ID] > 0:
		return inbox.Duplicate, nil
	case c.poison[e.ID] == amqp.PermanentFailure:
		return 0, inbox.Permanent(errFailed)
	case c.poison[e.ID] == amqp.AttemptsSpent:
		return 0, errFailed
	case c.flaky[e.ID] > 0:
		if c.flaky[e.ID]--; c.choices.IntN(2) == 0 {
			panic("by the test")
		}
		return 0, errFailed
	}
	if e.Key != "" && c.last[e.Key] > c.place[e.ID] {
		c.wrong = append(c.wrong, fmt.Errorf("event %s of key %q took effect after e%d", e.ID, e.Key, c.last[e.Key]))
	}
	c.last[e.Key] = c.place[e.ID]
	c.effects[e.ID]++
	return inbox.Handled, nil
}

// check looks at what took effect and what lies in the dead-letter queue.
func (c *consuming) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	wrong := c.wrong
	dead := map[string]string{}
	for _, m := range c.broker.Messages("work.dlq") {
		reason, _ := m.Headers[amqp.HeaderReason].(string)
		dead[m.MessageID] = reason
	}
	for id := range c.place {
		reason, is := dead[id]
		switch want := string(c.poison[id]); {
		case want == "" && is:
			wrong = append(wrong, fmt.Errorf("event %s was dead-lettered for %q", id, reason))
		case want == "" && c.effects[id] != 1:
			wrong = append(wrong, fmt.Errorf("event %s took effect %d times", id, c.effects[id]))
		case reason != want:
			wrong = append(wrong, fmt.Errorf("event %s was dead-lettered for %q, want %q", id, reason, want))
		}
	}
	return errors.Join(wrong...)
}
