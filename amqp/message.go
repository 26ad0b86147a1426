package amqp

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// maxShortString is the length of an AMQP 0-9-1 short string (§4.2.5.3): names, routing keys, most properties, header
// keys. The client library closes the whole connection over a longer one.
const maxShortString = 255

// HeaderPartitionKey is the header that partitions events (see ConsumerConfig.Partitions): the event's key, or its id
// if it has no key, so that events without order spread evenly. An exchange can only look at routing key and headers,
// not into the body.
//
// Every event that is published has it, whether anybody partitions it or not, so that a subscription can begin to at any
// time without the publishers' doing anything. As the only header it costs 1.3 µs and 9 allocations beside a
// publish's 2.6 µs and 39, beside other headers 0.3 µs and 4 (BenchmarkPublishWithKeyHeader);
// PublisherConfig.OmitPartitionKey saves them.
const HeaderPartitionKey = "surepost-partition-key"

// ownHeaders is the prefix of all headers that this package sets. Event.Headers never holds them; it does hold
// relay.HeaderReplay, which is the relay's.
const ownHeaders = "surepost-"

// PublishingFromEvent returns the message that carries an event:
//
//	eventId        message-id           what a returned message is known by
//	eventType      type
//	timestamp      timestamp            in whole seconds: AMQP has no finer ones (the body has)
//	source         app-id
//	correlationId  correlation-id
//	Headers        headers              traceparent, tracestate and what the producer added
//	eventKey       headers              as surepost-partition-key, see HeaderPartitionKey; nothing else
//	               content-type         application/json
//	               delivery-mode        2, persistent
//
// The body is the event's JSON envelope, which has all fields but Headers. The properties repeat those that help to
// route and to dedupe without parsing it. An error says what can't be carried by AMQP; it matches
// [surepost.ErrInvalidEvent].
func PublishingFromEvent(e surepost.Event) (amqp091.Publishing, error) { return Envelope.Publishing(e) }

// Publishing returns the message that carries an event in the format: as [PublishingFromEvent], but for the content type, the body
// and, in CloudEvents' binary mode, the headers.
func (f Format) Publishing(e surepost.Event) (amqp091.Publishing, error) {
	if err := f.validate(); err != nil {
		return amqp091.Publishing{}, err
	}
	made := formatter{format: f}
	return made.publishing(&e)
}

// formatter formats messages in memory that it uses again for the next one.
type formatter struct {
	format           Format
	body             []byte
	headers          amqp091.Table
	omitPartitionKey bool
}

// keepBodyBytes is the largest body whose memory is kept for the next message.
const keepBodyBytes = 1 << 20

// publishing formats a message that is valid until the next call.
func (f *formatter) publishing(e *surepost.Event) (amqp091.Publishing, error) {
	if err := unpublishable(e); err != nil {
		return amqp091.Publishing{}, err
	}
	if cap(f.body) > keepBodyBytes {
		f.body = nil
	}
	body, contentType, err := f.format.append(f.body[:0], e)
	if err != nil {
		return amqp091.Publishing{}, err
	}
	f.body = body
	p := amqp091.Publishing{
		ContentType:   contentType,
		DeliveryMode:  amqp091.Persistent,
		MessageId:     e.ID,
		Type:          e.Type,
		AppId:         e.Source,
		CorrelationId: e.CorrelationID,
		Body:          body,
	}
	if e.Time.Unix() > 0 { // AMQP's timestamp is unsigned; zero means none
		p.Timestamp = e.Time
	}
	if len(e.Headers) == 0 && f.omitPartitionKey && f.format != CloudEventsBinary {
		return p, nil
	}
	if f.headers == nil {
		f.headers = make(amqp091.Table, len(e.Headers)+1)
	}
	clear(f.headers)
	for k, v := range e.Headers {
		f.headers[k] = v
	}
	if f.format == CloudEventsBinary {
		for name, value := range surepost.CloudEventAttributes(*e) {
			f.headers[surepost.HeaderCloudEvents+name] = value
		}
	}
	if !f.omitPartitionKey {
		f.headers[HeaderPartitionKey] = cmp.Or(e.Key, e.ID)
	}
	p.Headers = f.headers
	return p, nil
}

// unpublishable says what of an event AMQP can't carry. Events of an outbox have been checked when they were written;
// this keeps one that came in by another way from taking the connection, and everybody else's events, with it.
func unpublishable(e *surepost.Event) error {
	var errs []error
	add := func(field, problem, remedy string) {
		errs = append(errs, &surepost.FieldError{Field: field, Problem: problem, Remedy: remedy})
	}
	short := func(field, value string) {
		if len(value) > maxShortString {
			add(field, fmt.Sprintf("is %d bytes long, AMQP carries %d", len(value), maxShortString), "shorten it")
		}
	}
	if e.ID == "" {
		add("ID", "is empty: a returned message couldn't be told from others", "give the event an id")
	}
	short("ID", e.ID)
	short("Type", e.Type)
	short("Source", e.Source)
	short("CorrelationID", e.CorrelationID)
	for k := range e.Headers {
		switch {
		case len(k) > maxShortString:
			short(fmt.Sprintf("Headers[%.40q…]", k), k)
		case k == "CC" || k == "BCC":
			// RabbitMQ's sender-selected distribution. A plain string there is a 406, which ends the session.
			add("Headers["+strconv.Quote(k)+"]", "is taken by RabbitMQ for further routing keys", "choose another name")
		}
	}
	return errors.Join(errs...)
}

// headerFrameBytes returns how long the message's content header is on the wire (§4.2.6.1). A frame can't be split:
// one that is larger than the negotiated frame_max ends the connection.
func headerFrameBytes(p *amqp091.Publishing) int {
	const frame, fixed = 8, 14 // type, channel, size, end; class, weight, body size, flags
	n := frame + fixed + 1 + 8 // delivery mode and timestamp
	for _, s := range []string{p.ContentType, p.CorrelationId, p.MessageId, p.Type, p.AppId} {
		n += 1 + len(s)
	}
	if len(p.Headers) > 0 {
		n += 4
		for k, v := range p.Headers {
			s, _ := v.(string)
			n += 1 + len(k) + 1 + 4 + len(s)
		}
	}
	return n
}

// EventFromDelivery returns the event that a message carries, in whichever [Format]: a CloudEvent is known by the content type
// application/cloudevents+json or by the header cloudEvents_specversion (or cloudEvents:specversion), everything else must be a JSON
// envelope.
//
// What the body, or in binary mode the attributes, say is the truth; where it has no source, correlation id or timestamp, the
// message's properties are taken, as far as they are text and a time. A message-id that contradicts an envelope's eventId is an
// error, since dedupe and the broker's bookkeeping would speak of different events. For the id of a CloudEvent see [Format].
//
// Headers with text are taken as they are, numbers, booleans and times as text. Those that begin with "x-" are
// RabbitMQ's own, as are CC and BCC, those that begin with "surepost-" this package's: they are left out, as are tables
// and arrays and what isn't UTF-8 or has a NUL, so that a handler may pass them on. There remains relay.HeaderReplay,
// which tells a replayed event from its first occurrence. All of them came in one frame of at most 128 KiB. Errors match
// [surepost.ErrNotAnEvent]: reading the message again can't help.
func EventFromDelivery(d amqp091.Delivery) (surepost.Event, error) {
	format, err := formatOf(&d)
	if err != nil {
		return surepost.Event{}, err
	}
	var e surepost.Event
	if format == Envelope {
		e, err = envelopeFrom(&d)
	} else {
		e, err = cloudEventFrom(&d, format)
	}
	if err != nil {
		return surepost.Event{}, err
	}
	if e.Source == "" && isText(d.AppId) {
		e.Source = d.AppId
	}
	if e.CorrelationID == "" && isText(d.CorrelationId) {
		e.CorrelationID = d.CorrelationId
	}
	if y := d.Timestamp.UTC().Year(); e.Time.IsZero() && !d.Timestamp.IsZero() && 0 < y && y <= 9999 { // AMQP's may be any 64 bits
		e.Time = d.Timestamp.UTC()
	}
	return e, nil
}

func envelopeFrom(d *amqp091.Delivery) (surepost.Event, error) {
	e, err := surepost.ParseEnvelope(d.Body)
	if err != nil {
		return surepost.Event{}, err
	}
	if d.MessageId != "" && d.MessageId != e.ID {
		return surepost.Event{}, fmt.Errorf("amqp: %w: the message-id is %q, but the eventId in the body is %q",
			surepost.ErrNotAnEvent, d.MessageId, e.ID)
	}
	e.Headers = textHeaders(d.Headers)
	return e, nil
}

// textHeaders returns the headers that an event can hold, nil if there are none.
func textHeaders(table amqp091.Table) map[string]string {
	var headers map[string]string
	for k, v := range table {
		if strings.HasPrefix(k, "x-") || strings.HasPrefix(k, ownHeaders) && k != relay.HeaderReplay {
			continue
		}
		text, ok := headerText(v)
		if !ok || !isText(text) || !isText(k) || k == "" || k == "CC" || k == "BCC" {
			continue
		}
		if headers == nil {
			headers = make(map[string]string, len(table))
		}
		headers[k] = text
	}
	return headers
}

// isText reports whether an event can hold it: AMQP's strings are any bytes.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// headerText formats a scalar. The types are those that the client library reads.
func headerText(v any) (text string, ok bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	case time.Time:
		return v.UTC().Format(time.RFC3339), true
	case bool, byte, int8, int16, uint16, int32, uint32, int64, float32, float64:
		return fmt.Sprint(v), true
	}
	return "", false
}
