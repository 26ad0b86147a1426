package integration

import (
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay/publishertest"
)

// The suite that amqp.Publisher passes on amqptest, on RabbitMQ itself; a proxy between them does what networks do.
func TestAMQPPublisherConforms(t *testing.T) {
	const brokerTakes, publisherTakes = 20_000, 30_000 // bytes of a message
	server := harness.Start(t, harness.RabbitMQ(harness.Private(), harness.Setting("max_message_size", "20000"))).RabbitMQ
	publishertest.Run(t, func(t *testing.T) *publishertest.Broker {
		admin := amqpChannel(t, server.URL())
		for _, name := range []string{"q", "full"} { // the last test's
			if _, err := admin.QueueDelete(name, false, false, false); err != nil {
				t.Fatal(err)
			}
		}
		bind := func(queue, key string, args amqp091.Table) {
			if err := admin.ExchangeDeclare("events", "topic", true, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := admin.QueueDeclare(queue, true, false, false, false, args); err != nil {
				t.Fatal(err)
			}
			if err := admin.QueueBind(queue, key, "events", false, nil); err != nil {
				t.Fatal(err)
			}
		}
		bind("q", "#.Tested", nil)
		bind("full", "#.Full", amqp091.Table{"x-max-length": int64(1), "x-overflow": "reject-publish"})
		if err := admin.Publish("", "full", false, false, amqp091.Publishing{}); err != nil {
			t.Fatal(err)
		}
		arrived := collect(t, amqpChannel(t, server.URL()), "q")
		wire := newLine(t, server.URL())
		cfg := publisherConfig(wire.url)
		cfg.MaxMessageBytes = publisherTakes
		cfg.Routing.Rules = []amqp.Rule{{Type: "Gone", Exchange: "gone"}}
		publisher, err := amqp.NewPublisher(cfg)
		if err != nil {
			t.Fatal(err)
		}
		long := func(bytes int) []byte { return []byte(`"` + strings.Repeat("x", bytes) + `"`) }
		return &publishertest.Broker{
			Publisher:  publisher,
			Published:  arrived.await,
			Reject:     func(_ testing.TB, e *surepost.Event) { e.Type = "Full" },
			Unroutable: func(_ testing.TB, e *surepost.Event) { e.Type = "Unbound" },
			Refuse:     func(_ testing.TB, e *surepost.Event) { e.Data = long(publisherTakes) },
			Blame:      func(_ testing.TB, e *surepost.Event) { e.Data = long(brokerTakes) },
			Kill: func(t testing.TB, e *surepost.Event) {
				e.Type = "Gone"
				if err := admin.ExchangeDelete("gone", false, false); err != nil {
					t.Fatal(err)
				}
			},
			Hold: func(testing.TB) func() {
				wire.set(func(l *line) { l.down = false })
				return func() { wire.set(func(l *line) { l.down = true }) }
			},
			Drop:    func(testing.TB) { wire.cut() },
			Hang:    func(testing.TB) { wire.set(func(l *line) { l.up, l.down = false, false }) },
			Stop:    func(testing.TB) { wire.set(func(l *line) { l.refuses = true }); wire.cut() },
			Start:   func(testing.TB) { wire.set(func(l *line) { l.refuses = false }) },
			Block:   func(t testing.TB) { server.Block(t) },
			Unblock: func(t testing.TB) { server.Unblock(t) },
		}
	})
}

// arrivals are the ids of what a queue got.
type arrivals struct {
	mu   sync.Mutex
	ids  []string
	more chan struct{}
}

func collect(t *testing.T, ch *amqp091.Channel, queue string) *arrivals {
	t.Helper()
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &arrivals{more: make(chan struct{})}
	go func() {
		for d := range deliveries {
			a.mu.Lock()
			a.ids = append(a.ids, d.MessageId)
			close(a.more)
			a.more = make(chan struct{})
			a.mu.Unlock()
		}
	}()
	return a
}

func (a *arrivals) await(t testing.TB, n int) []string {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		a.mu.Lock()
		ids, more := slices.Clone(a.ids), a.more
		a.mu.Unlock()
		if len(ids) >= n {
			return ids
		}
		select {
		case <-more:
		case <-limit:
			t.Fatalf("%d of %d events arrived within 10 s", len(ids), n)
		}
	}
}

// line is a TCP proxy to a broker.
type line struct {
	url      string
	mu       sync.Mutex
	up, down bool // what is passed on
	refuses  bool
	changed  chan struct{}
	conns    []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	broker := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = listener.Addr().String()
	l := &line{url: u.String(), up: true, down: true, changed: make(chan struct{})}
	t.Cleanup(func() {
		_ = listener.Close()
		l.set(func(l *line) { l.refuses = true })
		l.cut()
	})
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", broker)
			if err != nil {
				_ = client.Close()
				continue
			}
			l.mu.Lock()
			refused := l.refuses
			l.conns = append(l.conns, client, server)
			l.mu.Unlock()
			if refused {
				l.cut()
				continue
			}
			go l.pass(server, client, func() bool { return l.up })
			go l.pass(client, server, func() bool { return l.down })
		}
	}()
	return l
}

func (l *line) set(change func(*line)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *line) cut() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	l.set(func(*line) {})
}

// pass passes bytes on while open says so; what came before it closed is held.
func (l *line) pass(to io.WriteCloser, from io.ReadCloser, open func() bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		for {
			l.mu.Lock()
			pass, changed, over := open(), l.changed, len(l.conns) == 0
			l.mu.Unlock()
			if over {
				return
			}
			if pass {
				break
			}
			<-changed
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
