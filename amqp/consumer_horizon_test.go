package amqp

import (
	"testing"
	"time"
)

// Every delay and every try counts, in every round.
func TestTheRedeliveryHorizonCountsEveryTry(t *testing.T) {
	base := ConsumerConfig{MaxAttempts: 3, HandlerTimeout: time.Minute, Backoff: Backoff{Min: time.Second, Max: time.Minute}, DeliveryLimit: 4, MaxUnfinished: 2}
	with := func(change func(*ConsumerConfig)) ConsumerConfig {
		c := base
		change(&c)
		return c
	}
	const delivery = 4*time.Minute + 3*time.Second
	for name, c := range map[string]struct {
		config ConsumerConfig
		want   time.Duration
	}{
		"tries and pauses": {base, 5 * delivery},
		"deaths":           {with(func(c *ConsumerConfig) { c.MaxUnfinished = 9 }), 10 * delivery},
		"a batch":          {with(func(c *ConsumerConfig) { c.BatchSize = 10 }), 5 * (delivery + time.Minute)},
		"retry queues": {
			with(func(c *ConsumerConfig) { c.RetryDelays = []time.Duration{time.Minute, time.Hour} }),
			3*5*delivery + time.Minute + time.Hour,
		},
		"the broker's limit": {with(func(c *ConsumerConfig) { c.Backoff.Min, c.Backoff.Max = time.Hour, time.Hour }), 5 * brokerConsumeTimeout},
		"defaults":           {ConsumerConfig{}, 21 * brokerConsumeTimeout},
	} {
		if got := c.config.RedeliveryHorizon(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
