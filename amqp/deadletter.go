package amqp

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// The headers that a dead letter carries besides those it had. None begins with "x-": RabbitMQ keeps such names for
// itself, and loses them on the way to AMQP 1.0 clients.
const (
	HeaderReason         = "surepost-reason"           // a DeadLetterReason
	HeaderError          = "surepost-error"            // the last error's text, possibly cut short
	HeaderAttempts       = "surepost-attempts"         // how often the handler was called, outages included
	HeaderQueue          = "surepost-queue"            // the queue it was consumed from: where to redrive it to
	HeaderExchange       = "surepost-exchange"         // the exchange it was published to
	HeaderRoutingKey     = "surepost-routing-key"      // the routing key it was published with
	HeaderDeadLetteredAt = "surepost-dead-lettered-at" // RFC 3339, UTC
	HeaderExpiration     = "surepost-expiration"       // its expiration property, if it had one: see letter.publishing
	HeaderUserID         = "surepost-user-id"          // its user-id property, if it had one
	HeaderCC             = "surepost-cc"               // its CC header, if it had one
	HeaderLeftOut        = "surepost-left-out"         // headers of its own that didn't fit any more
	HeaderRetries        = "surepost-retries"          // how many of RetryDelays it has waited
	HeaderRedrives       = "surepost-redrives"         // how often it was redriven from the dead-letter queue
)

const (
	// maxErrorBytes is the longest error text in a dead letter: enough for a chain of errors, little enough for a
	// page of a thousand dead letters.
	maxErrorBytes = 8 << 10

	// propertiesRoom is kept free in the frame beside the header table: eight short strings of 256 bytes, and fixed
	// fields.
	propertiesRoom = 4 << 10
)

// letter is a message on its way to the dead-letter queue.
type letter struct {
	*message
	reason DeadLetterReason
	err    error
}

// publishing returns the dead letter: body, properties and headers as they were, and headers of ours besides. What
// can't stay as it was is kept in a header:
//   - expiration: the dead letter would expire too;
//   - user-id: the broker refuses a message in another user's name;
//   - the header CC: the broker would deliver the dead letter to those queues as well.
//
// The broker's counters of deliveries are left out, because they would be read as the dead letter's own. All
// properties and headers travel in one frame of at most frameBytes (0: no limit), which can't be split: where they
// don't fit, the error's text is cut short; where that doesn't suffice, the longest headers are left out, and named.
func (l letter) publishing(queue string, now time.Time, frameBytes int) amqp091.Publishing {
	headers := setAside(l.delivery)
	headers[HeaderReason] = string(l.reason)
	headers[HeaderAttempts] = int64(l.attempts())
	headers[HeaderQueue] = queue
	headers[HeaderDeadLetteredAt] = now.UTC().Format(time.RFC3339)
	headers[HeaderError] = ""
	fitHeaders(headers, l.err.Error(), frameBytes)
	return publishingOf(l.delivery, headers)
}

// setAside returns a copy of the delivery's headers for its next publishing, without what can't stay as it was, and
// with headers of ours that keep it.
func setAside(d amqp091.Delivery) amqp091.Table {
	headers := make(amqp091.Table, len(d.Headers)+9)
	maps.Copy(headers, d.Headers)
	for _, counter := range []string{headerDeliveryCount, headerAcquiredCount} {
		delete(headers, counter)
	}
	if cc, ok := headers["CC"]; ok {
		delete(headers, "CC")
		headers[HeaderCC] = cc
	}
	delete(headers, "BCC")
	if d.Expiration != "" {
		headers[HeaderExpiration] = d.Expiration
	}
	if d.UserId != "" {
		headers[HeaderUserID] = d.UserId
	}
	// What came back from a retry or a redrive came by the default exchange: its first way is the one to tell.
	if _, told := headers[HeaderExchange]; !told || d.Exchange != "" {
		headers[HeaderExchange] = d.Exchange
		headers[HeaderRoutingKey] = d.RoutingKey
	}
	return headers
}

// publishingOf returns the delivery's message with other headers: persistent, and without expiration and user-id.
func publishingOf(d amqp091.Delivery, headers amqp091.Table) amqp091.Publishing {
	return amqp091.Publishing{
		Headers:         headers,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp091.Persistent,
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		AppId:           d.AppId,
		Body:            d.Body,
	}
}

// fitHeaders sets the error's text as long as it may be, and makes room where there is none.
func fitHeaders(headers amqp091.Table, text string, frameBytes int) {
	if frameBytes == 0 {
		headers[HeaderError] = cutText(text, maxErrorBytes)
		return
	}
	const leastErrorBytes = 256 // what one looks for first in a dead letter
	room := frameBytes - propertiesRoom - fieldBytes(headers)
	if room < leastErrorBytes {
		room += leaveOut(headers, leastErrorBytes-room)
	}
	headers[HeaderError] = cutText(text, min(room, maxErrorBytes))
}

// leaveOut removes the longest of the message's own headers until at least want bytes are free, and returns how many
// that are.
func leaveOut(headers amqp091.Table, want int) (freed int) {
	const nameBytes = 64 // of each name that is listed
	own := slices.Collect(maps.Keys(headers))
	own = slices.DeleteFunc(own, func(name string) bool { return strings.HasPrefix(name, ownHeaders) })
	slices.SortFunc(own, func(a, b string) int { return fieldBytes(headers[b]) - fieldBytes(headers[a]) })
	var names []string
	for _, name := range own {
		if freed >= want {
			break
		}
		freed += 1 + len(name) + fieldBytes(headers[name])
		delete(headers, name)
		names = append(names, cutText(name, nameBytes))
		list := cutText(strings.Join(names, ", "), 1<<10)
		if old, ok := headers[HeaderLeftOut].(string); ok {
			freed -= len(list) - len(old)
		} else {
			freed -= 1 + len(HeaderLeftOut) + 5 + len(list)
		}
		headers[HeaderLeftOut] = list
	}
	return freed
}

// fieldBytes returns the length of a header's value on the wire, its type's byte included (RabbitMQ, "AMQP 0-9-1
// Errata", §3).
func fieldBytes(value any) int {
	switch v := value.(type) {
	case string:
		return 1 + 4 + len(v)
	case []byte:
		return 1 + 4 + len(v)
	case amqp091.Table:
		n := 1 + 4
		for name, field := range v {
			n += 1 + len(name) + fieldBytes(field)
		}
		return n
	case []any:
		n := 1 + 4
		for _, field := range v {
			n += fieldBytes(field)
		}
		return n
	}
	return 1 + 8 // the longest of all others
}

// cutText returns text as valid UTF-8 of at most limit bytes, with a mark where something is missing.
func cutText(text string, limit int) string {
	const mark = "…"
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= limit {
		return text
	}
	if limit < len(mark) {
		return ""
	}
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}

// deadLetters publishes dead letters and what waits for a retry, one after the other, each confirmed before publish
// returns. It connects when the first is published, on a connection of its own: acknowledgements must not stop during
// a resource alarm. It is safe for concurrent use.
type deadLetters struct {
	config ConsumerConfig

	mu      sync.Mutex // the whole time that a letter takes
	link    *link      // nil if not connected
	courier *courier
}

// publish returns nil after the broker has confirmed that the letter's queue has it. After an error it isn't known
// whether it has; publishing it again may make it a copy more, but never loses it.
func (q *deadLetters) publish(ctx context.Context, l letter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.tryPublish(ctx, l)
	if err != nil {
		q.disconnect(ctx)
		return fmt.Errorf("amqp: publish to the queue %q: %w", q.config.letterQueue(l), err)
	}
	return nil
}

func (q *deadLetters) tryPublish(ctx context.Context, l letter) error {
	if q.link == nil {
		if err := q.open(ctx); err != nil {
			return err
		}
	}
	outcomes, err := q.courier.send(ctx, []parcel{q.config.parcel(l, time.Now(), q.link.Config.FrameSize)})
	if err != nil {
		return err
	}
	return outcomes[0]
}

func (q *deadLetters) open(ctx context.Context) (err error) {
	q.link, err = dial(ctx, q.config.Connection)
	if err != nil {
		return err
	}
	// Declared again, because this is also what heals after somebody has deleted one.
	if err := q.config.ensureLetterQueues(ctx, q.link); err != nil {
		return err
	}
	q.courier, err = newCourier(ctx, q.link)
	return err
}

// parcel returns the letter as it is sent: to the dead-letter queue, or to where it waits for its next retry.
func (c ConsumerConfig) parcel(l letter, now time.Time, frameBytes int) parcel {
	if delay, ok := c.retryAfter(l); ok {
		return c.retryParcel(l, delay, frameBytes)
	}
	return parcel{key: c.deadLetterQueue(), publishing: l.publishing(c.source(l), now, frameBytes)}
}

// letterQueue returns the name of the queue that the letter goes to.
func (c ConsumerConfig) letterQueue(l letter) string {
	if delay, ok := c.retryAfter(l); ok {
		return c.retryQueue(delay)
	}
	return c.deadLetterQueue()
}

// source returns the queue that the letter was consumed from.
func (c ConsumerConfig) source(l letter) string { return cmp.Or(l.message.source, c.Queue) }

// close ends the connection, if there is one. A publish that is under way must have been ended by its context.
func (q *deadLetters) close(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disconnect(ctx)
}

func (q *deadLetters) disconnect(ctx context.Context) {
	if q.link == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	q.link.close(ctx) // its outcome changes nothing: what was confirmed is confirmed
	q.link, q.courier = nil, nil
}
