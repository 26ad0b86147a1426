package surepost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// ContentType is the media type of the JSON envelope.
const ContentType = "application/json"

// AppendEnvelope appends the event's JSON envelope to dst. The event must be complete and valid ([Event.Complete],
// [Event.Validate]), as every event of an outbox is. Headers are not part of the envelope: they travel beside it.
//
//	{"eventId":"…","eventType":"OrderCreated","timestamp":"2024-01-15T10:30:00Z","version":"1.0",
//	 "source":"order-service","correlationId":"req_xyz789","data":{…}}
//
// and, where set, causationId, key and category before data.
func AppendEnvelope(dst []byte, e Event) ([]byte, error) {
	raw, err := e.RawData()
	if err != nil {
		return dst, err
	}
	field := func(name, value string) {
		dst = append(dst, `,"`...)
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = appendJSONString(dst, value)
	}
	optional := func(name, value string) {
		if value != "" {
			field(name, value)
		}
	}
	dst = append(dst, `{"eventId":`...)
	dst = appendJSONString(dst, e.ID)
	field("eventType", e.Type)
	dst = append(dst, `,"timestamp":"`...)
	dst = e.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '"')
	field("version", e.Version)
	field("source", e.Source)
	field("correlationId", e.CorrelationID)
	optional("causationId", e.CausationID)
	optional("key", e.Key)
	optional("category", string(e.Category))
	dst = append(dst, `,"data":`...)
	dst = append(dst, raw...)
	return append(dst, '}'), nil
}

// ErrNotAnEvent is matched by every error of [ParseEnvelope]: the body isn't an event, and reading it again can't help.
var ErrNotAnEvent = errors.New("not an event")

// ParseEnvelope reads a JSON envelope. Unknown fields are ignored, so that producers may add some; eventId and
// eventType must be there. The event's Data is a [json.RawMessage] that shares no memory with body.
func ParseEnvelope(body []byte) (Event, error) {
	var wire struct {
		ID            *string         `json:"eventId"`
		Type          *string         `json:"eventType"`
		Time          time.Time       `json:"timestamp"`
		Version       string          `json:"version"`
		Source        string          `json:"source"`
		CorrelationID string          `json:"correlationId"`
		CausationID   string          `json:"causationId"`
		Key           string          `json:"key"`
		Category      Category        `json:"category"`
		Data          json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return Event{}, fmt.Errorf("surepost: %w: the body isn't a JSON envelope: %w (it begins with %s)", ErrNotAnEvent, err, quoteShort(string(bytes.TrimSpace(body))))
	}
	required := func(name string, value *string) error {
		switch {
		case value == nil || *value == "":
			return fmt.Errorf("surepost: %w: the envelope has no %s", ErrNotAnEvent, name)
		case len(*value) > MaxNameBytes:
			return fmt.Errorf("surepost: %w: the envelope's %s is %d bytes long, the limit is %d", ErrNotAnEvent, name, len(*value), MaxNameBytes)
		}
		return nil
	}
	if err := errors.Join(required("eventId", wire.ID), required("eventType", wire.Type)); err != nil {
		return Event{}, err
	}
	e := Event{
		ID: *wire.ID, Type: *wire.Type, Time: wire.Time, Version: wire.Version, Source: wire.Source,
		CorrelationID: wire.CorrelationID, CausationID: wire.CausationID, Key: wire.Key, Category: wire.Category, Data: wire.Data,
	}
	if e.Version == "" {
		e.Version = DefaultVersion
	}
	if wire.Data == nil {
		e.Data = json.RawMessage("null")
	}
	return e, nil
}

// appendJSONString appends s quoted as RFC 8259 §7 asks: quote, backslash and control characters escaped, the rest as
// it is. Unlike encoding/json it leaves <, > and & alone: an envelope isn't HTML.
func appendJSONString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
