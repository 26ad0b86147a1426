package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// PublisherConfig configures a [Publisher]. Only Connection.URLs is required.
type PublisherConfig struct {
	Connection Connection

	// Routing says where events go. Default: to the topic exchange "events", under "{source}.{type}".
	Routing Routing

	// Exchanges describes exchanges that aren't plain topic exchanges: those of another kind, or with arguments.
	// Exchanges that Routing names and this doesn't are durable topic exchanges. What is listed here is declared even
	// if Routing doesn't name it.
	Exchanges []Exchange

	// Mode says whether exchanges are declared, verified or trusted to be there, at each connect. Default Declare.
	Mode Mode

	// Format says how messages carry events. Default [Envelope]. Consumers recognise every format.
	Format Format

	// MaxMessageBytes is the largest body. A larger event is refused, without troubling the broker, which would end
	// the session over it. Default 16 MiB, RabbitMQ's max_message_size since 4.0.
	MaxMessageBytes int

	// ConfirmTimeout is how long the oldest unconfirmed event may wait for its confirm before the session is given
	// up; it starts anew when an event becomes the oldest, and doesn't count while the broker is blocked. Default 30
	// s: a quorum queue that elects a leader needs seconds. The event isn't sent again on the same session, since a
	// broker that is merely slow would store it twice.
	ConfirmTimeout time.Duration

	// Window is how many events may be without an outcome; Send waits beyond. At least the relay's window, which has
	// the same default: 1024. More gains no rate, and the client library's bookkeeping grows with it. At most 16384.
	Window int

	// OmitPartitionKey leaves the header [HeaderPartitionKey] out, for brokers on which no subscription has
	// Partitions. Default false: without the header all events of a publisher go to one and the same partition.
	OmitPartitionKey bool

	// Logger is told when a session opens, and when the broker blocks and unblocks it. Default slog.Default().
	Logger *slog.Logger
}

const (
	defaultMaxMessageBytes = 16 << 20
	defaultConfirmTimeout  = 30 * time.Second
	defaultWindow          = 1024
	maxWindow              = 16384
)

func (c PublisherConfig) withDefaults() PublisherConfig {
	c.Connection = c.Connection.withDefaults()
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = defaultMaxMessageBytes
	}
	if c.ConfirmTimeout == 0 {
		c.ConfirmTimeout = defaultConfirmTimeout
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// validate checks a config with its defaults filled in.
func (c PublisherConfig) validate() []error {
	errs := c.Connection.validate()
	if err := c.Mode.validate(); err != nil {
		errs = append(errs, err)
	}
	if err := c.Format.validate(); err != nil {
		errs = append(errs, err)
	}
	listed := map[string]bool{}
	for _, e := range c.Exchanges {
		errs = append(errs, e.validate()...)
		if listed[e.Name] {
			errs = append(errs, fmt.Errorf("amqp: PublisherConfig.Exchanges lists %q twice: remove one", e.Name))
		}
		listed[e.Name] = true
	}
	if c.MaxMessageBytes < 0 {
		errs = append(errs, fmt.Errorf("amqp: PublisherConfig.MaxMessageBytes is %d: set a positive limit, "+
			"or 0 for the default", c.MaxMessageBytes))
	}
	if c.ConfirmTimeout < 0 {
		errs = append(errs, fmt.Errorf("amqp: PublisherConfig.ConfirmTimeout is %s: set a positive limit, "+
			"or 0 for the default", c.ConfirmTimeout))
	}
	if c.Window < 0 || c.Window > maxWindow {
		errs = append(errs, fmt.Errorf("amqp: PublisherConfig.Window is %d: use 1 to %d", c.Window, maxWindow))
	}
	return errs
}

// Publisher opens sessions that publish events to RabbitMQ. It holds no connection itself. It is safe for concurrent
// use.
type Publisher struct {
	cfg       PublisherConfig
	router    *router
	exchanges []Exchange // to declare or verify
	patience  patience
}

var _ relay.Publisher = (*Publisher)(nil)

// NewPublisher checks the config and returns a publisher. Its error names every problem with its remedy. It doesn't
// connect.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	cfg = cfg.withDefaults()
	router, routingErrs := cfg.Routing.compile()
	if err := errors.Join(append(cfg.validate(), routingErrs...)...); err != nil {
		return nil, err
	}
	p := &Publisher{cfg: cfg, router: router}
	p.patience.reset()
	listed := map[string]bool{}
	for _, e := range cfg.Exchanges {
		p.exchanges = append(p.exchanges, e.withDefaults())
		listed[e.Name] = true
	}
	for _, name := range router.exchanges() {
		if !listed[name] {
			p.exchanges = append(p.exchanges, Exchange{Name: name}.withDefaults())
		}
	}
	return p, nil
}

// Route returns where the event goes: what a span or a log line tells. The key may be longer than AMQP carries, for which the
// event would be refused.
func (p *Publisher) Route(e surepost.Event) (exchange, routingKey string) { return p.router.route(&e) }

// Window returns how many events may be without an outcome; relay.New compares it with the relay's own.
func (p *Publisher) Window() int { return p.cfg.Window }

// Open connects to one of the nodes, declares or verifies the exchanges, and returns a session. Its errors are
// [*ConnectError] and [*TopologyError], or say which request had no answer in time.
func (p *Publisher) Open(ctx context.Context) (relay.Session, error) {
	l, err := dial(ctx, p.cfg.Connection)
	if err != nil {
		return nil, err
	}
	s, err := p.open(ctx, l)
	if err != nil {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		l.close(grace)
		return nil, err
	}
	p.cfg.Logger.InfoContext(ctx, "connected to RabbitMQ to publish",
		"node", l.node.address(), "vhost", l.vhost(), "version", l.Properties["version"])
	return s, nil
}

func (p *Publisher) open(ctx context.Context, l *link) (*session, error) {
	// Registered before anything can happen, once, and read until the library closes them: it gives a listener that
	// isn't read five seconds, and then a lost "unblocked" would mean blocked for ever.
	ended := l.NotifyClose(make(chan *amqp091.Error, 1))
	blockings := l.NotifyBlocked(make(chan amqp091.Blocking, 16))
	for _, e := range p.exchanges {
		if err := e.ensure(ctx, l, p.cfg.Mode); err != nil {
			return nil, err
		}
	}
	// The channel is used to publish and for nothing else, by one goroutine: any other call could put its frame
	// between those of a message.
	ch, err := l.channel(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.do(ctx, "switch on publisher confirms", func() error { return ch.Confirm(false) }); err != nil {
		return nil, err
	}
	s := newSession(p, l, ch)
	go s.watch(ended, ch.NotifyClose(make(chan *amqp091.Error, 1)), blockings)
	go s.write()
	go s.collect()
	return s, nil
}
