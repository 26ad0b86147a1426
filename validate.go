package surepost

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxNameBytes is the limit on an event's short strings (type, source, key, ids, header keys): the length of an AMQP
// 0-9-1 short string (§4.2.5.3), which carries them. A longer one would close the connection of the client library.
const MaxNameBytes = 255

// DefaultMaxDataBytes is the default of Limits.MaxDataBytes. Brokers and consumers suffer from larger messages
// (RabbitMQ 4 refuses more than 16 MiB): store a large document elsewhere and send its address.
const DefaultMaxDataBytes = 1 << 20

// MaxHeaderBytes is the limit on all header keys and values of an event together. RabbitMQ sends a message's properties
// in one frame of at most 128 KiB, and the rest of the properties need room too.
const MaxHeaderBytes = 32 << 10

// MaxDataDepth is how deep objects and arrays may lie in each other in an event's data. Parsers have limits, or an end of
// their stack: encoding/json's is 10,000 and the envelope's own level counts, so that data of 10,000 levels would be
// written and then read by nobody; PostgreSQL's stack takes some thousands; Jackson's default is 1,000, .NET's is 64.
const MaxDataDepth = 1000

// Limits are the limits on an event that a service may choose. The zero value means the defaults.
type Limits struct {
	// MaxDataBytes is the largest data, in bytes of JSON. Default [DefaultMaxDataBytes].
	MaxDataBytes int
}

// Validate checks a complete event (all defaults filled in, Data marshalled) against the rules of its fields and
// returns every problem at once, as an [*EventError], or nil.
func (e Event) Validate(limits Limits) error {
	if fields := e.problems(limits, false); len(fields) > 0 {
		return &EventError{ID: e.ID, Type: e.Type, Fields: fields}
	}
	return nil
}

// problems doesn't look whether marshalled data is JSON.
func (e Event) problems(limits Limits, marshalled bool) []*FieldError {
	var found []*FieldError
	add := func(field, problem, remedy string) {
		found = append(found, &FieldError{Field: field, Problem: problem, Remedy: remedy})
	}
	name := func(field, value string, required bool, remedy string) {
		switch {
		case value == "" && required:
			add(field, "is empty", remedy)
		case len(value) > MaxNameBytes:
			add(field, fmt.Sprintf("is %d bytes long, the limit is %d", len(value), MaxNameBytes), "shorten it")
		case !utf8.ValidString(value):
			add(field, fmt.Sprintf("is not valid UTF-8 (%s)", quoteShort(value)), "convert it to UTF-8")
		case strings.ContainsRune(value, 0):
			add(field, "contains a NUL byte, which PostgreSQL's text can't hold", "remove it")
		}
	}
	name("ID", e.ID, true, "leave it to the outbox, or bring an id of your own")
	name("Type", e.Type, true, `name what happened, for example "OrderCreated"`)
	name("Version", e.Version, true, `name the schema's version, for example "1.0"`)
	name("Source", e.Source, true, `set outbox.Config.Source to the service's name, for example "order-service"`)
	name("CorrelationID", e.CorrelationID, false, "")
	name("CausationID", e.CausationID, false, "")
	name("Key", e.Key, false, "")
	switch e.Category {
	case "", Domain, Integration, System:
	default:
		add("Category", "is "+quoteShort(string(e.Category)), "use surepost.Domain, Integration or System, or leave it empty")
	}
	if y := e.Time.UTC().Year(); y < 1 || y > 9998 {
		add("Time", fmt.Sprintf("has the year %d, which RFC 3339 or the outbox can't hold", y), "use a year from 1 to 9998")
	}
	if y := e.NotBefore.UTC().Year(); !e.NotBefore.IsZero() && (y < 1 || y > 9998) {
		add("NotBefore", fmt.Sprintf("has the year %d, which RFC 3339 or the outbox can't hold", y),
			"use a year from 1 to 9998, or leave it zero to publish at once")
	}
	found = append(found, headerProblems(e.Headers)...)
	return append(found, dataProblems(e.Data, limits, marshalled)...)
}

func headerProblems(headers map[string]string) []*FieldError {
	var found []*FieldError
	total := 0
	for _, k := range slices.Sorted(maps.Keys(headers)) {
		v := headers[k]
		total += len(k) + len(v)
		field := "Headers[" + quoteShort(k) + "]"
		add := func(problem, remedy string) {
			found = append(found, &FieldError{Field: field, Problem: problem, Remedy: remedy})
		}
		switch {
		case k == "":
			add("has an empty key", "name the header")
		case len(k) > MaxNameBytes:
			add(fmt.Sprintf("has a key of %d bytes, the limit is %d", len(k), MaxNameBytes), "shorten it")
		case strings.HasPrefix(k, "x-"):
			add(`begins with "x-", which RabbitMQ keeps for itself (x-death, x-delivery-count)`, "choose another name")
		case k == "CC", k == "BCC":
			add("is RabbitMQ's own, for further routing keys", "choose another name")
		case !utf8.ValidString(k) || !utf8.ValidString(v):
			add("is not valid UTF-8", "convert it to UTF-8, or encode bytes as base64")
		case strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0):
			add("contains a NUL byte", "remove it, or encode bytes as base64")
		case k == headerTraceParent && !validTraceParent(v):
			add("is not a W3C traceparent ("+quoteShort(v)+")", "leave it to the outbox, or pass version-traceid-parentid-flags in lower-case hex")
		}
	}
	if total > MaxHeaderBytes {
		found = append(found, &FieldError{Field: "Headers", Remedy: "move facts into Data",
			Problem: fmt.Sprintf("are %d bytes in all, the limit is %d", total, MaxHeaderBytes)})
	}
	return found
}

func dataProblems(data any, limits Limits, marshalled bool) []*FieldError {
	limit := limits.MaxDataBytes
	if limit <= 0 {
		limit = DefaultMaxDataBytes
	}
	raw, err := Event{Data: data}.RawData()
	switch {
	case err != nil:
		fe, _ := err.(*FieldError)
		return []*FieldError{fe}
	case len(raw) > limit:
		return []*FieldError{{Field: "Data", Problem: fmt.Sprintf("is %d bytes of JSON, the limit is %d", len(raw), limit),
			Remedy: "store the document elsewhere and send its address, or raise outbox.Config.MaxDataBytes"}}
	case !marshalled && !json.Valid(raw):
		return []*FieldError{{Field: "Data", Problem: "is not JSON (it begins with " + quoteShort(string(raw)) + ")",
			Remedy: "pass a Go value to be marshalled, or JSON as json.RawMessage"}}
	case deeper(raw, MaxDataDepth):
		return []*FieldError{{Field: "Data", Problem: fmt.Sprintf("has objects or arrays in each other more than %d levels deep", MaxDataDepth),
			Remedy: "flatten it, or send the document as a string of JSON"}}
	case !utf8.Valid(raw):
		return []*FieldError{{Field: "Data", Problem: "is not valid UTF-8, which JSON requires (RFC 8259 §8.1)", Remedy: "convert it to UTF-8, or encode bytes as base64"}}
	}
	return nil
}

// deeper reports whether JSON has objects and arrays in each other more than limit levels deep.
func deeper(raw []byte, limit int) bool {
	if bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) <= limit { // nearly always, and fast
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[', c == '{':
			if depth++; depth > limit {
				return true
			}
		case c == ']', c == '}':
			depth--
		}
	}
	return false
}

// maxQuoted is how much of a text is looked at to quote the beginning of it.
const maxQuoted = 1 << 10

// quoteShort quotes s for an error message, which must stay readable whatever s is.
func quoteShort(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
