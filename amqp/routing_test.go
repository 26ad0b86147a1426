package amqp

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/surepost/surepost"
)

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"Order*", "OrderCreated", true}, {"Order*", "Order", true}, {"Order*", "Reorder", false},
		{"*Created", "OrderCreated", true}, {"*Created", "OrderCreatedAt", false}, {"*", "", true}, {"**", "a/b.c", true},
		{"a*b*c", "a.b.b.c", true}, {"a*b*c", "a.b.b.d", false}, {"?", "ö", true}, {"?", "", false}, {"?", "ab", false},
		{"*?", "ö", true}, {"ord[e]r", "order", false}, {"Order", "order", false}, {"*ab", "aab", true}, {"a?c*", "abcdef", true},
		{strings.Repeat("*a", 50) + "b", strings.Repeat("a", 1000), false}, // must not take for ever
	} {
		if got := glob(test.pattern, test.s); got != test.want {
			t.Errorf("glob(%q, %.20q) is %v", test.pattern, test.s, got)
		}
	}
}

func FuzzGlobOfALiteralMatchesItselfOnly(f *testing.F) {
	f.Add("OrderCreated", "OrderCreate")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsAny(a, "*?") || !utf8.ValidString(a) || !utf8.ValidString(b) {
			return // an event's fields are valid UTF-8
		}
		if !glob(a, a) || glob(a, b) != (a == b) || !glob("*"+a+"*", b+a+b) {
			t.Errorf("glob is wrong about %q and %q", a, b)
		}
	})
}

func TestTheFirstMatchingRuleDecides(t *testing.T) {
	r, errs := Routing{
		Exchange: "main",
		Rules: []Rule{
			{Category: "system", Exchange: "ops", Key: "{type}"},
			{Type: "Order*", Source: "*-service", Key: "orders.{key}.v{version}.{category}"},
			{Type: "Order*", Exchange: "strays"},
		},
	}.compile()
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if want := []string{"main", "ops", "strays"}; !slices.Equal(r.exchanges(), want) {
		t.Errorf("the exchanges are %q, want %q", r.exchanges(), want)
	}
	for _, test := range []struct {
		event         surepost.Event
		exchange, key string
	}{
		{surepost.Event{Type: "Paid", Source: "s"}, "main", "s.Paid"},
		{surepost.Event{Type: "OrderLost", Source: "x", Category: surepost.System}, "ops", "OrderLost"},
		{surepost.Event{Type: "OrderPaid", Source: "a-service", Key: "k", Version: "2"}, "main", "orders.k.v2."},
		{surepost.Event{Type: "OrderPaid", Source: "a"}, "strays", "a.OrderPaid"},
	} {
		if exchange, key := r.route(&test.event); exchange != test.exchange || key != test.key {
			t.Errorf("%+v goes to %q %q, want %q %q", test.event, exchange, key, test.exchange, test.key)
		}
	}
}

func TestEveryProblemOfARoutingIsNamedAtOnce(t *testing.T) {
	_, errs := Routing{
		Exchange: strings.Repeat("e", 256),
		Key:      "{source}.{tenant}.{aggregate}",
		Rules:    []Rule{{Type: "A"}, {Exchange: "x", Key: "{key"}, {Key: "key}"}, {Key: strings.Repeat("k", 256)}},
	}.compile()
	wantText(t, errors.Join(errs...), "Routing.Exchange is 256 bytes", "unknown placeholder {tenant}", "unknown placeholder {aggregate}",
		"use {source}, {type}, {category}, {key}, {version}", "Rules[0].Exchange and Key are both empty", `Rules[1].Key "{key"`,
		`Rules[2].Key "key}"`, "Rules[3].Key", "256 bytes of text")
}

func TestEveryProblemOfAPublisherIsNamedAtOnce(t *testing.T) {
	_, err := NewPublisher(PublisherConfig{
		Routing:         Routing{Key: "{nope}"},
		Exchanges:       []Exchange{{}, {Name: "a"}, {Name: "a", Args: map[string]any{"n": struct{}{}}}},
		Mode:            7,
		MaxMessageBytes: -1, ConfirmTimeout: -1, Window: 1 << 20,
	})
	wantText(t, err, "set Connection.URLs", "{nope}", "no name", `lists "a" twice`, "AMQP can't carry", "Mode is 7", "MaxMessageBytes is -1",
		"ConfirmTimeout is -1ns", "Window is 1048576")
}

func BenchmarkRoute(b *testing.B) {
	r, _ := Routing{Rules: []Rule{{Category: "system", Exchange: "ops"}, {Type: "Invoice*", Exchange: "billing"}}}.compile()
	e := testEvent("e1")
	b.ReportAllocs()
	for b.Loop() {
		r.route(&e)
	}
}
