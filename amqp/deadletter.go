package amqp

import (
	"context"
	"errors"
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
	d := l.delivery
	headers := make(amqp091.Table, len(d.Headers)+9)
	maps.Copy(headers, d.Headers)
	for _, counter := range []string{headerDeliveryCount, "x-acquired-count"} {
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
	headers[HeaderReason] = string(l.reason)
	headers[HeaderAttempts] = int64(l.tries.total)
	headers[HeaderQueue] = queue
	headers[HeaderExchange] = d.Exchange
	headers[HeaderRoutingKey] = d.RoutingKey
	headers[HeaderDeadLetteredAt] = now.UTC().Format(time.RFC3339)
	headers[HeaderError] = ""
	fitHeaders(headers, l.err.Error(), frameBytes)
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
	own = slices.DeleteFunc(own, func(name string) bool { return strings.HasPrefix(name, "surepost-") })
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

// deadLetters publishes dead letters, one after the other, each confirmed before publish returns. It connects when
// the first is published, on a connection of its own: the broker stops reading from a connection that publishes
// during a resource alarm, and acknowledgements must not stop with it. It is safe for concurrent use.
type deadLetters struct {
	config ConsumerConfig

	mu      sync.Mutex // the whole time that a letter takes
	link    *link      // nil if not connected
	channel *amqp091.Channel
	returns chan amqp091.Return   // buffered: a return arrives before its confirm, and is read after it
	blocked chan amqp091.Blocking // whether the broker wants to be sent nothing
	paused  bool                  // what it said last
}

// publish returns nil after the broker has confirmed that the dead-letter queue has the letter. After an error it
// isn't known whether it has; publishing it again may make it a copy more, but never loses it.
func (q *deadLetters) publish(ctx context.Context, l letter) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.tryPublish(ctx, l)
	if err != nil {
		q.disconnect(ctx)
		return fmt.Errorf("amqp: publish to the dead-letter queue %q: %w", q.config.deadLetterQueue(), err)
	}
	return nil
}

func (q *deadLetters) tryPublish(ctx context.Context, l letter) error {
	if q.link == nil {
		if err := q.open(ctx); err != nil {
			return err
		}
	}
	if err := q.awaitUnblocked(ctx); err != nil {
		return err
	}
	p := l.publishing(q.config.Queue, time.Now(), q.link.Config.FrameSize)
	var confirm *amqp091.DeferredConfirmation
	err := q.link.do(ctx, "publish", func() (err error) {
		const mandatory, immediate = true, false
		confirm, err = q.channel.PublishWithDeferredConfirmWithContext(ctx,
			"", q.config.deadLetterQueue(), mandatory, immediate, p)
		return err
	})
	if err != nil {
		return err
	}
	if err := q.await(ctx, confirm.Done()); err != nil {
		return err
	}
	select {
	case <-q.returns:
		return errors.New("it isn't there: create it, or use Mode Declare")
	default:
	}
	switch {
	case confirm.Acked():
		return nil
	case q.channel.IsClosed():
		return errors.New("the channel was closed before the confirm came")
	}
	return errors.New("the broker refused it for now (nack): see the queue's limits, and whether its nodes are up")
}

func (q *deadLetters) open(ctx context.Context) (err error) {
	q.link, err = dial(ctx, q.config.Connection)
	if err != nil {
		return err
	}
	q.paused, q.blocked = false, q.link.NotifyBlocked(make(chan amqp091.Blocking, 16))
	// Declared again, because this is also what heals after somebody has deleted it.
	if err := q.config.ensureDeadLetterQueue(ctx, q.link); err != nil {
		return err
	}
	q.channel, err = q.link.channel(ctx)
	if err != nil {
		return err
	}
	q.returns = q.channel.NotifyReturn(make(chan amqp091.Return, 1)) // one letter at a time, so at most one return
	return q.link.do(ctx, "turn on confirms", func() error { return q.channel.Confirm(false) })
}

// awaitUnblocked waits until the broker accepts messages.
func (q *deadLetters) awaitUnblocked(ctx context.Context) error {
	for {
		select {
		case b, ok := <-q.blocked:
			if !ok {
				return amqp091.ErrClosed
			}
			q.pause(b.Active)
			continue
		default:
		}
		if !q.paused {
			return nil
		}
		select {
		case b, ok := <-q.blocked:
			if !ok {
				return amqp091.ErrClosed
			}
			q.pause(b.Active)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// await waits for a confirm. The time in which the broker doesn't read doesn't count.
func (q *deadLetters) await(ctx context.Context, confirmed <-chan struct{}) error {
	limit := time.NewTicker(q.link.rpcTimeout)
	defer limit.Stop()
	for {
		select {
		case <-confirmed:
			return nil
		case b, ok := <-q.blocked:
			if !ok {
				q.blocked = nil // the link has ended, which ends the wait for the confirm too
			}
			q.pause(b.Active)
			limit.Reset(q.link.rpcTimeout)
		case <-limit.C:
			if !q.paused {
				return fmt.Errorf("no confirm within RPCTimeout (%v)", q.link.rpcTimeout)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (q *deadLetters) pause(paused bool) {
	q.paused = paused
	q.link.guard.pauseDeadline(paused)
}

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
	q.link = nil
}
