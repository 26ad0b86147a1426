package amqp

import (
	"context"
	"errors"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// hostileTable reads a header table of any shape from fuzzed bytes: a byte says the type, further ones length and value.
// Names come from those that mean something here, or from the bytes.
type hostileTable struct{ rest []byte }

func (h *hostileTable) byte() byte {
	if len(h.rest) == 0 {
		return 0
	}
	b := h.rest[0]
	h.rest = h.rest[1:]
	return b
}

func (h *hostileTable) text() string {
	n := min(int(h.byte()), len(h.rest))
	s := string(h.rest[:n])
	h.rest = h.rest[n:]
	return s
}

var meaningful = []string{"x-death", "CC", "BCC", "traceparent", "tracestate", "x-delivery-count", "x-acquired-count", HeaderAttempts, HeaderRetries,
	HeaderRedrives, HeaderReason, HeaderError, HeaderQueue, HeaderExchange, HeaderRoutingKey, HeaderDeadLetteredAt, HeaderLeftOut, HeaderCC,
	HeaderPartitionKey, relay.HeaderReplay, "queue", "reason", "time", "routing-keys", "cloudEvents_specversion", "cloudEvents:specversion",
	"cloudEvents_id", "cloudEvents_source", "cloudEvents_type", "cloudEvents:time", "cloudEvents_partitionkey", "cloudEvents_subject"}

func (h *hostileTable) table(depth int) amqp091.Table {
	table := amqp091.Table{}
	for n := h.byte() % 16; n > 0 && len(h.rest) > 0; n-- {
		name := ""
		if b := int(h.byte()); b < 2*len(meaningful) {
			name = meaningful[b/2]
		} else {
			name = h.text()
		}
		table[name] = h.value(depth)
	}
	return table
}

func (h *hostileTable) value(depth int) any {
	number := func() (n int64) {
		for range h.byte() % 9 {
			n = n<<8 | int64(h.byte())
		}
		return n
	}
	switch h.byte() % 16 {
	case 0:
		return nil
	case 1:
		return h.byte() > 127
	case 2:
		return number()
	case 3:
		return int32(number())
	case 4:
		return math.Float64frombits(uint64(number()))
	case 5:
		return []byte(h.text())
	case 6:
		return time.Unix(number(), 0)
	case 7:
		return amqp091.Decimal{Scale: h.byte(), Value: int32(number())}
	case 8:
		if depth > 0 {
			return h.table(depth - 1)
		}
	case 9:
		var list []any
		for n := h.byte() % 8; n > 0 && depth > 0; n-- {
			list = append(list, h.value(depth-1))
		}
		return list
	case 10: // long
		return strings.Repeat(h.text()+"é", int(h.byte())*8)
	case 11: // deep, as one frame can bring it
		var deep any = amqp091.Table{}
		for range int(h.byte()) * 64 {
			deep = amqp091.Table{"d": deep}
		}
		return deep
	}
	return h.text()
}

// FuzzDelivery: whatever a message's body, properties and headers hold, it is refused or becomes an event that a handler can
// build on; and it can be dead-lettered, retried, listed and redriven, within a frame.
func FuzzDelivery(f *testing.F) {
	const body = `{"eventId":"e1","eventType":"T"}`
	f.Add([]byte(body), "e1", "s", "c", int64(1700000000), []byte{3, 6, 10, 4, 'a', 'b', 'c', 'd', 255, 255})
	f.Add([]byte(body), "", "a\xff", "b\x00", int64(math.MaxInt64), []byte{1, 6, 15, 3, 0xff, 0, 0xfe})
	f.Add([]byte(body), "e1", "", "", int64(-1), []byte{2, 14, 2, 8, 255, 255, 255, 255, 255, 255, 255, 255, 16, 2, 8, 127, 255, 255, 255, 255, 255, 255, 255})
	f.Add([]byte("hello"), "m\xff", "", "", int64(0), []byte{2, 0, 9, 1, 8, 2, 40, 15, 1, 'q', 0, 11, 255, 255})
	f.Add([]byte(body), "e1", "", "", int64(0), []byte{4, 2, 15, 1, 'q', 4, 9, 1, 15, 1, 'r', 200, 3, 'a', 'b', 0, 10, 100, 'x', 255, 200, 1, 0xff, 5, 1, 0xff})
	cloud, _ := surepost.AppendCloudEvent(nil, surepost.Event{ID: "e1", Type: "T", Source: "s s"})
	f.Add(cloud, "e1", "s s", "c", int64(0), []byte{1, 6, 10, 4, 'a', 'b', 'c', 'd'})
	f.Add([]byte("\xff\x00"), "other", "", "cc", int64(0), []byte{4, 48, 5, 3, '1', '.', '0', 52, 5, 1, '1', 54, 5, 2, '/', 's', 56, 5, 1, 'T'})
	consumer := ConsumerConfig{Queue: "q", RetryDelays: []time.Duration{time.Second, time.Minute}}.withDefaults()
	f.Fuzz(func(t *testing.T, body []byte, id, app, correlation string, at int64, headers []byte) {
		short := func(s string) string { return s[:min(len(s), maxShortString)] }
		types := []string{"application/json", "application/cloudevents+json; charset=utf-8", "text/plain", "application/cloudevents-batch+json", "", short(app)}
		d := amqp091.Delivery{Body: body, ContentType: types[len(correlation)%len(types)], MessageId: short(id), AppId: short(app), CorrelationId: short(correlation), Timestamp: time.Unix(at, 0),
			Headers: (&hostileTable{headers}).table(3), Exchange: "x", RoutingKey: "k", Expiration: short(id), UserId: short(app)}
		if propertiesRoom+fieldBytes(d.Headers) > frameBytes {
			return // no frame brings it
		}
		before := fieldBytes(d.Headers)
		m := newMessage(nil, d)
		if m.broken != nil {
			if text := m.broken.Error(); !errors.Is(m.broken, surepost.ErrNotAnEvent) || len(text) > 4<<10 {
				t.Fatalf("%d bytes: %.200q", len(text), text)
			}
		} else {
			holds(t, m.event)
		}
		_ = m.attrs().String()

		l := letter{m, AttemptsSpent, errors.New("no luck " + id)}
		dead := l.publishing("q", time.Now(), frameBytes)
		fits(t, dead)
		if parcel := consumer.parcel(l, time.Now(), frameBytes); parcel.key == "" {
			t.Fatalf("it goes nowhere: %+v", parcel)
		} else {
			fits(t, parcel.publishing)
		}
		listed := describe(amqp091.Delivery{Headers: dead.Headers, Body: body, MessageId: dead.MessageId})
		if listed.Queue != "q" || listed.Reason != AttemptsSpent {
			t.Fatalf("the dead letter is described as %+v", listed)
		}
		fits(t, redrivePublishing(d, describe(d), frameBytes)) // one that the broker has dead-lettered
		if fieldBytes(d.Headers) != before {
			t.Fatal("the delivery's own headers were changed: it may be published once more")
		}
	})
}

// holds checks an event that came in: what is left out or refused is what an event can't hold.
func holds(t *testing.T, e surepost.Event) {
	t.Helper()
	given := maps.Clone(e.Headers)
	delete(given, "traceparent") // one that isn't well-formed is kept, for the handler to see, and not carried on
	complete, err := surepost.Event{ID: e.ID, Type: e.Type, CorrelationID: e.CorrelationID, Key: e.Key, Source: e.Source, Version: e.Version,
		CausationID: e.CausationID, Headers: given}.Complete(context.Background(), surepost.Defaults{Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if err := complete.Validate(surepost.Limits{}); err != nil && !strings.Contains(err.Error(), "Headers are ") {
		t.Fatalf("what came in can't be passed on: %v", err)
	}
	next, err := surepost.Event{Type: "Next"}.Prepare(surepost.WithHandling(context.Background(), e), surepost.Defaults{Source: "s"}, surepost.Limits{})
	if err != nil {
		t.Fatalf("its handler can't write: %v", err)
	}
	for _, format := range []Format{Envelope, CloudEventsStructured, CloudEventsBinary} {
		p, err := format.Publishing(next)
		if err != nil {
			t.Fatal(err)
		}
		back, err := EventFromDelivery(delivery(p))
		if err != nil || !reflect.DeepEqual(back, next) {
			t.Fatalf("as %s: published %+v\nreceived  %+v (%v)", format, next, back, err)
		}
	}
}

// fits checks that a message goes through a frame and the client library.
func fits(t *testing.T, p amqp091.Publishing) {
	t.Helper()
	n := fieldBytes(p.Headers) + 14 + 8 + 9
	for _, s := range []string{p.ContentType, p.ContentEncoding, p.CorrelationId, p.ReplyTo, p.Expiration, p.MessageId, p.Type, p.UserId, p.AppId} {
		if len(s) > maxShortString {
			t.Fatalf("a property of %d bytes", len(s))
		}
		n += 1 + len(s)
	}
	if n > frameBytes {
		t.Fatalf("a frame of %d bytes, with headers of %d", n, fieldBytes(p.Headers))
	}
	if err := p.Headers.Validate(); err != nil {
		t.Fatalf("the client library refuses it: %v", err)
	}
	if text, ok := p.Headers[HeaderError].(string); ok && !utf8.ValidString(text) {
		t.Fatalf("the error's text is %q", text)
	}
}

// FuzzRouting: a rule matches as its reference does, a template is refused with words or writes the fields and nothing
// else, and an event whose key came out too long is refused by itself, without taking the session with it.
func FuzzRouting(f *testing.F) {
	f.Add("Order*", "OrderCreated", "{source}.{type}", "s", "k")
	f.Add("*a*b?c**", "xaybzc", "{key}{", "s", "}")
	f.Add("?é*", "ééx", "}{type}{unknown}", "", "")
	f.Add(strings.Repeat("*a", 40), strings.Repeat("a", 120), "a{key}"+strings.Repeat("b", 250), "s", "{type}")
	f.Fuzz(func(t *testing.T, pattern, typ, tmpl, source, key string) {
		if len(pattern) > 300 || len(typ) > 300 || len(tmpl) > 600 {
			return // configuration is short, and the reference is slow
		}
		if utf8.ValidString(pattern) && utf8.ValidString(typ) {
			if got, want := glob(pattern, typ), globReference([]rune(pattern), []rune(typ)); got != want {
				t.Fatalf("%q matches %q: %v, want %v", pattern, typ, got, want)
			}
		}
		event := surepost.Event{ID: "e", Type: typ, Source: source, Key: key, Version: "1.0", Category: surepost.Domain}
		router, errs := Routing{Rules: []Rule{{Type: pattern, Key: tmpl, Exchange: "x"}}}.compile()
		wellFormed, want := templateReference(tmpl, &event)
		if tmpl != "" && (len(errs) == 0) != wellFormed {
			t.Fatalf("%q: %v, want well-formed %v", tmpl, errs, wellFormed)
		}
		for _, err := range errs {
			if !strings.Contains(err.Error(), "Routing.Rules[0].Key") || !utf8.ValidString(err.Error()) {
				t.Fatalf("%q: the error doesn't say where: %v", tmpl, err)
			}
		}
		if len(errs) > 0 || !utf8.ValidString(pattern) || !utf8.ValidString(typ) {
			return
		}
		exchange, got := router.route(&event)
		if matches := pattern == "" || globReference([]rune(pattern), []rune(typ)); !matches || tmpl == "" {
			want = source + "." + typ
		} else if exchange != "x" {
			t.Fatalf("went to %q", exchange)
		}
		if got != want {
			t.Fatalf("%q of %+v is %q, want %q", tmpl, event, got, want)
		}
	})
}

// globReference is glob by dynamic programming.
func globReference(pattern, s []rune) bool {
	row := make([]bool, len(s)+1) // row[i]: what there is of the pattern matches s[:i]
	row[0] = true
	for _, p := range pattern {
		next := make([]bool, len(s)+1)
		for i := range next {
			switch {
			case p == '*':
				next[i] = row[i] || i > 0 && next[i-1]
			case i > 0:
				next[i] = row[i-1] && (p == '?' || p == s[i-1])
			}
		}
		row = next
	}
	return row[len(s)]
}

// templateReference expands a template by looking at each brace.
func templateReference(tmpl string, e *surepost.Event) (wellFormed bool, expanded string) {
	fields := map[string]string{"source": e.Source, "type": e.Type, "category": string(e.Category), "key": e.Key, "version": e.Version}
	var b strings.Builder
	text := 0
	for i := 0; i < len(tmpl); i++ {
		switch tmpl[i] {
		case '}':
			return false, ""
		case '{':
			end := strings.IndexByte(tmpl[i:], '}')
			if end < 0 {
				return false, ""
			}
			value, known := fields[tmpl[i+1:i+end]]
			if !known {
				return false, ""
			}
			b.WriteString(value)
			i += end
		default:
			b.WriteByte(tmpl[i])
			text++
		}
	}
	return text <= maxShortString, b.String()
}
