package amqptest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

func event(i int) surepost.Event {
	return surepost.Event{ID: fmt.Sprintf("e%d", i), Type: "OrderCreated", Source: "shop", Version: "1.0",
		CorrelationID: "c", Key: "k", Time: time.Now(), Data: []byte(`{"n":1}`)}
}

// TestPublisherRunsAgainstIt: Surepost's own publisher, with outcomes of all kinds, to the end of its session.
func TestPublisherRunsAgainstIt(t *testing.T) {
	b := start(t, amqptest.Config{Confirms: amqptest.Confirms{Gather: 8, Shuffle: true, Multiple: true, Seed: 1}})
	p := must(amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{b.URL()}}, Logger: silent}))(t)
	session := must(p.Open(t.Context()))(t)
	c := connect(t, b)
	if err := c.ch.QueueBind("q", "shop.#", "events", false, nil); err != nil {
		t.Fatal(err)
	}
	b.Inject(amqptest.Fault{When: byID("e3"), Do: amqptest.Nack()})
	b.Inject(amqptest.Fault{When: byID("e5"), Do: amqptest.Unroutable()})
	const n = 50
	for i := range n {
		if err := session.Send(t.Context(), uint64(i), &relay.Entry{Seq: int64(i), Event: event(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var got []relay.Outcome
	for len(got) < n {
		got = append(got, await(t, "outcomes", session.Outcomes())...)
	}
	for i, o := range got {
		want := map[int]relay.Status{3: relay.Rejected, 5: relay.Unroutable}[i]
		if want == 0 {
			want = relay.Confirmed
		}
		if o.Tag != uint64(i) || o.Status != want {
			t.Errorf("outcome %d is %+v, want %v", i, o, want)
		}
	}
	if stored := len(b.Messages("q")); stored != n-2 {
		t.Errorf("%d stored, want %d", stored, n-2)
	}
	b.CloseConnections(320, "CONNECTION_FORCED - restarted by an operator")
	if _, ok := <-session.Outcomes(); ok {
		t.Error("an outcome after the end")
	}
	if err := session.Err(); err == nil || !strings.Contains(err.Error(), "restarted by an operator") {
		t.Errorf("the session ended with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := session.Close(ctx); !errors.Is(err, session.Err()) { // it has ended already
		t.Error(err)
	}
}

// ledger is a handler that notes what it handles.
type ledger struct {
	mu      sync.Mutex
	handled []string
	all     chan struct{} // closed when so many were handled
	want    int
}

func (l *ledger) Handle(_ context.Context, e surepost.Event) (inbox.Result, error) {
	if e.ID == "poison" {
		return 0, inbox.Permanent(fmt.Errorf("can't be handled"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.handled {
		if id == e.ID {
			return inbox.Duplicate, nil
		}
	}
	if l.handled = append(l.handled, e.ID); len(l.handled) == l.want {
		close(l.all)
	}
	return inbox.Handled, nil
}

// TestConsumerRunsAgainstIt: Surepost's own consumer, through lost connections and a crash of the broker, with a dead
// letter, to a shutdown that leaves nothing.
func TestConsumerRunsAgainstIt(t *testing.T) {
	for _, version := range []string{"3.10.8", "4.3.6"} {
		t.Run(version, func(t *testing.T) {
			b := start(t, amqptest.Config{Version: version})
			l := &ledger{all: make(chan struct{}), want: 100}
			connected := make(chan struct{}, 100)
			consumer := must(amqp.NewConsumer(amqp.ConsumerConfig{
				Connection: amqp.Connection{URLs: []string{b.URL()}}, Handler: l, Queue: "billing", Types: []string{"OrderCreated"},
				Logger: silent, Hooks: amqp.ConsumerHooks{OnConnect: func() { connected <- struct{}{} }}}))(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			done := make(chan error, 1)
			go func() { done <- consumer.Run(ctx) }()
			await(t, "consumer", connected)
			for i := range l.want {
				publishEvent(t, b, event(i))
				switch i {
				case 30:
					b.Drop()
				case 60:
					b.Restart()
				}
			}
			poison := event(0)
			poison.ID = "poison"
			publishEvent(t, b, poison)
			await(t, "last event", l.all)
			within, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := b.AwaitQueue(within, "billing", func(q amqptest.QueueState) bool { return q.Ready+q.Unacked == 0 }); err != nil {
				t.Error(err)
			}
			if letters := b.Messages("billing.dlq"); len(letters) != 1 || letters[0].MessageID != "poison" {
				t.Errorf("dead letters %+v", letters)
			}
			for i, id := range l.handled {
				if id != event(i).ID {
					t.Errorf("event %d handled is %s", i, id)
				}
			}
			stop()
			if err := await(t, "end of Run", done); err != nil {
				t.Error(err)
			}
			if err := b.AwaitConnections(within, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

func publishEvent(t *testing.T, b *amqptest.Broker, e surepost.Event) {
	t.Helper()
	m := must(amqp.PublishingFromEvent(e))(t)
	headers := amqptest.Table{}
	for k, v := range m.Headers {
		headers[k] = v
	}
	n := must(b.Publish(amqptest.Message{Exchange: "events", RoutingKey: "shop.OrderCreated", Body: m.Body,
		Properties: amqptest.Properties{MessageID: m.MessageId, Type: m.Type, AppID: m.AppId, ContentType: m.ContentType,
			DeliveryMode: 2, CorrelationID: m.CorrelationId, Timestamp: m.Timestamp, Headers: headers}}))(t)
	if n != 1 {
		t.Fatalf("%d queues took %s", n, e.ID)
	}
}
