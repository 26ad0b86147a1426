package amqp

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/inbox"
)

// TestOnlySpentAttemptsWait: what can't succeed later is a dead letter at once, and an outage is neither.
func TestOnlySpentAttemptsWait(t *testing.T) {
	c := ConsumerConfig{Queue: "q", MaxAttempts: 1, RetryDelays: []time.Duration{time.Second, time.Minute}}.withDefaults()
	m := func(retries int64) *message {
		return &message{delivery: amqp091.Delivery{Headers: amqp091.Table{HeaderRetries: retries}}}
	}
	for _, test := range []struct {
		retries int64
		reason  DeadLetterReason
		want    string
	}{
		{0, AttemptsSpent, "q.retry.1s"}, {1, AttemptsSpent, "q.retry.1m"}, {2, AttemptsSpent, "q.dlq"}, {99, AttemptsSpent, "q.dlq"},
		{-1, AttemptsSpent, "q.dlq"}, {0, PermanentFailure, "q.dlq"}, {0, NotAnEvent, "q.dlq"}, {0, NoHandler, "q.dlq"},
	} {
		l := letter{message: m(test.retries), reason: test.reason, err: errors.New("x")}
		if got := c.letterQueue(l); got != test.want {
			t.Errorf("%d retries, %s: to %s, want %s", test.retries, test.reason, got, test.want)
		}
		if p := c.parcel(l, time.Now(), 0); p.key != test.want || p.exchange != "" {
			t.Errorf("%d retries, %s: the parcel goes to %q %q", test.retries, test.reason, p.exchange, p.key)
		}
	}
	for _, outage := range []error{syscall.ECONNREFUSED, syscall.EPIPE} {
		if v := c.judge(&tries{}, outage); v.reason != "" {
			t.Errorf("an outage leads to %s", v.reason)
		}
	}
	if v := c.judge(&tries{}, inbox.Permanent(syscall.EPIPE)); v.reason != PermanentFailure {
		t.Errorf("a permanent failure leads to %q", v.reason)
	}
}

// TestRetriedMessageKeepsAllButWhatWouldHarm: another fan-out, an early expiry, the broker's taking it for one that goes
// round in circles.
func TestRetriedMessageKeepsAllButWhatWouldHarm(t *testing.T) {
	d := amqp091.Delivery{Exchange: "events", RoutingKey: "shop.T", Expiration: "1000", UserId: "joe", MessageId: "m",
		Headers: amqp091.Table{"tenant": "acme", "CC": []any{"other"}, "x-death": []any{amqp091.Table{}}, "x-last-death-queue": "q",
			"x-first-death-reason": "expired", headerDeliveryCount: int64(2), headerAcquiredCount: int64(3),
			HeaderPartitionKey: "k"}}
	m := &message{delivery: d, tries: tries{total: 5}, source: "q.3"}
	c := ConsumerConfig{Queue: "q", Partitions: 4, RetryDelays: []time.Duration{time.Second}}.withDefaults()
	p := c.parcel(letter{message: m, reason: AttemptsSpent, err: errors.New("no stock")}, time.Now(), frameBytes)
	if p.exchange != "q.retry.1s" || p.key != "q.3" {
		t.Errorf("to %s %s: the routing key leads back to the partition", p.exchange, p.key)
	}
	names := slices.Sorted(maps.Keys(p.publishing.Headers))
	want := []string{HeaderAttempts, HeaderCC, HeaderError, HeaderExchange, HeaderExpiration, HeaderPartitionKey, HeaderRetries,
		HeaderRoutingKey, HeaderUserID, "tenant"}
	if !slices.Equal(names, want) {
		t.Errorf("headers %v, want %v", names, want)
	}
	if p.publishing.Expiration != "" || p.publishing.UserId != "" || p.publishing.MessageId != "m" ||
		p.publishing.Headers[HeaderAttempts] != int64(5) || p.publishing.Headers[HeaderRetries] != int64(1) {
		t.Errorf("%+v", p.publishing)
	}

	// It comes back by the default exchange and fails for good: its first way is told, and the sum of its attempts.
	back := amqp091.Delivery{RoutingKey: "q.3", Headers: p.publishing.Headers}
	m = &message{delivery: back, tries: tries{total: 5}, source: "q.3"}
	dead := c.parcel(letter{message: m, reason: AttemptsSpent, err: errors.New("no stock")}, time.Now(), frameBytes)
	for name, want := range map[string]any{HeaderExchange: "events", HeaderRoutingKey: "shop.T", HeaderAttempts: int64(10),
		HeaderRetries: int64(1), HeaderQueue: "q.3"} {
		if got := dead.publishing.Headers[name]; got != want {
			t.Errorf("header %s is %v, want %v", name, got, want)
		}
	}
}

func TestBadRetryDelaysAreRefused(t *testing.T) {
	eleven := make([]time.Duration, 11)
	for i := range eleven {
		eleven[i] = time.Duration(i+1) * time.Second
	}
	for _, test := range []struct {
		delays []time.Duration
		words  string
	}{
		{[]time.Duration{0}, "above 0"}, {[]time.Duration{-1}, "above 0"},
		{[]time.Duration{time.Minute, time.Second}, "ascending"}, {[]time.Duration{time.Second, time.Second}, "ascending"},
		{[]time.Duration{time.Microsecond}, "whole milliseconds"}, {[]time.Duration{50 * 24 * time.Hour}, "x-message-ttl"},
		{eleven, "the limit is 10"}, {[]time.Duration{time.Second, time.Hour}, ""},
	} {
		err := partitioned(func(c *ConsumerConfig) { c.RetryDelays = test.delays })
		if test.words == "" && err != nil || test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words)) {
			t.Errorf("%v: %v", test.delays, err)
		}
	}
	if err := partitioned(func(c *ConsumerConfig) {
		c.Queue, c.RetryDelays = strings.Repeat("q", 247), []time.Duration{90 * time.Second}
	}); err == nil || !strings.Contains(err.Error(), "shorten Queue") {
		t.Errorf("a long name: %v", err)
	}
}

func TestRetryQueueNames(t *testing.T) {
	for delay, want := range map[time.Duration]string{
		5 * time.Second: "5s", time.Minute: "1m", 90 * time.Second: "1m30s", time.Hour: "1h", 24 * time.Hour: "24h",
		time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s", 10 * time.Minute: "10m", 200 * time.Millisecond: "200ms",
		time.Hour + 30*time.Minute: "1h30m",
	} {
		if got := shortDuration(delay); got != want {
			t.Errorf("%v is written %s, want %s", delay, got, want)
		}
	}
}
