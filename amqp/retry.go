package amqp

import (
	"context"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// An event whose attempts in place are spent may wait in a retry queue and come back: one durable queue for each delay,
// with a TTL for all of its messages. (A TTL of each message's own wouldn't do: a queue expires messages at its head
// only, so that a long one would hold up the short ones behind it.)
//
//	<queue> ──attempts spent──▶ <queue>.retry.5s ──expired──▶ <queue> ──▶ <queue>.retry.1m ──▶ … ──▶ <queue>.dlq
//
// The way there is a publish, confirmed before the original is acknowledged. The way back is the broker's: at least
// once between quorum queues.

const (
	retryInfix     = ".retry."
	maxRetryDelays = 10 // each is a queue; with delays that double, ten span three orders of magnitude

	// maxRetryDelay is RabbitMQ's limit of x-message-ttl, 2³²-1 ms ("Time-to-Live and Expiration").
	maxRetryDelay = (1<<32 - 1) * time.Millisecond
)

// retries returns how many of RetryDelays the message has waited.
func (m *message) retries() int { return int(headerInt(m.delivery.Headers, HeaderRetries)) }

// retryAfter returns how long a letter waits for its next attempts; false if it is a dead letter. It is one if
// another attempt can't help, or if it has waited all delays.
func (c ConsumerConfig) retryAfter(l letter) (delay time.Duration, ok bool) {
	n := l.retries()
	if l.reason != AttemptsSpent || n < 0 || n >= len(c.RetryDelays) {
		return 0, false
	}
	return c.RetryDelays[n], true
}

// retryParcel returns the letter as it goes to its retry queue: body, properties and headers as they were, save what
// setAside says. The broker's own record of dead-lettering is left out: RabbitMQ 3 takes it for the message's, and drops
// a message that seems to go round in circles.
//
// A partition's letter goes by an exchange, with its partition as routing key: it keeps that in the retry queue, which
// has none of its own, and so comes back to the partition that it left.
func (c ConsumerConfig) retryParcel(l letter, delay time.Duration, frameBytes int) parcel {
	headers := setAside(l.delivery)
	forgetDeaths(headers)
	headers[HeaderRetries] = int64(l.retries() + 1)
	headers[HeaderAttempts] = int64(l.attempts())
	headers[HeaderError] = ""
	fitHeaders(headers, l.err.Error(), frameBytes)
	p := parcel{key: c.retryQueue(delay), publishing: publishingOf(l.delivery, headers)}
	if c.Partitions > 0 {
		p.exchange, p.key = p.key, c.source(l)
	}
	return p
}

// forgetDeaths removes what the broker noted about dead-lettering.
func forgetDeaths(headers amqp091.Table) {
	for name := range headers {
		if name == "x-death" || strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-") {
			delete(headers, name)
		}
	}
}

// retryQueue returns the name of the queue for a delay: "billing.orders.retry.1m30s".
func (c ConsumerConfig) retryQueue(delay time.Duration) string {
	return c.Queue + retryInfix + shortDuration(delay)
}

// shortDuration writes 1m0s as 1m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (c ConsumerConfig) retryArgs(delay time.Duration) amqp091.Table {
	args := amqp091.Table{
		amqp091.QueueTypeArg:     string(c.QueueType),
		"x-message-ttl":          delay.Milliseconds(),
		"x-dead-letter-exchange": "",
	}
	if c.Partitions == 0 {
		args["x-dead-letter-routing-key"] = c.Queue
	}
	if c.QueueType == QuorumQueue {
		// The message leaves the retry queue when the queue behind it has confirmed it, and not before. RabbitMQ wants
		// reject-publish for that; it has no other effect without a limit on the length.
		args["x-dead-letter-strategy"] = "at-least-once"
		args["x-overflow"] = "reject-publish"
	}
	return args
}

func (c ConsumerConfig) ensureRetryQueues(ctx context.Context, l *link) error {
	for _, delay := range c.RetryDelays {
		name := c.retryQueue(delay)
		if err := ensureQueue(ctx, l, c.Mode, name, c.retryArgs(delay)); err != nil {
			return err
		}
		if c.Partitions == 0 {
			continue
		}
		exchange := Exchange{Name: name, Kind: amqp091.ExchangeFanout}
		if err := exchange.ensure(ctx, l, c.Mode); err != nil {
			return err
		}
		if err := ensureBinding(ctx, l, c.Mode, name, name, ""); err != nil {
			return err
		}
	}
	return nil
}

func (c ConsumerConfig) validateRetryDelays(bad func(string, ...any)) {
	if n := len(c.RetryDelays); n > maxRetryDelays {
		bad("RetryDelays has %d delays, the limit is %d (each is a queue): leave some out", n, maxRetryDelays)
	}
	for i, d := range c.RetryDelays {
		switch {
		case d <= 0:
			bad("RetryDelays[%d] is %v: use a time above 0", i, d)
		case d%time.Millisecond != 0 || d > maxRetryDelay:
			bad("RetryDelays[%d] is %v: use whole milliseconds up to %v, RabbitMQ's limit of x-message-ttl",
				i, d, maxRetryDelay)
		case i > 0 && d <= c.RetryDelays[i-1]:
			bad("RetryDelays[%d] is %v, after %v: put them in ascending order, each once", i, d, c.RetryDelays[i-1])
		}
		if name := c.retryQueue(d); len(name) > surepost.MaxNameBytes {
			bad("RetryDelays[%d] makes a queue name of %d bytes, the limit is %d: shorten Queue",
				i, len(name), surepost.MaxNameBytes)
		}
	}
}
