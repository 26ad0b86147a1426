package amqp

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp/amqptest"
)

// delivery is what a consumer receives of a published message.
func delivery(p amqp091.Publishing) amqp091.Delivery {
	return amqp091.Delivery{
		Headers: p.Headers, ContentType: p.ContentType, DeliveryMode: p.DeliveryMode, CorrelationId: p.CorrelationId,
		MessageId: p.MessageId, Timestamp: p.Timestamp.Truncate(time.Second), Type: p.Type, AppId: p.AppId, Body: p.Body,
	}
}

func TestAnEventSurvivesTheWay(t *testing.T) {
	want := surepost.Event{
		ID: "evt_abc123", Type: "OrderCreated", Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC), Version: "2.1",
		Source: "order-service", CorrelationID: "req_xyz789", CausationID: "evt_0", Key: "order-1", Category: surepost.Domain,
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tenant": "ä"},
		Data:    json.RawMessage(`{"a":1}`),
	}
	p, err := PublishingFromEvent(want)
	if err != nil {
		t.Fatal(err)
	}
	if p.MessageId != want.ID || p.Type != want.Type || p.AppId != want.Source || p.CorrelationId != want.CorrelationID ||
		p.ContentType != "application/json" || p.DeliveryMode != amqp091.Persistent || !p.Timestamp.Equal(want.Time) || len(p.Headers) != 3 ||
		p.Headers[HeaderPartitionKey] != want.Key {
		t.Errorf("the properties are %+v", p)
	}
	got, err := EventFromDelivery(delivery(p))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPublishingsShareNoMemory(t *testing.T) {
	a, _ := PublishingFromEvent(testEvent("a"))
	body := string(a.Body)
	PublishingFromEvent(testEvent("b"))
	if string(a.Body) != body {
		t.Error("the second event overwrote the first one's body")
	}
}

func TestPropertiesFillInWhatTheEnvelopeLacks(t *testing.T) {
	at := time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC)
	e, err := EventFromDelivery(amqp091.Delivery{
		Body: []byte(`{"eventId":"e1","eventType":"T","data":1}`), AppId: "s", CorrelationId: "c", Timestamp: at, Type: "other",
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Source != "s" || e.CorrelationID != "c" || !e.Time.Equal(at) || e.Type != "T" || e.Headers != nil {
		t.Errorf("got %+v", e)
	}
}

func TestHeadersOfOtherTypesAreTolerated(t *testing.T) {
	e, err := EventFromDelivery(amqp091.Delivery{
		Body: []byte(`{"eventId":"e1","eventType":"T"}`),
		Headers: amqp091.Table{
			"s": "text", "n": int64(7), "b": true, "f": 1.5, "t": time.Unix(0, 0), "bytes": []byte("raw"), "bad": []byte{0xff},
			"x-death": []any{amqp091.Table{"count": int64(1)}}, "x-delivery-count": int64(2), "list": []any{"a"}, "nil": nil,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"s": "text", "n": "7", "b": "true", "f": "1.5", "t": "1970-01-01T00:00:00Z", "bytes": "raw"}
	if !maps.Equal(e.Headers, want) {
		t.Errorf("got %v, want %v", e.Headers, want)
	}
}

func TestAContradictingMessageIDIsAnError(t *testing.T) {
	for name, d := range map[string]amqp091.Delivery{
		"other id": {MessageId: "e2", Body: []byte(`{"eventId":"e1","eventType":"T"}`)},
		"no JSON":  {Body: []byte("hello")},
		"no id":    {MessageId: "e1", Body: []byte(`{"eventType":"T"}`)},
	} {
		if _, err := EventFromDelivery(d); !errors.Is(err, surepost.ErrNotAnEvent) {
			t.Errorf("%s: %v doesn't match ErrNotAnEvent", name, err)
		}
	}
}

func TestAnUnpublishableEventMatchesErrInvalidEvent(t *testing.T) {
	e := testEvent("")
	if _, err := PublishingFromEvent(e); !errors.Is(err, surepost.ErrInvalidEvent) {
		t.Errorf("%v doesn't match ErrInvalidEvent", err)
	}
}

// TestAnEventIsPartitionedByItsKey, and one without a key by itself.
func TestAnEventIsPartitionedByItsKey(t *testing.T) {
	e := testEvent("e1")
	p, err := PublishingFromEvent(e)
	if err != nil || p.Headers[HeaderPartitionKey] != e.Key {
		t.Errorf("%v %v", p.Headers, err)
	}
	e.Key, e.Headers = "", map[string]string{HeaderPartitionKey: "forged"}
	p, err = PublishingFromEvent(e)
	if err != nil || p.Headers[HeaderPartitionKey] != "e1" {
		t.Errorf("%v %v", p.Headers, err)
	}
	f := formatter{omitPartitionKey: true}
	e.Headers = nil
	if p, err := f.publishing(&e); err != nil || p.Headers != nil {
		t.Errorf("%v %v", p.Headers, err)
	}
}

func TestOwnHeadersAreNotTheEvents(t *testing.T) {
	e, err := EventFromDelivery(amqp091.Delivery{Body: []byte(`{"eventId":"e1","eventType":"T"}`),
		Headers: amqp091.Table{HeaderPartitionKey: "k", HeaderRedrives: int64(2), HeaderError: "x", "tenant": "acme"}})
	if err != nil || !maps.Equal(e.Headers, map[string]string{"tenant": "acme"}) {
		t.Errorf("%v %v", e.Headers, err)
	}
}

func BenchmarkFormat(b *testing.B) {
	var f formatter
	e := testEvent("0190d8a0-7a1b-7c3d-8e4f-0123456789ab")
	e.Headers = map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.publishing(&e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublishWithKeyHeader is what the client spends on a publish, over a connection that swallows all: without and
// with the partition key, as the only header or beside another.
func BenchmarkPublishWithKeyHeader(b *testing.B) {
	trace := map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	for _, c := range []struct {
		name    string
		headers map[string]string
		omit    bool
	}{{"no header", nil, true}, {"key", nil, false}, {"traceparent", trace, true}, {"traceparent and key", trace, false}} {
		b.Run(c.name, func(b *testing.B) {
			channel := newSwallowingChannel(b)
			f := formatter{omitPartitionKey: c.omit}
			e := testEvent("0190d8a0-7a1b-7c3d-8e4f-0123456789ab")
			e.Headers = c.headers
			b.ReportAllocs()
			for b.Loop() {
				p, err := f.publishing(&e)
				if err != nil {
					b.Fatal(err)
				}
				if err := channel.Publish("events", "order-service.OrderCreated", true, false, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// swallower passes bytes on until it is told to swallow them.
type swallower struct {
	net.Conn
	swallow atomic.Bool
}

func (s *swallower) Write(p []byte) (int, error) {
	if s.swallow.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

func newSwallowingChannel(b *testing.B) *amqp091.Channel {
	conn, err := startBroker(b, amqptest.Config{}).Dial("", "")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	s := &swallower{Conn: conn}
	opened, err := amqp091.Open(s, amqp091.Config{SASL: []amqp091.Authentication{&amqp091.PlainAuth{Username: "guest", Password: "guest"}}, Vhost: "/"})
	if err != nil {
		b.Fatal(err)
	}
	channel, err := opened.Channel()
	if err != nil {
		b.Fatal(err)
	}
	s.swallow.Store(true)
	return channel
}
