package amqp

import (
	"fmt"
	"maps"
	"mime"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// Format is how a message carries an event. Consumers recognise all of them by themselves, so that a publisher may change at any
// time, and consumers of other makes be served.
//
// The CloudEvents formats follow CloudEvents 1.0.2 and its AMQP binding, with headers for AMQP 1.0's application-properties, as which
// RabbitMQ shows them. The mapping of attributes is [surepost.CloudEventAttributes]. The AMQP properties, and headers that are no
// attributes, are the same in every format.
//
// Surepost dedupes by an event's id alone, while CloudEvents promise only that source and id together are unique (§3.1.1 of the core;
// some producers just count). A CloudEvent's id is taken as it is if it is a UUID, or the message-id too, as Surepost and other careful
// publishers set it. Otherwise Event.ID is the source, a space and the id.
type Format int

const (
	// Envelope is Surepost's own: one JSON object, of content type application/json. See [surepost.AppendEnvelope].
	Envelope Format = iota
	// CloudEventsStructured is a CloudEvent in JSON, of content type application/cloudevents+json. See
	// [surepost.AppendCloudEvent].
	CloudEventsStructured
	// CloudEventsBinary is the event's data as the body, of content type application/json, with the attributes in headers
	// (cloudEvents_id and so on). Headers travel in one frame: they make it larger by some 400 bytes.
	CloudEventsBinary
)

func (f Format) String() string {
	switch f {
	case Envelope:
		return "Envelope"
	case CloudEventsStructured:
		return "CloudEventsStructured"
	case CloudEventsBinary:
		return "CloudEventsBinary"
	}
	return fmt.Sprintf("Format(%d)", int(f))
}

func (f Format) validate() error {
	if f < Envelope || f > CloudEventsBinary {
		return fmt.Errorf("amqp: Format is %d: use amqp.Envelope, amqp.CloudEventsStructured or amqp.CloudEventsBinary", int(f))
	}
	return nil
}

// append appends the message's body to dst, and returns its content type.
func (f Format) append(dst []byte, e *surepost.Event) (body []byte, contentType string, err error) {
	switch f {
	case CloudEventsStructured:
		body, err = surepost.AppendCloudEvent(dst, *e)
		return body, surepost.ContentTypeCloudEvent, err
	case CloudEventsBinary:
		if e.Source == "" {
			return nil, "", &surepost.FieldError{Field: "Source", Problem: "is empty, and a CloudEvent needs one", Remedy: "name the producing service"}
		}
		raw, err := e.RawData()
		return append(dst, raw...), surepost.ContentType, err
	}
	body, err = surepost.AppendEnvelope(dst, *e)
	return body, surepost.ContentType, err
}

// What senders begin CloudEvents' headers with. The second is of version 1.0.2 of the AMQP binding; later ones prefer the first, for
// JMS.
const (
	headerCloudEvents      = surepost.HeaderCloudEvents
	headerCloudEventsColon = "cloudEvents:"
	cloudEventsMedia       = "application/cloudevents"
	specVersion            = "specversion"
	dataContentType        = "datacontenttype"
)

// formatOf recognises a message's format.
func formatOf(d *amqp091.Delivery) (Format, error) {
	const n = len(cloudEventsMedia)
	if len(d.ContentType) >= n && strings.EqualFold(d.ContentType[:n], cloudEventsMedia) {
		media, _, err := mime.ParseMediaType(d.ContentType)
		if err != nil || media != surepost.ContentTypeCloudEvent {
			return 0, fmt.Errorf("amqp: %w: the content type is %.100q; CloudEvents are read in JSON (%s), one to a message",
				surepost.ErrNotAnEvent, d.ContentType, surepost.ContentTypeCloudEvent)
		}
		return CloudEventsStructured, nil
	}
	if d.Headers[headerCloudEvents+specVersion] != nil || d.Headers[headerCloudEventsColon+specVersion] != nil {
		return CloudEventsBinary, nil
	}
	return Envelope, nil
}

func cloudEventFrom(d *amqp091.Delivery, format Format) (e surepost.Event, err error) {
	headers := textHeaders(d.Headers)
	attributes := map[string]string{}
	for _, prefix := range []string{headerCloudEventsColon, headerCloudEvents} {
		for k, v := range headers {
			// In structured mode a sender may repeat the attributes in headers, but not what can't be one.
			if name, ok := strings.CutPrefix(k, prefix); ok && (format == CloudEventsBinary || surepost.IsCloudEventAttribute(name)) {
				attributes[name] = v
				delete(headers, k)
			}
		}
	}
	if format == CloudEventsStructured {
		e, err = surepost.ParseCloudEvent(d.Body)
	} else {
		delete(attributes, dataContentType)
		if isText(d.ContentType) && d.ContentType != "" {
			attributes[dataContentType] = d.ContentType
		}
		e, err = surepost.EventFromCloudEvent(attributes, d.Body)
	}
	if err != nil {
		return surepost.Event{}, err
	}
	// The message's own trace is the nearer one.
	if e.Headers == nil {
		e.Headers = headers
	} else {
		maps.Copy(e.Headers, headers)
	}
	if len(e.Headers) == 0 {
		e.Headers = nil
	}
	if d.AppId != "" && isText(d.AppId) && surepost.CloudEventSource(d.AppId) == e.Source {
		e.Source = d.AppId // before it was encoded as a URI-reference
	}
	if d.MessageId != e.ID && !isUUID(e.ID) {
		e.ID = e.Source + " " + e.ID
		if len(e.ID) > surepost.MaxNameBytes {
			return surepost.Event{}, fmt.Errorf("amqp: %w: the CloudEvent's source and id are %d bytes long together, the limit is %d: "+
				"publish it with a shorter source, a UUID, or the id as the message-id", surepost.ErrNotAnEvent, len(e.ID), surepost.MaxNameBytes)
		}
	}
	return e, nil
}

// isUUID reports whether s is a UUID as RFC 9562 §4 writes it, which nobody else has.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
