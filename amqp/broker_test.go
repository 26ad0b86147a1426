package amqp

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp/amqptest"
)

// startBroker starts a broker with the exchange "events" and a queue "q" that takes everything of it.
func startBroker(t testing.TB, cfg amqptest.Config) *amqptest.Broker {
	t.Helper()
	b, err := amqptest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	administer(t, b, func(ch *amqp091.Channel) error {
		if err := ch.ExchangeDeclare("events", "topic", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
			return err
		}
		return ch.QueueBind("q", "#", "events", false, nil)
	})
	return b
}

// administer does something as somebody else, over a connection of its own.
func administer(t testing.TB, b *amqptest.Broker, do func(*amqp091.Channel) error) {
	t.Helper()
	conn, err := amqp091.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := do(ch); err != nil {
		t.Fatal(err)
	}
}

// record is what a broker has been seen doing.
type record struct {
	mu     sync.Mutex
	events []amqptest.Event
	more   chan struct{} // closed at the next event
}

// observe records the events that when chooses; nil: all.
func observe(b *amqptest.Broker, when func(amqptest.Event) bool) *record {
	r := &record{more: make(chan struct{})}
	b.Inject(amqptest.Fault{When: func(e amqptest.Event) bool {
		if when == nil || when(e) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
			close(r.more)
			r.more = make(chan struct{})
		}
		return false
	}})
	return r
}

func (r *record) all() []amqptest.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// await returns the first n events once there are so many.
func (r *record) await(t *testing.T, n int) []amqptest.Event {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		r.mu.Lock()
		events, more := slices.Clone(r.events), r.more
		r.mu.Unlock()
		if len(events) >= n {
			return events[:n]
		}
		select {
		case <-more:
		case <-limit:
			t.Fatalf("%d of %d events within 5 s", len(events), n)
		}
	}
}

// published chooses the message of an event.
func published(id string) func(amqptest.Event) bool {
	return amqptest.Publish(func(m *amqptest.Message) bool { return m.MessageID == id })
}

// stored returns the ids of a queue's messages.
func stored(b *amqptest.Broker, queue string) []string {
	var ids []string
	for _, m := range b.Messages(queue) {
		ids = append(ids, m.MessageID)
	}
	return ids
}

// put publishes an event named key/number for consumers, without a connection.
func put(t *testing.T, b *amqptest.Broker, key string, number int) {
	t.Helper()
	id := fmt.Sprintf("%s/%d", key, number)
	_, err := b.Publish(amqptest.Message{
		Exchange: "events", RoutingKey: "test.Tested",
		Properties: amqptest.Properties{MessageID: id, DeliveryMode: 2},
		Body: fmt.Appendf(nil, `{"eventId":%q,"eventType":"Tested","source":"test","key":%q,"data":%d}`,
			id, key, number),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// consume runs a consumer of the queue "work" and returns when it consumes. stop ends it and returns Run's result.
func consume(t *testing.T, b *amqptest.Broker, config ConsumerConfig) (stop func() error) {
	t.Helper()
	config.Connection.URLs = []string{b.URL()}
	config.Queue, config.Types, config.Logger = "work", []string{"#"}, slog.New(slog.DiscardHandler)
	c, err := NewConsumer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	t.Cleanup(func() { stop() })
	awaitQueue(t, b, "work", "a consumer", func(q amqptest.QueueState) bool { return q.Consumers > 0 })
	return stop
}

func awaitQueue(t *testing.T, b *amqptest.Broker, queue, what string, ok func(amqptest.QueueState) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.AwaitQueue(ctx, queue, ok); err != nil {
		state, _ := b.Queue(queue)
		t.Fatalf("%s: not within 5 s: %+v", what, state)
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

// within fails the test if f takes longer than limit.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s: not within %s", what, limit)
	}
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q doesn't say %q", err, part)
		}
	}
}
