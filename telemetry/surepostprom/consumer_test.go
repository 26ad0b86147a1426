package surepostprom

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/memstore"
)

// canteen is a consumer with metrics on a broker in this process.
type canteen struct {
	t      *testing.T
	broker *amqptest.Broker
	inbox  *inbox.Inbox[*memstore.Tx]
	all    *prometheus.Registry
}

const queue = "inventory.orders"

func open(t *testing.T, config amqp.ConsumerConfig) *canteen {
	broker, err := amqptest.Start(amqptest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	c := &canteen{t: t, broker: broker, all: prometheus.NewRegistry()}
	if c.inbox, err = inbox.New(memstore.New(), inbox.Config{Consumer: "inventory"}); err != nil {
		t.Fatal(err)
	}
	c.inbox.On("Good", func(context.Context, *memstore.Tx, surepost.Event) error { return nil })
	failures := 0
	c.inbox.On("Flaky", func(context.Context, *memstore.Tx, surepost.Event) error {
		if failures++; failures%2 == 1 {
			return errors.New("no luck")
		}
		return nil
	})
	c.inbox.On("Bad", func(context.Context, *memstore.Tx, surepost.Event) error { return inbox.Permanent(errors.New("never")) })
	config.Connection = amqp.Connection{URLs: []string{broker.URL()}}
	config.Queue, config.Handler, config.Logger = queue, c.inbox, silent
	config.BindingKeys, config.Backoff = []string{"#"}, amqp.Backoff{Min: time.Millisecond, Max: time.Millisecond}
	config.Hooks = Consumer(c.all, queue, c.inbox.Types()...)
	consumer, err := amqp.NewConsumer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- consumer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c.await("the queue", func() bool { _, there := broker.Queue(queue); return there })
	return c
}

func (c *canteen) await(what string, reached func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// send puts an event straight into the queue.
func (c *canteen) send(id, eventType string, age time.Duration) {
	c.t.Helper()
	at := time.Now().Add(-age).UTC().Format(time.RFC3339Nano)
	body := fmt.Sprintf(`{"eventId":%q,"eventType":%q,"timestamp":%q,"source":"test","key":%q,"data":{}}`, id, eventType, at, id)
	c.sendBody(id, body)
}

func (c *canteen) sendBody(id, body string) {
	c.t.Helper()
	if _, err := c.broker.Publish(amqptest.Message{RoutingKey: queue, Properties: amqptest.Properties{MessageID: id}, Body: []byte(body)}); err != nil {
		c.t.Fatal(err)
	}
}

// awaitSample waits until a metric has a value.
func (c *canteen) awaitSample(name string, value float64) {
	c.t.Helper()
	c.await(fmt.Sprintf("%s = %v", name, value), func() bool { return gather(c.t, c.all)[name] == value })
}

func TestTheConsumersMetricsMoveByWhatHappens(t *testing.T) {
	c := open(t, amqp.ConsumerConfig{})
	c.awaitSample(`surepost_consumer_connected{queue="inventory.orders"}`, 1)
	c.send("1", "Good", 2*time.Hour)
	c.awaitSample(`surepost_consumer_events_total{queue="inventory.orders",result="handled",type="Good"}`, 1)
	c.send("1", "Good", 0)
	c.awaitSample(`surepost_consumer_events_total{queue="inventory.orders",result="duplicate",type="Good"}`, 1)
	c.send("2", "Flaky", 0)
	c.awaitSample(`surepost_consumer_events_total{queue="inventory.orders",result="handled",type="Flaky"}`, 1)
	c.send("3", "Bad", 0)
	c.awaitSample(`surepost_consumer_dead_lettered_total{queue="inventory.orders",reason="permanent-failure"}`, 1)
	c.sendBody("4", "what?")
	c.awaitSample(`surepost_consumer_dead_lettered_total{queue="inventory.orders",reason="not-an-event"}`, 1)
	for n := range 20 { // types that nobody has named
		c.send(fmt.Sprint("x", n), fmt.Sprint("Unheard", n), 0)
	}
	c.awaitSample(`surepost_consumer_events_total{queue="inventory.orders",result="skipped",type="other"}`, 20)

	got := gather(t, c.all)
	got.wants(t, "all handled", samples{
		`surepost_consumer_retries_total{kind="in-place",queue="inventory.orders"}`:                               1,
		`surepost_consumer_retries_total{kind="outage",queue="inventory.orders"}`:                                 0,
		`surepost_consumer_retries_total{kind="delayed",queue="inventory.orders"}`:                                0,
		`surepost_consumer_handler_duration_seconds_count{outcome="ok",queue="inventory.orders",type="Good"}`:     2,
		`surepost_consumer_handler_duration_seconds_count{outcome="ok",queue="inventory.orders",type="Flaky"}`:    1,
		`surepost_consumer_handler_duration_seconds_count{outcome="error",queue="inventory.orders",type="Flaky"}`: 1,
		`surepost_consumer_handler_duration_seconds_count{outcome="error",queue="inventory.orders",type="Bad"}`:   1,
		`surepost_consumer_handler_duration_seconds_count{outcome="ok",queue="inventory.orders",type="other"}`:    20,
		`surepost_consumer_batch_events_count{queue="inventory.orders"}`:                                          25,
		`surepost_consumer_batch_events_sum{queue="inventory.orders"}`:                                            25,
		`surepost_consumer_event_age_seconds_count{queue="inventory.orders"}`:                                     2, // what was handled
		`surepost_consumer_connects_total{queue="inventory.orders"}`:                                              1,
		`surepost_consumer_disconnects_total{queue="inventory.orders"}`:                                           0,
		`surepost_consumer_batches_failed_total{queue="inventory.orders"}`:                                        0,
	})
	if age := got[`surepost_consumer_event_age_seconds_sum{queue="inventory.orders"}`]; age < 7200 || age > 7260 {
		t.Errorf("ages of two hours and of nothing sum to %v s", age)
	}

	c.broker.Drop()
	c.awaitSample(`surepost_consumer_disconnects_total{queue="inventory.orders"}`, 1)
	c.awaitSample(`surepost_consumer_connects_total{queue="inventory.orders"}`, 2)
	c.awaitSample(`surepost_consumer_connected{queue="inventory.orders"}`, 1)
}

func TestABatchCountsAsOneCall(t *testing.T) {
	c := open(t, amqp.ConsumerConfig{BatchSize: 10, BatchLinger: 5 * time.Second, Workers: 1})
	for n := range 10 {
		c.send(fmt.Sprint(n), "Good", 0)
	}
	c.awaitSample(`surepost_consumer_events_total{queue="inventory.orders",result="handled",type="Good"}`, 10)
	got := gather(t, c.all)
	calls := got[`surepost_consumer_batch_events_count{queue="inventory.orders"}`]
	if calls > 5 || got[`surepost_consumer_batch_events_sum{queue="inventory.orders"}`] != 10 {
		t.Errorf("10 events at once were %v calls of %v events", calls, got[`surepost_consumer_batch_events_sum{queue="inventory.orders"}`])
	}
	if got[`surepost_consumer_handler_duration_seconds_count{outcome="ok",queue="inventory.orders",type="batch"}`] == 0 {
		t.Error("no call counts as a batch")
	}

	for n := range 9 {
		c.send(fmt.Sprint("again", n), "Good", 0)
	}
	c.send("bad", "Bad", 0)
	c.awaitSample(`surepost_consumer_dead_lettered_total{queue="inventory.orders",reason="permanent-failure"}`, 1)
	c.awaitSample(`surepost_consumer_batches_failed_total{queue="inventory.orders"}`, 1)
}
