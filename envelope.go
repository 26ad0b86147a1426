package surepost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
//
// Whoever can publish can send anything, so what no producer of Surepost writes is refused here and not in the middle of
// a handler: a body that isn't UTF-8 (RFC 8259 §8.1; bytes that are read as U+FFFD would make one of two ids), a field of
// text that is longer than [MaxNameBytes] or has a NUL character, which PostgreSQL can't store, a time that RFC 3339
// can't write. JSON is read 10,000 levels deep, and takes memory in proportion to the body.
func ParseEnvelope(body []byte) (Event, error) {
	if !utf8.Valid(body) {
		return Event{}, fmt.Errorf("surepost: %w: the body isn't UTF-8 (byte %d)", ErrNotAnEvent, invalidUTF8(body))
	}
	var wire struct {
		ID            string          `json:"eventId"`
		Type          string          `json:"eventType"`
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
		return Event{}, fmt.Errorf("surepost: %w: the body isn't a JSON envelope: %w (it begins with %s)", ErrNotAnEvent,
			located(err), quoteShort(string(bytes.TrimSpace(body[:min(len(body), maxQuoted)]))))
	}
	e := Event{
		ID: wire.ID, Type: wire.Type, Time: wire.Time, Version: wire.Version, Source: wire.Source,
		CorrelationID: wire.CorrelationID, CausationID: wire.CausationID, Key: wire.Key, Category: wire.Category, Data: wire.Data,
	}
	if wire.Data == nil {
		e.Data = json.RawMessage("null")
	}
	return e.received("the envelope", envelopeNames)
}

// fieldNames are what a format calls an event's fields of text, in the order of Event.received.
type fieldNames [8]string

var envelopeNames = fieldNames{"eventId", "eventType", "version", "source", "correlationId", "causationId", "key", "category"}

// received checks an event that came in, and fills in the default version. format and names are for the reasons.
func (e Event) received(format string, names fieldNames) (Event, error) {
	var errs []error
	bad := func(problem string, args ...any) {
		errs = append(errs, fmt.Errorf("surepost: %w: %s%s", ErrNotAnEvent, format, fmt.Sprintf(problem, args...)))
	}
	for i, text := range [...]string{e.ID, e.Type, e.Version, e.Source, e.CorrelationID, e.CausationID, e.Key, string(e.Category)} {
		switch {
		case text == "" && i < 2:
			bad(" has no %s", names[i])
		case len(text) > MaxNameBytes:
			bad("'s %s is %d bytes long, the limit is %d", names[i], len(text), MaxNameBytes)
		case strings.ContainsRune(text, 0):
			bad("'s %s has a NUL character", names[i])
		}
	}
	if y := e.Time.UTC().Year(); y < 0 || y > 9999 { // an offset may lead there
		bad("'s time is in the year %d", y)
	}
	if errs != nil {
		return Event{}, errors.Join(errs...)
	}
	e.Time = e.Time.UTC()
	if e.Version == "" {
		e.Version = DefaultVersion
	}
	return e, nil
}

// jsonError is an error of encoding/json with the place, and cut short: its words quote values, however long.
type jsonError struct {
	text  string
	cause error
}

func (e jsonError) Error() string { return e.text }
func (e jsonError) Unwrap() error { return e.cause }

func located(err error) error {
	const most = 300
	text := err.Error()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		text += " at byte " + strconv.FormatInt(syntax.Offset, 10)
	}
	return jsonError{text, err}
}

// invalidUTF8 returns where the first byte is that isn't UTF-8, counted from 1.
func invalidUTF8(b []byte) int {
	at := 0
	for at < len(b) {
		r, size := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && size <= 1 {
			break
		}
		at += size
	}
	return at + 1
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
