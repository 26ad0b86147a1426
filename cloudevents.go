package surepost

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ContentTypeCloudEvent is the media type of a CloudEvent in the JSON event format (CloudEvents 1.0.2, JSON format §3).
const ContentTypeCloudEvent = "application/cloudevents+json"

// HeaderCloudEvents begins the headers in which an event holds attributes of CloudEvents that it has no field for:
// "cloudEvents_subject", "cloudEvents_dataschema", extensions. A producer sets them like other headers; they become
// attributes when the event is written as a CloudEvent. It is also what messages over AMQP prefix all attributes with
// (CloudEvents AMQP binding §3.1.3.1).
const HeaderCloudEvents = "cloudEvents_"

// The attributes that are fields of an event. Those of the specification's core first (§3.1, §3.2); correlationid and
// causationid are those of its correlation extension, partitionkey of its partitioning extension, traceparent and
// tracestate of its distributed tracing extension.
const (
	ceSpecVersion     = "specversion"
	ceID              = "id"
	ceSource          = "source"
	ceType            = "type"
	ceTime            = "time"
	ceDataContentType = "datacontenttype"
	ceDataVersion     = "dataversion"
	ceCorrelationID   = "correlationid"
	ceCausationID     = "causationid"
	cePartitionKey    = "partitionkey"
	ceCategory        = "eventcategory"

	ceDialect = "1.0" // specversion of all versions 1.0.x
)

var cloudEventNames = fieldNames{ceID, ceType, ceDataVersion, ceSource, ceCorrelationID, ceCausationID, cePartitionKey, ceCategory}

// CloudEventAttributes yields the event's context attributes in CloudEvents 1.0, but for datacontenttype, which is always
// [ContentType]:
//
//	ID             id
//	Source         source           as a URI-reference, see CloudEventSource
//	Type           type
//	Time           time
//	Version        dataversion
//	CorrelationID  correlationid    (correlation extension)
//	CausationID    causationid      (correlation extension)
//	Key            partitionkey     (partitioning extension)
//	Category       eventcategory
//	Headers        traceparent and tracestate (distributed tracing extension), and those with [HeaderCloudEvents]
//
// The event must be complete and valid, as for [AppendEnvelope]; a CloudEvent needs a source too.
func CloudEventAttributes(e Event) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, a := range [...][2]string{
			{ceSpecVersion, ceDialect}, {ceID, e.ID}, {ceSource, CloudEventSource(e.Source)}, {ceType, e.Type},
			{ceTime, e.Time.UTC().Format(time.RFC3339Nano)}, {ceDataVersion, e.Version}, {ceCorrelationID, e.CorrelationID},
			{ceCausationID, e.CausationID}, {cePartitionKey, e.Key}, {ceCategory, string(e.Category)},
			{headerTraceParent, e.Headers[headerTraceParent]}, {headerTraceState, e.Headers[headerTraceState]},
		} {
			if a[1] != "" && !yield(a[0], a[1]) { // an attribute is never empty (§2.2 of the core)
				return
			}
		}
		for _, k := range slices.Sorted(maps.Keys(e.Headers)) {
			if name, ok := extension(k); ok && e.Headers[k] != "" && !yield(name, e.Headers[k]) {
				return
			}
		}
	}
}

// extension returns the attribute that a header is for, if it is for one that no field of an event is.
func extension(header string) (name string, ok bool) {
	name, ok = strings.CutPrefix(header, HeaderCloudEvents)
	return name, ok && IsCloudEventAttribute(name) && !ownAttribute(name)
}

// IsCloudEventAttribute reports whether an attribute may have the name: lower-case letters and digits (§3.1 of the core).
func IsCloudEventAttribute(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && name != "data"
}

func ownAttribute(name string) bool {
	switch name {
	case ceSpecVersion, ceID, ceSource, ceType, ceTime, ceDataContentType, ceDataVersion, ceCorrelationID, ceCausationID, cePartitionKey,
		ceCategory, headerTraceParent, headerTraceState:
		return true
	}
	return false
}

// CloudEventSource returns an event's source as a URI-reference (RFC 3986 §4.1), which CloudEvents ask for: as it is if it is
// one, as "order-service" is, else percent-encoded.
func CloudEventSource(source string) string {
	const mark = "-._~:/?#[]@!$&'()*+,;=%"
	plain := func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(mark, c) >= 0
	}
	valid := strings.Count(source, "#") <= 1
	for i := range len(source) {
		valid = valid && plain(source[i])
	}
	if _, err := url.Parse(source); valid && err == nil {
		return source
	}
	var encoded strings.Builder
	for i := range len(source) {
		if c := source[i]; plain(c) && strings.IndexByte(mark[4:], c) < 0 {
			encoded.WriteByte(c)
		} else {
			fmt.Fprintf(&encoded, "%%%02X", c)
		}
	}
	return encoded.String()
}

// AppendCloudEvent appends the event as a CloudEvent 1.0 in the JSON event format (structured mode) to dst, with the attributes of
// [CloudEventAttributes]. It takes events as [AppendEnvelope] does; one without a source is an error, which matches
// [ErrInvalidEvent]. Headers that aren't attributes are not part of it: they travel beside it.
func AppendCloudEvent(dst []byte, e Event) ([]byte, error) {
	if e.Source == "" {
		return dst, &FieldError{Field: "Source", Problem: "is empty, and a CloudEvent needs one", Remedy: "name the producing service"}
	}
	raw, err := e.RawData()
	if err != nil {
		return dst, err
	}
	between := byte('{')
	for name, value := range CloudEventAttributes(e) {
		dst = append(dst, between, '"')
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = appendJSONString(dst, value)
		between = ','
	}
	dst = append(dst, `,"datacontenttype":"`+ContentType+`","data":`...)
	dst = append(dst, raw...)
	return append(dst, '}'), nil
}

// ParseCloudEvent reads a CloudEvent 1.0 in the JSON event format. Attributes that are no field of an event become headers with
// [HeaderCloudEvents]; the trace becomes the headers traceparent and tracestate. See [EventFromCloudEvent] for data that isn't JSON;
// data_base64 is decoded first.
//
// It refuses what [ParseEnvelope] refuses, with errors that match [ErrNotAnEvent], and other versions of CloudEvents than 1.0.
func ParseCloudEvent(body []byte) (Event, error) {
	if !utf8.Valid(body) {
		return Event{}, fmt.Errorf("surepost: %w: the body isn't UTF-8 (byte %d)", ErrNotAnEvent, invalidUTF8(body))
	}
	var members map[string]json.RawMessage // a map, since the names' case matters
	if err := json.Unmarshal(body, &members); err != nil {
		return Event{}, fmt.Errorf("surepost: %w: the body isn't a CloudEvent in JSON: %w (it begins with %s)", ErrNotAnEvent,
			located(err), quoteShort(string(bytes.TrimSpace(body[:min(len(body), maxQuoted)]))))
	}
	data, hasData := members["data"]
	encoded := members["data_base64"]
	delete(members, "data")
	delete(members, "data_base64")
	attributes := make(map[string]string, len(members))
	for name, raw := range members {
		switch raw[0] {
		case 'n': // null: unset (JSON format §2.2)
		case '"':
			var text string
			if err := json.Unmarshal(raw, &text); err != nil {
				return Event{}, fmt.Errorf("surepost: %w: the CloudEvent's %s: %w", ErrNotAnEvent, quoteShort(name), located(err))
			}
			attributes[name] = text
		case '{', '[':
			return Event{}, fmt.Errorf("surepost: %w: the CloudEvent's %s is an object or an array, which no attribute is",
				ErrNotAnEvent, quoteShort(name))
		default:
			attributes[name] = string(raw) // true, false or a number
		}
	}
	switch {
	case len(encoded) > 0 && encoded[0] == '"':
		if hasData {
			return Event{}, fmt.Errorf("surepost: %w: the CloudEvent has both data and data_base64", ErrNotAnEvent)
		}
		var content []byte
		if err := json.Unmarshal(encoded, &content); err != nil {
			return Event{}, fmt.Errorf("surepost: %w: the CloudEvent's data_base64: %w", ErrNotAnEvent, located(err))
		}
		return EventFromCloudEvent(attributes, content)
	case !hasData || isJSONType(attributes[ceDataContentType]):
		return EventFromCloudEvent(attributes, data)
	}
	e, err := EventFromCloudEvent(attributes, nil) // data is the content as a JSON string, as Event.Data is to have it
	if err == nil {
		e.Data = data
	}
	return e, err
}

// EventFromCloudEvent returns the event that a CloudEvent's context attributes and the bytes of its data make: the binary mode
// of a protocol binding. Data that datacontenttype doesn't declare as JSON becomes a JSON string, of the text where the type is text/*
// and the text is UTF-8, else of the base64, which unmarshals into a []byte; and the type is in the header
// "cloudEvents_datacontenttype" then. Data without a type is JSON if it is valid JSON.
//
// Errors match [ErrNotAnEvent]. The event shares no memory with data.
func EventFromCloudEvent(attributes map[string]string, data []byte) (Event, error) {
	e := Event{
		ID: attributes[ceID], Type: attributes[ceType], Version: attributes[ceDataVersion], Source: attributes[ceSource],
		CorrelationID: attributes[ceCorrelationID], CausationID: attributes[ceCausationID], Key: attributes[cePartitionKey],
		Category: Category(attributes[ceCategory]),
	}
	refuse := func(format string, args ...any) (Event, error) {
		return Event{}, fmt.Errorf("surepost: %w: "+format, append([]any{ErrNotAnEvent}, args...)...)
	}
	switch v := attributes[ceSpecVersion]; {
	case v == "":
		return refuse("the CloudEvent has no specversion")
	case v != ceDialect:
		return refuse("the CloudEvent's specversion is %s: publish it as CloudEvents 1.0", quoteShort(v))
	case e.Source == "":
		return refuse("the CloudEvent has no source")
	}
	if at := attributes[ceTime]; at != "" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return refuse("the CloudEvent's time is %s, not a time of RFC 3339", quoteShort(at))
		}
		e.Time = t
	}
	set := func(name, value string) {
		if e.Headers == nil {
			e.Headers = map[string]string{}
		}
		e.Headers[name] = value
	}
	for name, value := range attributes {
		switch {
		case value == "" || strings.ContainsRune(value, 0) || !utf8.ValidString(value):
		case name == headerTraceParent, name == headerTraceState:
			set(name, value)
		case name != "" && !ownAttribute(name) && len(HeaderCloudEvents)+len(name) <= MaxNameBytes && utf8.ValidString(name) && !strings.ContainsRune(name, 0):
			set(HeaderCloudEvents+name, value) // whatever its name: to be strict would lose it
		}
	}
	contentType := attributes[ceDataContentType]
	mediaType := mediaType(contentType)
	switch {
	case len(data) == 0:
		e.Data = json.RawMessage("null")
	case contentType == "" && json.Valid(data), isJSONType(contentType) && contentType != "":
		if !json.Valid(data) || !utf8.Valid(data) {
			return refuse("the CloudEvent's data isn't JSON, as its type %s says (it begins with %s)",
				quoteShort(cmp.Or(contentType, ContentType)), quoteShort(string(data[:min(len(data), maxQuoted)])))
		}
		e.Data = json.RawMessage(bytes.Clone(data))
	case strings.HasPrefix(mediaType, "text/") && utf8.Valid(data):
		e.Data = json.RawMessage(appendJSONString(nil, string(data)))
	default:
		e.Data = json.RawMessage(`"` + base64.StdEncoding.EncodeToString(data) + `"`)
	}
	if contentType != "" && mediaType != ContentType && !strings.ContainsRune(contentType, 0) && utf8.ValidString(contentType) {
		set(HeaderCloudEvents+ceDataContentType, contentType)
	}
	return e.received("the CloudEvent", cloudEventNames)
}

// mediaType returns a content type without its parameters, in lower case.
func mediaType(contentType string) string {
	name, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

// isJSONType reports whether a content type declares JSON: */json, */*+json, or none (JSON format §3.1.1).
func isJSONType(contentType string) bool {
	name := mediaType(contentType)
	return name == "" || strings.HasSuffix(name, "/json") || strings.HasSuffix(name, "+json")
}
