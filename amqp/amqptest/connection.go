package amqptest

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"time"
)

// connState says how far a connection has come (AMQP 0-9-1 §2.2.4).
type connState int

const (
	starting connState = iota // connection.start was sent
	tuning                    // connection.tune was sent
	opening                   // waits for connection.open
	running
	closing // connection.close was sent
)

const (
	// handshakeLimit is RabbitMQ's handshake_timeout.
	handshakeLimit = 10 * time.Second
	// closeLimit bounds the wait for connection.close-ok, and for a client that doesn't read its last bytes.
	closeLimit = 3 * time.Second
	// congestedBytes is how much may wait to be written to a client before the broker stops delivering to it and
	// reading from it. It bounds the memory that a client can take that doesn't read.
	congestedBytes = 1 << 20
)

// connection is a client's connection. One goroutine reads frames and executes them under the broker's lock; what
// they have to say to clients is appended to out, which another goroutine writes.
type connection struct {
	broker *Broker
	raw    net.Conn
	number int
	in     *bufio.Reader // the reading goroutine's
	// patience is how long the reading goroutine waits for bytes; 0: for ever.
	patience time.Duration
	done     chan struct{} // closed with raw
	wake     chan struct{} // tells the writing goroutine to look
	drain    chan struct{} // tells the reading goroutine that out has shrunk

	// Under the broker's lock.

	state     connState
	detached  bool // its channels have ended; nothing more is executed
	flushing  bool // nothing more is appended to out; raw is closed when it is written
	vhost     *vhost
	user      string
	frameMax  uint32
	heartbeat time.Duration // 0: none
	can       Table         // the client's capabilities
	channels  map[uint16]*channel
	out       []byte
	nthIn     uint64
	nthOut    uint64
	muted     bool
	deadline  *timer // of the closing handshake

	blocked bool // it has begun to publish during an alarm: nothing more is read from it

	stalledReads, stalledWrites *Gate
	healed                      chan struct{} // closed when the gates change
}

func newConnection(b *Broker, raw net.Conn, number int) *connection {
	c := &connection{
		broker: b, raw: raw, number: number,
		done: make(chan struct{}), wake: make(chan struct{}, 1), drain: make(chan struct{}, 1),
		patience: handshakeLimit, frameMax: handshakeFrameMax, channels: map[uint16]*channel{}, healed: make(chan struct{}),
	}
	c.in = bufio.NewReaderSize(idleReader{c}, 32<<10)
	return c
}

// idleReader ends a connection from which nothing comes for two heartbeats, as RabbitMQ does.
type idleReader struct{ c *connection }

func (r idleReader) Read(p []byte) (int, error) {
	var until time.Time
	if r.c.patience > 0 {
		until = time.Now().Add(r.c.patience)
	}
	if err := r.c.raw.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return r.c.raw.Read(p)
}

// errOver ends the reading goroutine.
var errOver = errors.New("the connection is over")

// read reads frames and executes them.
func (c *connection) read() {
	defer c.broker.work.Done()
	err := c.greet()
	for err == nil {
		var f frame
		if f, err = readFrame(c.in, c.frameMax); err == nil && c.mayGoOn() {
			err = c.take(f)
		}
	}
	c.broker.mu.Lock()
	defer c.broker.unlock()
	if tooLarge := (*frameTooLarge)(nil); errors.As(err, &tooLarge) || errors.Is(err, errFrameEnd) {
		c.refuse(refuse(501, "%v", err))
		c.flushing = true // where the next frame would begin is unknown: nothing more is read
		c.poke()
		return
	}
	c.detach()
	if !c.flushing {
		c.cut()
	}
}

// greet reads the protocol header and answers with connection.start.
func (c *connection) greet() error {
	head := make([]byte, len(protocolHeader))
	for n := 0; n < len(head); n++ {
		var err error
		if head[n], err = c.in.ReadByte(); err != nil {
			return err
		}
	}
	c.broker.mu.Lock()
	defer c.broker.unlock()
	if string(head) != protocolHeader {
		c.out = append(c.out, protocolHeader...) // AMQP 0-9-1 §4.2.2: say what is understood, and close
		c.drop()
		return errOver
	}
	c.sendMethod(connectionStart, begin(connectionStart).u8(0).u8(9).
		table(c.broker.properties()).longstr("PLAIN AMQPLAIN").longstr("en_US"))
	return nil
}

// properties are what the broker says about itself.
func (b *Broker) properties() Table {
	return Table{
		"product":      "RabbitMQ-compatible test broker",
		"version":      b.cfg.Version,
		"platform":     "Go",
		"cluster_name": "amqptest",
		"information":  "In-process broker of package amqptest, for tests and demos only",
		"capabilities": Table{
			"publisher_confirms": true, "exchange_exchange_bindings": true, "basic.nack": true,
			"consumer_cancel_notify": true, "connection.blocked": true, "consumer_priorities": true,
			"authentication_failure_close": true, "per_consumer_qos": true, "direct_reply_to": false,
		},
	}
}

// mayGoOn waits while the connection shall not be read from. False: it is over.
func (c *connection) mayGoOn() bool {
	for {
		wait, healed := c.hold()
		if wait == nil {
			return true
		}
		select {
		case <-wait:
		case <-healed:
		case <-c.drain:
		case <-c.done:
			return false
		}
	}
}

// never is a channel on which nothing comes.
var never = make(chan struct{})

// hold says what reading has to wait for; nil if nothing.
func (c *connection) hold() (wait, healed <-chan struct{}) {
	b := c.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case c.detached:
	case c.stalledReads != nil && !c.stalledReads.passed():
		return c.stalledReads.open, c.healed
	case b.resume != nil && c.blocked:
		return b.resume, c.healed
	case len(c.out) > congestedBytes:
		return never, c.healed
	}
	return nil, nil
}

// take executes one frame.
func (c *connection) take(f frame) error {
	c.broker.mu.Lock()
	defer c.broker.unlock()
	if c.flushing {
		return errOver
	}
	if c.detached {
		return c.closingFrame(f)
	}
	err := c.execute(f)
	if e := (*exception)(nil); errors.As(err, &e) {
		if ch := c.channels[f.channel]; ch != nil && !e.hard {
			ch.refuse(e)
		} else {
			c.refuse(e)
		}
		return nil
	}
	return err
}

// closingFrame looks for the answer to connection.close; all else is too late.
func (c *connection) closingFrame(f frame) error {
	if f.kind != frameMethod || f.channel != 0 || len(f.payload) < 4 {
		return nil
	}
	d := decoder{rest: f.payload}
	switch methodID(d.u32()) {
	case connectionCloseOk:
		return errOver
	case connectionClose: // both at once
		c.sendMethod(connectionCloseOk, begin(connectionCloseOk))
		c.drop()
		return errOver
	}
	return nil
}

func (c *connection) execute(f frame) error {
	switch f.kind {
	case frameHeartbeat:
		if f.channel != 0 {
			return refuse(501, "heartbeat on channel %d", f.channel)
		}
		return nil
	case frameMethod:
		d := &decoder{rest: f.payload}
		id := methodID(d.u32())
		if d.err != nil {
			return refuse(501, "method frame of %d bytes", len(f.payload))
		}
		var err error
		if f.channel == 0 {
			err = c.control(id, d)
		} else {
			err = c.method(f.channel, id, d)
		}
		if e := (*exception)(nil); errors.As(err, &e) {
			e.at = id
		}
		return err
	case frameHeader, frameBody:
		ch := c.channels[f.channel]
		switch {
		case ch == nil:
			return refuse(504, "expected 'channel.open'")
		case ch.closing:
			return nil
		case f.kind == frameHeader:
			return ch.header(f.payload)
		}
		return ch.body(f.payload)
	}
	return refuse(501, "frame of unknown type %d", f.kind)
}

// method executes a method on a channel.
func (c *connection) method(number uint16, id methodID, d *decoder) error {
	ch := c.channels[number]
	switch {
	case ch == nil && id == channelCloseOk: // both closed at once
		return nil
	case ch == nil && id == channelOpen:
		if len(c.channels) >= int(c.broker.cfg.ChannelMax) {
			return refuse(530, "number of channels opened (%d) has reached the negotiated channel_max (%d)",
				len(c.channels), c.broker.cfg.ChannelMax)
		}
		ch = newChannel(c, number)
		c.channels[number] = ch
		return c.executeMethod(ch, id, d, func(*decoder) error {
			ch.sendMethod(channelOpenOk, begin(channelOpenOk).longstr(""))
			return nil
		})
	case ch == nil:
		return refuse(504, "expected 'channel.open'")
	case ch.closing:
		switch id {
		case channelClose:
			ch.sendMethod(channelCloseOk, begin(channelCloseOk))
			delete(c.channels, number)
		case channelCloseOk:
			delete(c.channels, number)
		}
		return nil
	case ch.incoming != nil:
		return refuse(505, "expected content header for class %d, got non content header frame instead", classBasic)
	case id == channelOpen:
		return refuse(504, "second 'channel.open' seen")
	case id == basicPublish:
		c.throttle()
		return ch.publish(d)
	}
	do := channelMethods[id]
	if do == nil {
		if id == txSelect {
			return refuse(540, "amqptest knows no transactions")
		}
		return refuse(503, "unknown or unexpected method %d of class %d", id.number(), id.class())
	}
	return c.executeMethod(ch, id, d, func(d *decoder) error { return do(ch, d) })
}

// executeMethod executes a method with the faults that strike it. ch is nil on channel 0.
func (c *connection) executeMethod(ch *channel, id methodID, d *decoder, do func(*decoder) error) error {
	before, after := c.strikeIncoming(ch, id, d.rest, nil)
	before.apply(c, ch)
	if c.over(ch) {
		return nil
	}
	c.mute(ch, after.final) // the client learns nothing of what is done
	err := do(d)
	c.mute(ch, false)
	if err == nil {
		after.apply(c, ch)
	}
	return err
}

// mute suppresses what is sent on a channel; nil is channel 0.
func (c *connection) mute(ch *channel, on bool) {
	if ch == nil {
		c.muted = on
	} else {
		ch.muted = on
	}
}

// strikeIncoming asks the faults about a method that came in. ch is nil on channel 0.
func (c *connection) strikeIncoming(ch *channel, id methodID, args []byte, m *Message) (before, after verdict) {
	nth, number := &c.nthIn, uint16(0)
	if ch != nil {
		nth, number = &ch.nthIn, ch.id
	}
	*nth++
	if len(c.broker.faults) == 0 {
		return
	}
	e := Event{Conn: c.number, Channel: number, Method: methodNames[id], Nth: *nth, Message: m}
	e.Tag, e.Multiple = tagOf(id, args)
	return c.broker.strike(e)
}

// over reports whether the connection, or the channel if it isn't nil, has ended.
func (c *connection) over(ch *channel) bool { return c.detached || ch != nil && ch.closing }

// control executes a method on channel 0.
func (c *connection) control(id methodID, d *decoder) error {
	expected := map[connState]methodID{starting: connectionStartOk, tuning: connectionTuneOk, opening: connectionOpen}
	if want, ok := expected[c.state]; ok && id != want && id != connectionClose {
		return refuse(503, "expected %s, got method %d of class %d", methodNames[want], id.number(), id.class())
	}
	var do func(*decoder) error
	switch {
	case id == connectionStartOk && c.state == starting:
		do = c.startOk
	case id == connectionTuneOk && c.state == tuning:
		do = c.tuneOk
	case id == connectionOpen && c.state == opening:
		do = c.open
	case id == connectionClose:
		do = func(*decoder) error {
			c.detach()
			c.sendMethod(connectionCloseOk, begin(connectionCloseOk))
			c.drop()
			return nil
		}
	default:
		return refuse(503, "unexpected method %d of class %d on channel 0", id.number(), id.class())
	}
	return c.executeMethod(nil, id, d, do)
}

func loginRefused(mechanism string) *exception {
	e := refuse(403, "Login was refused using authentication mechanism %s. For details see the broker logfile.", mechanism)
	e.hard = true
	return e
}

func (c *connection) startOk(d *decoder) error {
	client := d.table()
	mechanism, response := d.shortstr(), d.longstr()
	d.shortstr() // locale
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	c.can, _ = client["capabilities"].(Table)
	var user, password string
	switch mechanism {
	case "PLAIN": // RFC 4616: authorization identity NUL authentication identity NUL password
		if parts := strings.Split(response, "\x00"); len(parts) == 3 {
			user, password = parts[1], parts[2]
		}
	case "AMQPLAIN": // a table without its length
		login := (&decoder{rest: payload(nil).longstr(response)}).table()
		user, _ = login["LOGIN"].(string)
		password, _ = login["PASSWORD"].(string)
	default:
		return loginRefused(mechanism)
	}
	if want, ok := c.broker.cfg.Users[user]; !ok || want != password {
		if c.can["authentication_failure_close"] != true {
			c.detach()
			c.drop()
			return nil
		}
		return loginRefused(mechanism)
	}
	c.user = user
	c.state = tuning
	cfg := c.broker.cfg
	c.sendMethod(connectionTune, begin(connectionTune).u16(cfg.ChannelMax).u32(cfg.FrameMaxBytes).
		u16(uint16(max(cfg.Heartbeat, 0)/time.Second)))
	return nil
}

func (c *connection) tuneOk(d *decoder) error {
	channelMax, frameMax, heartbeat := d.u16(), d.u32(), d.u16()
	cfg := c.broker.cfg
	switch {
	case d.err != nil:
		return refuse(502, "%v", d.err)
	case channelMax > cfg.ChannelMax || channelMax == 0:
		return refuse(530, "negotiated channel_max=%d is higher than the maximum allowed value (%d)", channelMax, cfg.ChannelMax)
	case frameMax > cfg.FrameMaxBytes || frameMax == 0:
		return refuse(530, "negotiated frame_max=%d is higher than the maximum allowed value (%d)", frameMax, cfg.FrameMaxBytes)
	case frameMax < 4096:
		return refuse(530, "negotiated frame_max=%d is lower than the minimum allowed value (%d)", frameMax, 4096)
	}
	c.frameMax = frameMax
	c.heartbeat = time.Duration(heartbeat) * time.Second
	c.state = opening
	c.poke() // the writer's heartbeats
	return nil
}

func (c *connection) open(d *decoder) error {
	name := d.shortstr()
	v := c.broker.vhosts[name]
	if v == nil {
		return refuse(530, "vhost %s not found", name)
	}
	c.vhost = v
	c.state = running
	c.patience = 2 * c.heartbeat
	c.sendMethod(connectionOpenOk, begin(connectionOpenOk).shortstr(""))
	return nil
}

// refuse ends the connection with connection.close.
func (c *connection) refuse(e *exception) {
	if c.detached {
		return
	}
	c.detach()
	c.sendMethod(connectionClose,
		begin(connectionClose).u16(e.code).shortstr(e.text).u16(e.at.class()).u16(e.at.number()))
	c.state = closing
	c.deadline = c.broker.after(closeLimit, c.cut)
}

// detach ends all channels: what they hold goes back to its queues. It may be called more than once.
func (c *connection) detach() {
	if c.detached {
		return
	}
	c.detached = true
	for _, ch := range c.sortedChannels() {
		ch.end(true)
	}
	clear(c.channels)
	if c.vhost != nil {
		c.vhost.deleteExclusive(c)
	}
}

// drop ends the connection when all is written that there is to write.
func (c *connection) drop() {
	c.detach()
	if c.stalledWrites != nil && !c.stalledWrites.passed() {
		c.cut()
		return
	}
	c.flushing = true
	_ = c.raw.SetWriteDeadline(time.Now().Add(closeLimit)) // an error means that it is closed already
	c.poke()
}

// reset ends the connection at once, with a TCP reset where there is TCP.
func (c *connection) reset() {
	c.detach()
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.cut()
}

// cut closes the socket. It may be called more than once.
func (c *connection) cut() {
	select {
	case <-c.done:
		return
	default:
	}
	close(c.done)
	c.broker.stop(c.deadline)
	delete(c.broker.conns, c)
	_ = c.raw.Close()
}

// throttle blocks a client that publishes during an alarm, and tells it.
func (c *connection) throttle() {
	if c.broker.resume == nil || c.blocked {
		return
	}
	c.blocked = true
	if c.can["connection.blocked"] == true {
		c.sendMethod(connectionBlocked, begin(connectionBlocked).shortstr(c.broker.blocked))
	}
}

// relax tells a client that was blocked that the alarm is over.
func (c *connection) relax() {
	if c.blocked && c.can["connection.blocked"] == true && !c.detached {
		c.sendMethod(connectionUnblocked, begin(connectionUnblocked))
	}
	c.blocked = false
}

// sendMethod sends a method on channel 0.
func (c *connection) sendMethod(id methodID, p payload) { c.send(nil, id, p, nil, nil) }

// send appends the frames of a method, and of the message that it carries, to out, with the faults that strike them.
// ch is nil on channel 0.
func (c *connection) send(ch *channel, id methodID, p payload, m *Message, properties []byte) {
	nth, number, muted := &c.nthOut, uint16(0), c.muted
	if ch != nil {
		nth, number, muted = &ch.nthOut, ch.id, ch.muted
	}
	if muted || c.flushing {
		return
	}
	*nth++
	var before, after verdict
	if len(c.broker.faults) > 0 {
		e := Event{Conn: c.number, Channel: number, Method: methodNames[id], Outgoing: true, Nth: *nth, Message: m}
		e.Tag, e.Multiple = tagOf(id, p[4:])
		before, after = c.broker.strike(e)
	}
	half := before.half || after.half
	if !half {
		before.apply(c, ch)
		if before.final {
			return
		}
	}
	mark := len(c.out)
	c.out = appendFrame(c.out, frameMethod, number, p)
	if m != nil {
		c.out = appendContent(c.out, number, properties, m.Body, c.frameMax)
	}
	if half {
		c.out = c.out[:mark+(len(c.out)-mark)/2]
		c.drop()
		return
	}
	c.poke()
	after.apply(c, ch)
}

// poke tells the writing goroutine to look.
func (c *connection) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// congested says that a client doesn't read what is sent to it.
func (c *connection) congested() bool { return len(c.out) > congestedBytes }
