package integration

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// reluctant hands over what it handles, after the first attempt at each event has failed.
type reluctant struct {
	events chan surepost.Event
	failed map[string]bool
}

func (r reluctant) Handle(_ context.Context, e surepost.Event) (inbox.Result, error) {
	if !r.failed[e.ID] {
		r.failed[e.ID] = true
		return 0, errors.New("not yet")
	}
	r.events <- e
	return inbox.Handled, nil
}

// One queue carries every format, of Surepost and of others, also through its retry queue; and CloudEvents' own library reads what
// Surepost writes.
func TestAMQPEveryFormatIsReadFromOneQueue(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	all := reluctant{make(chan surepost.Event, 10), map[string]bool{}}
	mq.consumeConnected(amqp.ConsumerConfig{Handler: all, RetryDelays: []time.Duration{100 * time.Millisecond}})
	if err := mq.channel.QueueBind(consumedQueue, "#", "events", false, nil); err != nil {
		t.Fatal(err)
	}
	copies, err := mq.channel.QueueDeclare("", false, false, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := mq.channel.QueueBind(copies.Name, "#", "events", false, nil); err != nil {
		t.Fatal(err)
	}
	sent := surepost.Event{
		ID: "evt_1", Type: "OrderCreated", Source: "order service", Version: "2.0", CorrelationID: "c", CausationID: "evt_0", Key: "order-1",
		Category: surepost.Integration, Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC), Data: json.RawMessage(`{"total":12.5}`),
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tenant": "acme", "cloudEvents_subject": "order/1"},
	}
	for _, format := range []amqp.Format{amqp.Envelope, amqp.CloudEventsStructured, amqp.CloudEventsBinary} {
		clear(all.failed)
		cfg := publisherConfig(mq.url)
		cfg.Format = format
		s := openPublisher(t, cfg)
		wantOutcomes(t, publish(t, s, 0, 1, func(int) surepost.Event { return sent }), 0, 1, relay.Confirmed)
		if got := await(t, all.events); !reflect.DeepEqual(got, sent) {
			t.Errorf("%s: got  %+v\nwant %+v", format, got, sent)
		}
		raw, ok, err := mq.channel.Get(copies.Name, true)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		if format != amqp.CloudEventsStructured {
			continue
		}
		var theirs cloudevents.Event
		if err := json.Unmarshal(raw.Body, &theirs); err != nil {
			t.Fatalf("%s: %v", raw.Body, err)
		}
		if err := theirs.Validate(); err != nil {
			t.Error(err)
		}
		if theirs.ID() != sent.ID || theirs.Type() != sent.Type || theirs.Source() != "order%20service" || !theirs.Time().Equal(sent.Time) ||
			theirs.Subject() != "order/1" || theirs.DataContentType() != "application/json" || string(theirs.Data()) != `{"total":12.5}` ||
			theirs.Extensions()["correlationid"] != "c" || theirs.Extensions()["partitionkey"] != "order-1" {
			t.Errorf("the library reads %s as %s", raw.Body, theirs)
		}
	}

	theirs := cloudevents.New("1.0")
	theirs.SetID("7")
	theirs.SetSource("https://example.com/orders")
	theirs.SetType("OrderCreated")
	theirs.SetTime(sent.Time)
	theirs.SetExtension("sampled", true)
	if err := theirs.SetData("image/png", []byte("\x89PNG")); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	mq.publishRaw("events", "any", amqp091.Publishing{ContentType: "application/cloudevents+json; charset=UTF-8", Body: body})
	got := await(t, all.events)
	var picture []byte
	if err := got.Decode(&picture); err != nil || string(picture) != "\x89PNG" {
		t.Errorf("%s: %q, %v", body, picture, err)
	}
	if got.ID != "https://example.com/orders 7" || got.Headers["cloudEvents_sampled"] != "true" || got.Headers["cloudEvents_datacontenttype"] != "image/png" {
		t.Errorf("%s became %+v", body, got)
	}
}
