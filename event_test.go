package surepost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func valid() Event {
	return Event{
		ID: "evt_abc123", Type: "OrderCreated", Time: time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC), Version: "1.0", Source: "order-service",
		CorrelationID: "req_xyz789", Data: json.RawMessage(`{"orderId":7}`),
	}
}

func TestTheEnvelopeHasExactlyTheseFields(t *testing.T) {
	e := valid()
	got, err := AppendEnvelope(nil, e)
	want := `{"eventId":"evt_abc123","eventType":"OrderCreated","timestamp":"2024-01-15T10:30:00Z","version":"1.0","source":"order-service",` +
		`"correlationId":"req_xyz789","data":{"orderId":7}}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
	e.CausationID, e.Key, e.Category = "evt_before", "customer \"7\"\n\x01ä</", Domain
	got, _ = AppendEnvelope(nil, e)
	want = strings.TrimSuffix(want, `"data":{"orderId":7}}`) + `"causationId":"evt_before","key":"customer \"7\"\n\u0001ä</","category":"domain","data":{"orderId":7}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	back, err := ParseEnvelope(got)
	if err != nil || !reflect.DeepEqual(back, e) {
		t.Errorf("read back %+v (%v)\nwant      %+v", back, err, e)
	}
}

func TestWhatIsNotAnEventIsRefused(t *testing.T) {
	for body, want := range map[string]string{
		``:                        "isn't a JSON envelope",
		`hello`:                   "isn't a JSON envelope",
		`[]`:                      "isn't a JSON envelope",
		`{}`:                      "no eventId",
		`{"eventId":"1"}`:         "no eventType",
		`{"eventId":7}`:           "isn't a JSON envelope",
		`{"eventId":"","data":1}`: "no eventId",
		`{"eventId":"1","eventType":"` + strings.Repeat("x", 256) + `"}`: "256 bytes",
		`{"eventId":"1","eventType":"T","timestamp":"yesterday"}`:        "isn't a JSON envelope",
	} {
		if _, err := ParseEnvelope([]byte(body)); !errors.Is(err, ErrNotAnEvent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", body, err, want)
		}
	}
	e, err := ParseEnvelope([]byte(`{"eventId":"1","eventType":"T","new":{}}`))
	if err != nil || e.Version != DefaultVersion || string(e.Data.(json.RawMessage)) != "null" {
		t.Errorf("a sparse envelope: %+v, %v", e, err)
	}
}

func TestBadInputNamesFieldLimitAndRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Event)
		want  []string
	}{
		"empty type":            {func(e *Event) { e.Type = "" }, []string{"Type", "empty", "OrderCreated"}},
		"type of 256 bytes":     {func(e *Event) { e.Type = strings.Repeat("x", 256) }, []string{"Type", "256", "255", "shorten"}},
		"key of 256 bytes":      {func(e *Event) { e.Key = strings.Repeat("x", 256) }, []string{"Key", "256", "255", "shorten"}},
		"no source":             {func(e *Event) { e.Source = "" }, []string{"Source", "outbox.Config.Source"}},
		"invalid UTF-8":         {func(e *Event) { e.Key = "a\xff" }, []string{"Key", "UTF-8", "convert"}},
		"NUL":                   {func(e *Event) { e.Key = "a\x00" }, []string{"Key", "NUL", "remove"}},
		"not JSON":              {func(e *Event) { e.Data = []byte("hello") }, []string{"Data", "not JSON", "hello", "json.RawMessage"}},
		"not UTF-8 JSON":        {func(e *Event) { e.Data = []byte("\"\xff\"") }, []string{"Data", "UTF-8"}},
		"unmarshallable":        {func(e *Event) { e.Data = func() {} }, []string{"Data", "marshalled"}},
		"data over the limit":   {func(e *Event) { e.Data = strings.Repeat("x", 100) }, []string{"Data", "102 bytes", "limit is 100", "MaxDataBytes"}},
		"category":              {func(e *Event) { e.Category = "other" }, []string{"Category", "other", "surepost.Domain"}},
		"header with x-":        {func(e *Event) { e.Headers = map[string]string{"x-a": ""} }, []string{`Headers["x-a"]`, "RabbitMQ", "another name"}},
		"header key, 256 bytes": {func(e *Event) { e.Headers = map[string]string{strings.Repeat("x", 256): ""} }, []string{"Headers", "256", "255"}},
		"headers too large":     {func(e *Event) { e.Headers = map[string]string{"a": strings.Repeat("x", 40_000)} }, []string{"Headers", "40001", "32768"}},
		"bad traceparent":       {func(e *Event) { e.Headers = map[string]string{"traceparent": "00-0"} }, []string{"traceparent", "W3C"}},
		"year 10000":            {func(e *Event) { e.Time = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) }, []string{"Time", "10000"}},
	} {
		e := valid()
		c.spoil(&e)
		err := e.Validate(Limits{MaxDataBytes: 100})
		if !errors.Is(err, ErrInvalidEvent) {
			t.Errorf("%s: %v, want ErrInvalidEvent", name, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v\ndoesn't mention %q", name, err, want)
			}
		}
	}
	bad := valid()
	bad.Type, bad.Key, bad.Data = "", "\xff", []byte("{")
	var all *EventError
	if err := bad.Validate(Limits{}); !errors.As(err, &all) || len(all.Fields) != 3 {
		t.Errorf("%v, want three problems at once", err)
	}
	if err := valid().Validate(Limits{}); err != nil {
		t.Error(err)
	}
}

func TestIdsIncreaseAndAreUUIDv7(t *testing.T) {
	var last string
	for range 100_000 {
		id := NewID()
		if id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		if len(id) != 36 || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%s is not a UUIDv7", id)
		}
		last = id
	}
	var ms int64
	if _, err := fmt.Sscanf(last[:8]+last[9:13], "%x", &ms); err != nil || time.Since(time.UnixMilli(ms)).Abs() > time.Minute {
		t.Errorf("%s carries the time %v", last, time.UnixMilli(ms))
	}
}

func TestDefaultsComeFromTheContext(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := context.Background()
	first, err := Event{Type: "A", Data: 1, Headers: map[string]string{"tenant": "t"}}.Complete(
		WithTrace(ctx, TraceContext{Parent: parent, State: "a=b"}), Defaults{Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if first.CorrelationID != first.ID || first.CausationID != "" || first.Source != "s" || first.Version != "1.0" || first.Time.IsZero() ||
		first.Headers["traceparent"] != parent || first.Headers["tracestate"] != "a=b" || first.Headers["tenant"] != "t" {
		t.Errorf("the first event of a flow: %+v", first)
	}
	second, _ := Event{Type: "B"}.Complete(WithHandling(ctx, first), Defaults{Source: "s"})
	if second.CorrelationID != first.ID || second.CausationID != first.ID || second.Headers["traceparent"] != parent {
		t.Errorf("an event caused by it: %+v", second)
	}
	third, _ := Event{Type: "C"}.Complete(WithCorrelationID(WithHandling(ctx, second), "mine"), Defaults{Source: "s"})
	if third.CorrelationID != "mine" || third.CausationID != second.ID {
		t.Errorf("an event with a correlation id from its context: %+v", third)
	}
	if _, ok := Trace(WithTrace(ctx, TraceContext{Parent: "nonsense"})); ok {
		t.Error("a malformed traceparent was carried on")
	}
}

func TestTraceParents(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for s, want := range map[string]bool{
		good: true, "cc" + good[2:] + "-future": true, good + "-x": false, "ff" + good[2:]: false, strings.ToUpper(good): false, "": false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false, "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": false,
	} {
		if validTraceParent(s) != want {
			t.Errorf("%q: want %v", s, want)
		}
	}
}

func TestSlotsSpreadEvenly(t *testing.T) {
	var n [Slots]int
	for i := range 100 * Slots {
		n[Event{ID: fmt.Sprint(i)}.Slot()]++
	}
	for slot, events := range n {
		if events < 40 || events > 180 {
			t.Errorf("slot %d has %d of about 100 events", slot, events)
		}
	}
	if a, b := (Event{ID: "1", Key: "k"}).Slot(), (Event{ID: "2", Key: "k"}).Slot(); a != b || a != 521 {
		t.Errorf("slots %d and %d for one key, want 521: stored slots must never change", a, b)
	}
}

func ExampleEvent_Decode() {
	e, err := ParseEnvelope([]byte(`{"eventId":"evt_abc123","eventType":"OrderCreated","data":{"orderId":7}}`))
	if err != nil {
		panic(err)
	}
	var order struct{ OrderID int }
	if err := e.Decode(&order); err != nil {
		panic(err)
	}
	fmt.Println(e.Type, order.OrderID)
	// Output: OrderCreated 7
}

func ExampleWithCorrelationID() {
	ctx := WithCorrelationID(context.Background(), "req_xyz789") // from the HTTP request
	e, _ := Event{Type: "OrderCreated"}.Complete(ctx, Defaults{Source: "order-service"})
	fmt.Println(e.CorrelationID)
	// Output: req_xyz789
}
