package amqp

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

func TestAnEventSurvivesTheWayInEveryFormat(t *testing.T) {
	want := surepost.Event{
		ID: "evt_abc123", Type: "OrderCreated", Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC), Version: "2.1",
		Source: "order service", CorrelationID: "req_xyz789", CausationID: "evt_0", Key: "order-1", Category: surepost.Domain,
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b", "tenant": "ä",
			"cloudEvents_subject": "order/1", "cloudEvents_No-Attribute": "kept"},
		Data: json.RawMessage(`{"a":1}`),
	}
	for format, contentType := range map[Format]string{
		Envelope: "application/json", CloudEventsStructured: "application/cloudevents+json", CloudEventsBinary: "application/json",
	} {
		p, err := format.Publishing(want)
		if err != nil {
			t.Fatal(err)
		}
		if p.MessageId != want.ID || p.Type != want.Type || p.AppId != want.Source || p.ContentType != contentType || p.DeliveryMode != amqp091.Persistent {
			t.Errorf("%s: the properties are %+v", format, p)
		}
		got, err := EventFromDelivery(delivery(p))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got  %+v (%v)\nwant %+v", format, got, err, want)
		}
	}
	p, _ := CloudEventsBinary.Publishing(want)
	headers := amqp091.Table{
		"cloudEvents_specversion": "1.0", "cloudEvents_id": "evt_abc123", "cloudEvents_source": "order%20service", "cloudEvents_type": "OrderCreated",
		"cloudEvents_time": "2024-01-15T10:30:00.123456Z", "cloudEvents_dataversion": "2.1", "cloudEvents_correlationid": "req_xyz789",
		"cloudEvents_causationid": "evt_0", "cloudEvents_partitionkey": "order-1", "cloudEvents_eventcategory": "domain",
		"cloudEvents_traceparent": want.Headers["traceparent"], "cloudEvents_tracestate": "a=b", HeaderPartitionKey: "order-1",
	}
	for k, v := range want.Headers {
		headers[k] = v
	}
	if string(p.Body) != `{"a":1}` || !reflect.DeepEqual(p.Headers, headers) {
		t.Errorf("binary: %s with %v", p.Body, p.Headers)
	}
}

// CloudEvents of producers that know nothing of Surepost.
func TestCloudEventsOfOthersAreUnderstood(t *testing.T) {
	e, err := EventFromDelivery(amqp091.Delivery{
		ContentType: "application/json; charset=utf-8", MessageId: "link-1/7", AppId: "gateway", Body: []byte(`[1]`),
		Headers: amqp091.Table{"cloudEvents:specversion": "1.0", "cloudEvents:id": "7", "cloudEvents:source": "/orders", "cloudEvents:type": "com.example.T",
			"cloudEvents:time": time.Unix(1700000000, 0), "cloudEvents:count": int64(3), "cloudEvents:datacontenttype": "text/xml", "tenant": "acme"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.ID != "/orders 7" || e.Source != "/orders" || e.Type != "com.example.T" || e.Time.Unix() != 1700000000 || e.Version != "1.0" || e.Key != "" ||
		string(e.Data.(json.RawMessage)) != "[1]" || !maps.Equal(e.Headers, map[string]string{"cloudEvents_count": "3", "tenant": "acme"}) {
		t.Errorf("%+v", e)
	}
	body := []byte(`{"specversion":"1.0","id":"0190d8a0-7a1b-7c3d-8e4f-0123456789ab","source":"/s","type":"T","traceparent":"of the start","data":{}}`)
	e, err = EventFromDelivery(amqp091.Delivery{ContentType: "Application/CloudEvents+JSON;charset=UTF-8", MessageId: "m", Body: body,
		Headers: amqp091.Table{"cloudEvents_id": "repeated", "traceparent": "of this hop"}})
	if err != nil || e.ID != "0190d8a0-7a1b-7c3d-8e4f-0123456789ab" || !maps.Equal(e.Headers, map[string]string{"traceparent": "of this hop"}) {
		t.Errorf("%+v %v", e, err)
	}
}

// The inbox goes by Event.ID alone, and CloudEvents promise no more than that source and id together are unique.
func TestTwoSourcesMayCountTheirEventsAlike(t *testing.T) {
	read := func(source, id, messageID string) string {
		e, err := EventFromDelivery(amqp091.Delivery{ContentType: surepost.ContentTypeCloudEvent, MessageId: messageID,
			Body: []byte(`{"specversion":"1.0","type":"T","source":"` + source + `","id":"` + id + `"}`)})
		if err != nil {
			return err.Error()
		}
		return e.ID
	}
	if a, b := read("/a", "1", ""), read("/b", "1", ""); a == b {
		t.Errorf("both are %q", a)
	}
	if a, b := read("/a", "1", ""), read("/a", "1", "x"); a != b || a != "/a 1" {
		t.Errorf("one event is %q and %q", a, b)
	}
	if id := read("/a", "evt_1", "evt_1"); id != "evt_1" {
		t.Errorf("published as by Surepost, it is %q", id)
	}
	if got := read("/"+strings.Repeat("a", 250), "12345", ""); !strings.Contains(got, "257 bytes long together") {
		t.Error(got)
	}
}

func TestWhatIsNoReadableCloudEventIsNotAnEvent(t *testing.T) {
	for want, d := range map[string]amqp091.Delivery{
		"one to a message":   {ContentType: "application/cloudevents-batch+json", Body: []byte(`[]`)},
		"CloudEvents+avro":   {ContentType: "application/CloudEvents+avro", Body: []byte(`x`)},
		"no id":              {Headers: amqp091.Table{"cloudEvents_specversion": "1.0", "cloudEvents_source": "s", "cloudEvents_type": "T"}, Body: []byte(`1`)},
		`specversion is "2"`: {Headers: amqp091.Table{"cloudEvents_specversion": int64(2)}, Body: []byte(`1`)},
		"isn't JSON": {Headers: amqp091.Table{"cloudEvents_specversion": "1.0", "cloudEvents_id": "1", "cloudEvents_source": "s", "cloudEvents_type": "T"},
			ContentType: "application/json", Body: []byte(`{`)},
	} {
		if e, err := EventFromDelivery(d); !errors.Is(err, surepost.ErrNotAnEvent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v, want %q", e, err, want)
		}
	}
	if _, err := CloudEventsBinary.Publishing(surepost.Event{ID: "1", Type: "T"}); !errors.Is(err, surepost.ErrInvalidEvent) {
		t.Errorf("a CloudEvent without a source: %v", err)
	}
	if _, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Format: 3}); err == nil || !strings.Contains(err.Error(), "Format(3)") && !strings.Contains(err.Error(), "Format is 3") {
		t.Errorf("a format that there isn't: %v", err)
	}
}
