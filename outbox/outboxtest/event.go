package outboxtest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/surepost/surepost"
)

// Event describes the events that a test means. An empty field matches anything, all others must match.
type Event struct {
	ID            string
	Type          string
	Key           string
	Source        string
	Version       string
	CorrelationID string
	CausationID   string
	Category      surepost.Category

	// NotBefore is when a delayed event is due, to the microsecond.
	NotBefore time.Time

	// Headers must be there with these values; the event may have more.
	Headers map[string]string

	// Data is what the event's data must be: a value of any type that marshals to the same JSON, whatever its spelling
	// and the order of its members (a json.RawMessage or a []byte is JSON already). To match a part of it, see
	// [Partial] and [Where].
	Data any

	// Times is how many of the written events must match, exactly. Default 0: at least one.
	Times int
}

// differences says in which fields the written event isn't as wanted.
func (want Event) differences(got surepost.Event) (all []string) {
	field := func(name, got, want string) {
		if want != "" && got != want {
			all = append(all, fmt.Sprintf("%s is %q, want %q", name, got, want))
		}
	}
	field("type", got.Type, want.Type)
	field("key", got.Key, want.Key)
	field("id", got.ID, want.ID)
	field("source", got.Source, want.Source)
	field("version", got.Version, want.Version)
	field("correlation id", got.CorrelationID, want.CorrelationID)
	field("causation id", got.CausationID, want.CausationID)
	field("category", string(got.Category), string(want.Category))
	if !want.NotBefore.IsZero() && !got.NotBefore.Truncate(time.Microsecond).Equal(want.NotBefore.Truncate(time.Microsecond)) {
		due := "none: it isn't delayed"
		if !got.NotBefore.IsZero() {
			due = got.NotBefore.Format(time.RFC3339Nano)
		}
		all = append(all, fmt.Sprintf("not-before is %s, want %s", due, want.NotBefore.UTC().Format(time.RFC3339Nano)))
	}
	for _, name := range slices.Sorted(maps.Keys(want.Headers)) {
		value, there := got.Headers[name]
		if !there {
			all = append(all, fmt.Sprintf("header %q isn't there, want %q", name, want.Headers[name]))
		} else if value != want.Headers[name] {
			all = append(all, fmt.Sprintf("header %q is %q, want %q", name, value, want.Headers[name]))
		}
	}
	return append(all, want.dataDifferences(got)...)
}

func (want Event) dataDifferences(got surepost.Event) []string {
	if want.Data == nil {
		return nil
	}
	raw, err := got.RawData()
	if err != nil {
		return []string{err.Error()}
	}
	if m, ok := want.Data.(dataMatcher); ok {
		return m.differences(raw)
	}
	wanted, err := surepost.Event{Data: want.Data}.RawData()
	if err != nil {
		return []string{"the wanted " + err.Error()}
	}
	return compareJSON(raw, wanted, whole)
}

// distance weighs differences, to find the nearest event: what names it counts for more than what it says.
func (want Event) distance(got surepost.Event) int {
	d := len(want.differences(got))
	differs := func(got, want string, weight int) {
		if want != "" && got != want {
			d += weight
		}
	}
	differs(got.ID, want.ID, 10_000)
	differs(got.Type, want.Type, 1000)
	differs(got.Key, want.Key, 10)
	return d
}

// String writes what the test has set.
func (want Event) String() string {
	var data string
	switch d := want.Data.(type) {
	case nil:
	case dataMatcher:
		data = d.String()
	default:
		raw, err := surepost.Event{Data: d}.RawData()
		data = "data=" + shorten(string(raw))
		if err != nil {
			data = "data: " + err.Error()
		}
	}
	e := surepost.Event{ID: want.ID, Type: want.Type, Key: want.Key, Source: want.Source, Version: want.Version, CorrelationID: want.CorrelationID,
		CausationID: want.CausationID, Category: want.Category, Headers: want.Headers, NotBefore: want.NotBefore}
	return describe(e, data)
}

// written describes an event that was written, in the fields that tell it from others.
func written(e surepost.Event) string {
	raw, err := e.RawData()
	data := "data=" + shorten(string(raw))
	if err != nil {
		data = "data: " + err.Error()
	}
	if e.CorrelationID == e.ID { // it starts its flow
		e.CorrelationID = ""
	}
	if e.Version == surepost.DefaultVersion {
		e.Version = ""
	}
	return describe(e, data)
}

func describe(e surepost.Event, data string) string {
	parts := []string{e.Type}
	if e.Type == "" {
		parts[0] = "(any type)"
	}
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+strconv.Quote(value))
		}
	}
	add("key", e.Key)
	add("id", e.ID)
	add("source", e.Source)
	add("version", e.Version)
	add("correlation", e.CorrelationID)
	add("causation", e.CausationID)
	add("category", string(e.Category))
	if !e.NotBefore.IsZero() {
		add("not-before", e.NotBefore.UTC().Format(time.RFC3339Nano))
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		add("headers["+name+"]", e.Headers[name])
	}
	if data != "" {
		parts = append(parts, data)
	}
	return strings.Join(parts, " ")
}

func shorten(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
