package amqp

import (
	"log/slog"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// message is one delivery of an event. It belongs to the session that delivered it: it can't be acknowledged in
// another, where its delivery tag would be another message's.
type message struct {
	delivery amqp091.Delivery
	session  consumerSession
	event    surepost.Event
	broken   error  // why the body isn't an event; event is empty then
	source   string // the queue it came from

	queue   *keyQueue // its place in the schedule
	company company
	held    bool // it is being dead-lettered
	tries   tries

	counted bool      // the AttemptCounter has a record of its event
	accused time.Time // when that first had too many unfinished attempts; zero if it hasn't
}

func newMessage(s consumerSession, d amqp091.Delivery) *message {
	m := &message{delivery: d, session: s}
	if m.redelivered() {
		m.company = alone // it may be why it came again
	}
	event, err := EventFromDelivery(d)
	if err != nil {
		m.broken, m.company = unreadableError{err}, alone
		return m
	}
	m.event = event
	return m
}

// unreadableError marks the error of a message whose body isn't an event. It is a type, and not
// surepost.ErrNotAnEvent, because a handler may return that about something else.
type unreadableError struct{ error }

func (e unreadableError) Unwrap() error { return e.error }

// The headers in which a quorum queue counts earlier deliveries. They are absent, or 0, the first time. RabbitMQ 4.3
// leaves out of the first, which x-delivery-limit is about, what a consumer gave back by basic.nack or lost by
// consumer_timeout, and counts all in the second; earlier versions have only the first, which counts all.
const (
	headerDeliveryCount = "x-delivery-count"
	headerAcquiredCount = "x-acquired-count"
)

// deliveries returns how often the broker delivered the message before.
func (m *message) deliveries() int64 {
	return max(headerInt(m.delivery.Headers, headerDeliveryCount), headerInt(m.delivery.Headers, headerAcquiredCount))
}

// attempts returns how often the message was handed to the handler, before its retry queues too.
func (m *message) attempts() int {
	if m.retries() == 0 {
		return m.tries.total
	}
	return int(headerInt(m.delivery.Headers, HeaderAttempts)) + m.tries.total
}

// headerInt returns a header's number, 0 if it has none.
func headerInt(headers amqp091.Table, name string) int64 {
	switch n := headers[name].(type) {
	case int64:
		return n
	case int32:
		return int64(n)
	}
	return 0
}

// redelivered reports whether the message was delivered before, by whichever of its two signs: a classic queue has no
// count, and RabbitMQ 4.3 counts what wasn't acknowledged in other ways than before.
func (m *message) redelivered() bool { return m.delivery.Redelivered || m.deliveries() > 0 }

// attrs describes the message in a log.
func (m *message) attrs() slog.Attr {
	attrs := []any{slog.String("id", m.event.ID), slog.String("type", m.event.Type), slog.String("key", m.event.Key)}
	if m.broken != nil {
		attrs = []any{slog.String("message_id", m.delivery.MessageId)}
	}
	if trace := m.event.TraceID(); trace != "" {
		attrs = append(attrs, slog.String("trace_id", trace))
	}
	attrs = append(attrs, slog.Int("attempt", m.tries.total), slog.Int64("deliveries", m.deliveries()))
	return slog.Group("event", attrs...)
}
