package amqptest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Config configures a [Broker]. Its zero value works.
type Config struct {
	// Version is the version of RabbitMQ whose behaviour is followed where versions differ, and which is reported to
	// clients. Default "4.2.0". From "3.10" on.
	Version string

	// Users are the names and passwords that may log in, to all virtual hosts. Default guest with password guest.
	Users map[string]string

	// VHosts are the names of the virtual hosts. Default "/". The first is the one that Messages, Queue, Publish and
	// the like look at.
	VHosts []string

	// MaxMessageBytes is the largest body; a larger one closes the channel with 406. Default 16 MiB, as RabbitMQ ≥
	// 4.0.
	MaxMessageBytes int

	// FrameMaxBytes is the largest frame that is offered, header included. Default 131072, at least 4096.
	FrameMaxBytes uint32

	// ChannelMax is how many channels a connection may have. Default 2047.
	ChannelMax uint16

	// Heartbeat is the interval that is proposed to clients, in whole seconds; the smaller one of both sides' is
	// used. Default 60 s. Negative: none.
	Heartbeat time.Duration

	// ConsumerTimeout is how long a delivery may wait for its acknowledgement. Default 30 min, as RabbitMQ.
	ConsumerTimeout time.Duration

	// Confirms says how confirms are sent. The zero value: each at once, in order.
	Confirms Confirms

	// ReadBufferBytes is the size of each accepted socket's receive buffer. Default 0: the kernel's choice, which
	// lets a client write several MiB to a broker that doesn't read. With a few KiB its writes block soon.
	ReadBufferBytes int

	// PipeOnly means that no port is opened, and that connections come from Dial alone.
	PipeOnly bool
}

func (c Config) withDefaults() Config {
	if c.Version == "" {
		c.Version = "4.2.0"
	}
	if c.Users == nil {
		c.Users = map[string]string{"guest": "guest"}
	}
	if len(c.VHosts) == 0 {
		c.VHosts = []string{"/"}
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = 16 << 20
	}
	if c.FrameMaxBytes == 0 {
		c.FrameMaxBytes = defaultFrameMax
	}
	if c.ChannelMax == 0 {
		c.ChannelMax = 2047
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 60 * time.Second
	}
	if c.ConsumerTimeout == 0 {
		c.ConsumerTimeout = 30 * time.Minute
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if parseVersion(c.Version) < 3_010 {
		errs = append(errs, fmt.Errorf("amqptest: Config.Version is %q: set one from 3.10 on, such as 4.2.0", c.Version))
	}
	if c.MaxMessageBytes < 0 {
		errs = append(errs, fmt.Errorf("amqptest: Config.MaxMessageBytes is %d: set a positive limit, "+
			"or 0 for the default", c.MaxMessageBytes))
	}
	if c.FrameMaxBytes < 4096 {
		errs = append(errs, fmt.Errorf("amqptest: Config.FrameMaxBytes is %d: set at least 4096, "+
			"the least that AMQP 0-9-1 allows", c.FrameMaxBytes))
	}
	if c.ConsumerTimeout < 0 {
		errs = append(errs, fmt.Errorf("amqptest: Config.ConsumerTimeout is %s: set a positive limit, "+
			"or 0 for the default", c.ConsumerTimeout))
	}
	return errors.Join(errs...)
}

// Broker is a broker in this process. It is safe for concurrent use.
type Broker struct {
	cfg      Config
	rules    rules
	listener net.Listener   // nil with PipeOnly
	work     sync.WaitGroup // all goroutines and timers

	mu       sync.Mutex // guards all that follows, and all connections, channels, exchanges and queues
	closed   bool
	down     bool // killed, not started again
	conns    map[*connection]struct{}
	accepted int // connections so far: numbers the next one
	vhosts   map[string]*vhost
	timers   map[*timer]struct{}
	faults   []*installed
	quiet    bool // a fault's own frames are no events
	blocked  string
	resume   chan struct{} // closed when a blocked broker is unblocked; nil if it isn't blocked
	confirms Confirms
	named    int      // queues and consumers that the broker named
	stirred  []*queue // queues that may have something to deliver
	watchers map[*watcher]struct{}
}

// Start starts a broker on a free port of 127.0.0.1. Its error is about the config or the port.
func Start(cfg Config) (*Broker, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	b := &Broker{
		cfg: cfg, rules: rulesOf(cfg.Version), confirms: cfg.Confirms,
		conns: map[*connection]struct{}{}, vhosts: map[string]*vhost{}, timers: map[*timer]struct{}{},
		watchers: map[*watcher]struct{}{},
	}
	for _, name := range cfg.VHosts {
		b.vhosts[name] = newVHost(b, name)
	}
	if cfg.PipeOnly {
		return b, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("amqptest: %w", err)
	}
	b.listener = l
	b.work.Add(1)
	go b.accept()
	return b, nil
}

// URL returns the address of the first virtual host, with the first user in the order of names:
// amqp://guest:guest@127.0.0.1:port/. With PipeOnly the host stands for nothing; use [Broker.Dial].
func (b *Broker) URL() string {
	host := "amqptest"
	if b.listener != nil {
		host = b.listener.Addr().String()
	}
	user := slices.Min(slices.Collect(maps.Keys(b.cfg.Users)))
	u := url.URL{Scheme: "amqp", Host: host, User: url.UserPassword(user, b.cfg.Users[user]), Path: "/"}
	if vhost := b.cfg.VHosts[0]; vhost != "/" {
		u.Path += vhost
	}
	return u.String()
}

func (b *Broker) accept() {
	defer b.work.Done()
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return
		}
		tcp := conn.(*net.TCPConn)
		if b.cfg.ReadBufferBytes > 0 {
			_ = tcp.SetReadBuffer(b.cfg.ReadBufferBytes)
		}
		if !b.serve(tcp) {
			_ = tcp.SetLinger(0) // the client sees a reset, as from a port that nobody listens on
			_ = tcp.Close()
		}
	}
}

// serve serves a client's connection, unless the broker is down.
func (b *Broker) serve(conn net.Conn) bool {
	b.mu.Lock()
	defer b.unlock()
	if b.closed || b.down {
		return false
	}
	b.accepted++
	c := newConnection(b, conn, b.accepted)
	b.conns[c] = struct{}{}
	b.work.Add(2)
	go c.read()
	go c.write()
	return true
}

// errDown is what Dial returns while the broker is down.
var errDown = errors.New("amqptest: the broker is down")

// Dial connects over a net.Pipe, whatever the address. It fits amqp091.Config.Dial. A pipe has no buffer: a write
// blocks until the other side reads, so that a stalled broker blocks its clients at once.
func (b *Broker) Dial(_, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	if !b.serve(server) {
		return nil, errDown
	}
	return client, nil
}

// Close ends the broker and all connections, without a word to the clients, and returns when all its goroutines have
// ended. It may be called more than once.
func (b *Broker) Close() {
	b.mu.Lock()
	b.closed = true
	for _, c := range b.connections() {
		c.detach()
		c.cut()
	}
	for t := range b.timers {
		b.stop(t)
	}
	b.unlock()
	if b.listener != nil {
		_ = b.listener.Close()
	}
	b.work.Wait()
}

// Kill ends the broker as a crash does: all connections are cut, and new ones are refused until [Broker.Start]. What
// was stored and persistent in durable queues is kept, whether it was confirmed or not; transient messages, queues
// and exchanges are lost.
func (b *Broker) Kill() { b.kill(false) }

// Crash is [Kill] that also loses what an unlucky crash may lose: every message whose publisher asked for a confirm
// and wasn't sent one.
func (b *Broker) Crash() { b.kill(true) }

func (b *Broker) kill(loseUnconfirmed bool) {
	b.mu.Lock()
	defer b.unlock()
	b.down = true
	for _, c := range b.connections() {
		c.detach()
		c.cut()
	}
	for _, v := range b.vhosts {
		v.crash(loseUnconfirmed)
	}
}

// Start lets a killed broker accept connections again, at the same address.
func (b *Broker) Start() {
	b.mu.Lock()
	defer b.unlock()
	b.down = false
}

// Restart is Kill and Start.
func (b *Broker) Restart() {
	b.Kill()
	b.Start()
}

// CloseConnections closes all connections that are open now with connection.close, as an operator would with code 320
// and "CONNECTION_FORCED - …".
func (b *Broker) CloseConnections(code uint16, text string) {
	b.mu.Lock()
	defer b.unlock()
	for _, c := range b.connections() {
		c.refuse(&exception{code: code, text: text, hard: true})
	}
}

// Drop cuts all connections that are open now without a word: the clients see the end of the stream.
func (b *Broker) Drop() {
	b.mu.Lock()
	defer b.unlock()
	for _, c := range b.connections() {
		c.detach()
		c.cut()
	}
}

// Connections returns how many connections are open.
func (b *Broker) Connections() int {
	b.mu.Lock()
	defer b.unlock()
	return b.open()
}

func (b *Broker) open() int {
	n := 0
	for c := range b.conns {
		if c.state == running && !c.detached {
			n++
		}
	}
	return n
}

// Block raises an alarm, as RabbitMQ does when memory or disk run low: a connection that begins to publish is told so
// (connection.blocked with the reason), and nothing more is read from it, while heartbeats go on. The message with
// which it began is complete only after Unblock.
func (b *Broker) Block(reason string) {
	b.mu.Lock()
	defer b.unlock()
	if b.resume != nil {
		return
	}
	b.blocked, b.resume = reason, make(chan struct{})
}

// Unblock clears the alarm and tells those that were told of it.
func (b *Broker) Unblock() {
	b.mu.Lock()
	defer b.unlock()
	if b.resume == nil {
		return
	}
	close(b.resume)
	b.resume = nil
	for _, c := range b.connections() {
		c.relax()
	}
}

// unlock does what the work under the lock has left to do, and releases it.
func (b *Broker) unlock() {
	b.deliver()
	for w := range b.watchers {
		w.look()
	}
	b.mu.Unlock()
}

// deliver hands out what lies in queues until nothing more can be handed out.
func (b *Broker) deliver() {
	for len(b.stirred) > 0 {
		q := b.stirred[0]
		b.stirred = b.stirred[1:]
		q.stirred = false
		q.deliver()
	}
}

// connections returns the connections in the order in which they came, so that runs are alike.
func (b *Broker) connections() []*connection {
	return slices.SortedFunc(maps.Keys(b.conns), func(x, y *connection) int { return x.number - y.number })
}
