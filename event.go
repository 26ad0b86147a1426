package surepost

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is an immutable fact: something that happened in Source, under an ID that never changes however often the
// event is sent, received or replayed.
//
// A producer sets Type, Key and Data; everything else has a default that outbox.Outbox fills in when the event is
// written. A consumer receives every field filled in, with Data as a [json.RawMessage].
type Event struct {
	// ID identifies the event for ever: consumers dedupe by it. Default: a new UUIDv7 ([NewID]). Any string of 1 to 255
	// bytes is valid ("evt_abc123").
	ID string
	// Type names what happened, in the past tense: "OrderCreated". Required, at most 255 bytes. Consumers subscribe
	// by it.
	Type string
	// Time is when it happened. Default: now, or NotBefore where that is later. Kept in UTC with microseconds, the
	// resolution of PostgreSQL's timestamptz.
	Time time.Time
	// Version is the version of Data's schema. Default "1.0", at most 255 bytes.
	Version string
	// Source names the producing service: "order-service". Required (usually by outbox.Config.Source), at most 255
	// bytes.
	Source string
	// CorrelationID ties together all events of one flow. Default: the context's ([WithCorrelationID], or the event
	// that is being handled), else the event's own ID: it starts a flow. At most 255 bytes.
	CorrelationID string
	// CausationID is the ID of the event that caused this one. Default: the event that is being handled, if any.
	CausationID string
	// Key is the ordering key, usually the aggregate's id: events of one key are published and handled in commit order.
	// Empty: no order. At most 255 bytes.
	Key string
	// Category says for whom the event is meant. Optional.
	Category Category
	// Headers are further facts that travel outside the body, among them W3C trace context ("traceparent",
	// "tracestate"). Keys are 1 to 255 bytes and don't begin with "x-", which RabbitMQ keeps for itself.
	Headers map[string]string
	// Data is what happened: any value that encoding/json can marshal. A [json.RawMessage] or []byte is taken as JSON
	// as it stands; nil is JSON null. At most Limits.MaxDataBytes when marshalled.
	Data any

	// NotBefore delays the event: it waits in the store's schedule until then, by the database's clock, and enters the log
	// within a second. Default, the zero time: at once. Rounded up to microseconds.
	//
	// Delayed events of one key are published in the order of NotBefore, and of writing where that is equal. They have
	// no order against events of their key that aren't delayed. Until it is due an event can be taken back
	// (outbox.Outbox.Cancel). It doesn't travel: a consumer never sees it.
	NotBefore time.Time
}

// Category says for whom an event is meant.
type Category string

const (
	// Domain events matter inside the bounded context that emits them.
	Domain Category = "domain"
	// Integration events are the published language between services.
	Integration Category = "integration"
	// System events tell of the machinery: deployments, quotas, health.
	System Category = "system"
)

// DefaultVersion is the schema version of an event that names none.
const DefaultVersion = "1.0"

// Decode unmarshals the event's data into v, a pointer. It is the consumer's side of Data.
func (e Event) Decode(v any) error {
	raw, err := e.RawData()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("surepost: event %s: data of %s version %s doesn't decode into %T: %w", e.ID, e.Type, e.Version, v, err)
	}
	return nil
}

// RawData returns the event's data as JSON. It marshals only where Data isn't JSON yet; it doesn't validate what is.
func (e Event) RawData() (json.RawMessage, error) {
	switch d := e.Data.(type) {
	case json.RawMessage:
		if d == nil {
			return json.RawMessage("null"), nil
		}
		return d, nil
	case []byte:
		if d == nil {
			return json.RawMessage("null"), nil
		}
		return d, nil
	case nil:
		return json.RawMessage("null"), nil
	default:
		raw, err := json.Marshal(d)
		if err != nil {
			return nil, &FieldError{Field: "Data", Problem: fmt.Sprintf("can't be marshalled to JSON: %v", err),
				Remedy: "pass a value that encoding/json can marshal, or JSON as json.RawMessage", Err: err}
		}
		return raw, nil
	}
}
