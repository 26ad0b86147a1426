package amqptest

import (
	"sync"
	"time"
)

// Event is something that a [Fault] can strike: a method that came from a client, or one that is about to be sent to
// it.
type Event struct {
	Conn     int    // the connection's number, from 1, in the order in which they were accepted
	Channel  uint16 // 0 is the connection itself
	Method   string // "basic.publish", as AMQP 0-9-1 names it
	Outgoing bool   // the broker sends it
	Nth      uint64 // which method of its direction it is on its channel, from 1; publishes count as one

	// Message is what basic.publish, basic.return, basic.deliver and basic.get-ok carry, otherwise nil.
	Message *Message

	// Tag and Multiple are what basic.ack, basic.nack and basic.reject say, in both directions.
	Tag      uint64
	Multiple bool
}

// tagOf reads the tag and the flag multiple from a method's arguments.
func tagOf(id methodID, args []byte) (tag uint64, multiple bool) {
	if id != basicAck && id != basicNack && id != basicReject {
		return 0, false
	}
	d := decoder{rest: args}
	tag = d.u64()
	return tag, id != basicReject && d.u8()&1 != 0
}

// Fault says what goes wrong, and when.
type Fault struct {
	// When chooses the events that are struck. nil: all, which is seldom meant. It is called under the broker's lock,
	// for one event at a time, and must not call the broker. One that always returns false observes.
	When func(Event) bool

	// Skip is how many chosen events pass unharmed first.
	Skip int

	// Times is how many chosen events are struck after that. Default 0: all.
	Times int

	// Do is what happens.
	Do Action

	// After makes closing, dropping and cutting happen after the event's effect: a message is stored by then, but not
	// confirmed; a method has been executed, but its answer isn't sent. Default false: there is no effect.
	After bool
}

// Publish chooses messages that clients publish. A nil function means all messages.
func Publish(which func(*Message) bool) func(Event) bool {
	return func(e Event) bool {
		return e.Method == "basic.publish" && !e.Outgoing && (which == nil || which(e.Message))
	}
}

// Received chooses methods that come from clients, by name.
func Received(method string) func(Event) bool {
	return func(e Event) bool { return e.Method == method && !e.Outgoing }
}

// Sent chooses methods that are about to be sent to clients, by name.
func Sent(method string) func(Event) bool {
	return func(e Event) bool { return e.Method == method && e.Outgoing }
}

// Sometimes narrows a choice to a share of its events. Which ones follows from the seed and the event's connection,
// channel, direction and number alone, so that a run can be repeated whatever else happens at the same time.
func Sometimes(seed uint64, share float64, when func(Event) bool) func(Event) bool {
	return func(e Event) bool {
		if when != nil && !when(e) {
			return false
		}
		x := mix(seed)
		for _, part := range [...]uint64{uint64(e.Conn), uint64(e.Channel), e.Nth} {
			x = mix(x ^ part)
		}
		if e.Outgoing {
			x = mix(x ^ 1)
		}
		return float64(x>>11)/(1<<53) < share
	}
}

// mix is SplitMix64's step, which spreads the bits of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Action is what a fault does. Actions about confirms have no effect on events that aren't publishes.
type Action func(*verdict)

// verdict is what all faults that strike an event have decided together.
type verdict struct {
	never      bool          // the message is not confirmed
	late       time.Duration // its confirm waits so long,
	gate       *Gate         // and until this is open
	nack       bool          // it is refused
	nackStored bool          // it is stored, and refused nevertheless
	unroutable bool          // it finds no queue

	half  bool // half of the frames is sent, then the connection ends
	final bool // the channel or the connection ends
	do    []func(c *connection, ch *channel)
}

// Together does several things to one event.
func Together(actions ...Action) Action {
	return func(v *verdict) {
		for _, a := range actions {
			a(v)
		}
	}
}

// NeverConfirm stores the message and sends no confirm.
func NeverConfirm() Action { return func(v *verdict) { v.never = true } }

// ConfirmAfter sends the message's confirm later.
func ConfirmAfter(d time.Duration) Action { return func(v *verdict) { v.late = d } }

// ConfirmWhen sends the message's confirm when the gate is open.
func ConfirmWhen(g *Gate) Action { return func(v *verdict) { v.gate = g } }

// Nack refuses the message: it isn't stored.
func Nack() Action { return func(v *verdict) { v.nack = true } }

// NackStored stores the message and refuses it nevertheless, as happens when one of several queues couldn't take it.
func NackStored() Action { return func(v *verdict) { v.nackStored = true } }

// Unroutable treats the message as if no queue were bound: it is returned if it is mandatory, and confirmed.
func Unroutable() Action { return func(v *verdict) { v.unroutable = true } }

// CloseChannel closes the event's channel with channel.close. On channel 0 it closes the connection.
func CloseChannel(code uint16, text string) Action {
	return end(func(c *connection, ch *channel) {
		e := &exception{code: code, text: text, hard: ch == nil}
		if ch == nil {
			c.refuse(e)
			return
		}
		ch.refuse(e)
	})
}

// CloseConnection closes the event's connection with connection.close.
func CloseConnection(code uint16, text string) Action {
	return end(func(c *connection, _ *channel) { c.refuse(&exception{code: code, text: text, hard: true}) })
}

// RefuseLogin refuses what came to log in, with RabbitMQ's words, if the event is connection.start-ok.
func RefuseLogin() Action {
	return end(func(c *connection, _ *channel) { c.refuse(loginRefused("PLAIN")) })
}

// Drop ends the event's connection without a word: what was to be sent is sent, then the client sees the end of the
// stream.
func Drop() Action { return end(func(c *connection, _ *channel) { c.drop() }) }

// Reset ends the event's connection with a TCP reset; what was to be sent may be lost. On a pipe it is Drop.
func Reset() Action { return end(func(c *connection, _ *channel) { c.reset() }) }

// CutFrame sends the first half of the frames of an outgoing event and ends the connection. For other events it is
// Drop.
func CutFrame() Action {
	return Together(Drop(), func(v *verdict) { v.half = true })
}

// StallReads stops reading from the event's connection until the gate is open: the client's writes block when the
// buffers between are full (Config.ReadBufferBytes).
func StallReads(g *Gate) Action {
	return stall(func(c *connection) { c.stalledReads = g })
}

// StallWrites stops writing to the event's connection, this event's frames included, until the gate is open.
func StallWrites(g *Gate) Action {
	return stall(func(c *connection) { c.stalledWrites = g })
}

func end(f func(*connection, *channel)) Action {
	return func(v *verdict) { v.final, v.do = true, append(v.do, f) }
}

func stall(f func(*connection)) Action {
	return func(v *verdict) { v.do = append(v.do, func(c *connection, _ *channel) { f(c) }) }
}

// Gate holds up what waits at it until it is opened, once.
type Gate struct {
	mu      sync.Mutex
	open    chan struct{}
	isOpen  bool
	waiting []func()
}

// NewGate returns a closed gate.
func NewGate() *Gate { return &Gate{open: make(chan struct{})} }

// Open lets pass all that waits at the gate, in the order in which it came, and all that comes later.
func (g *Gate) Open() {
	g.mu.Lock()
	if g.isOpen {
		g.mu.Unlock()
		return
	}
	g.isOpen = true
	close(g.open)
	waiting := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	for _, f := range waiting {
		f()
	}
}

// passed reports whether the gate is open.
func (g *Gate) passed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isOpen
}

// pass calls f when the gate is open, or reports that it is open already.
func (g *Gate) pass(f func()) (open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		g.waiting = append(g.waiting, f)
	}
	return g.isOpen
}

// installed is a fault with its counters.
type installed struct {
	Fault
	chosen int
}

// Inject adds a fault, also while connections are open, and returns a function that takes it away. An event may be
// struck by several faults.
func (b *Broker) Inject(f Fault) (remove func()) {
	b.mu.Lock()
	defer b.unlock()
	in := &installed{Fault: f}
	b.faults = append(b.faults, in)
	return func() {
		b.mu.Lock()
		defer b.unlock()
		for i, other := range b.faults {
			if other == in {
				b.faults = append(b.faults[:i:i], b.faults[i+1:]...)
				return
			}
		}
	}
}

// Heal takes all faults away, and lets all connections read and write that faults have stalled.
func (b *Broker) Heal() {
	b.mu.Lock()
	defer b.unlock()
	b.faults = nil
	for _, c := range b.connections() {
		c.stalledReads, c.stalledWrites = nil, nil
		close(c.healed)
		c.healed = make(chan struct{})
	}
}

// strike asks all faults about an event. before is what they do before its effect, after what they do after it.
func (b *Broker) strike(e Event) (before, after verdict) {
	if b.quiet {
		return
	}
	for _, f := range b.faults {
		if f.When != nil && !f.When(e) {
			continue
		}
		f.chosen++
		if f.chosen <= f.Skip || f.Times > 0 && f.chosen > f.Skip+f.Times || f.Do == nil {
			continue
		}
		if f.After {
			f.Do(&after)
		} else {
			f.Do(&before)
		}
	}
	return before, after
}

// apply does what ends, drops or stalls.
func (v verdict) apply(c *connection, ch *channel) {
	if len(v.do) == 0 {
		return
	}
	c.broker.quiet = true
	defer func() { c.broker.quiet = false }()
	for _, f := range v.do {
		f(c, ch)
	}
}

// merge joins what faults of both times have decided about a confirm.
func (v verdict) merge(o verdict) verdict {
	v.never, v.nack, v.nackStored = v.never || o.never, v.nack || o.nack, v.nackStored || o.nackStored
	v.unroutable = v.unroutable || o.unroutable
	if o.late > 0 {
		v.late = o.late
	}
	if o.gate != nil {
		v.gate = o.gate
	}
	return v
}
