package amqp

import (
	"log/slog"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// message is one delivery of an event. It belongs to the session that delivered it: it can't be acknowledged in
// another, where its delivery tag would be another message's.
type message struct {
	delivery amqp091.Delivery
	session  consumerSession
	event    surepost.Event
	broken   error // why the body isn't an event; event is empty then

	queue *keyQueue // its place in the schedule
	tries tries
}

func newMessage(s consumerSession, d amqp091.Delivery) *message {
	m := &message{delivery: d, session: s}
	event, err := EventFromDelivery(d)
	if err != nil {
		m.broken = unreadableError{err}
		return m
	}
	m.event = event
	return m
}

// unreadableError marks the error of a message whose body isn't an event. It is a type, and not
// surepost.ErrNotAnEvent, because a handler may return that about something else.
type unreadableError struct{ error }

func (e unreadableError) Unwrap() error { return e.error }

// headerDeliveryCount is the header in which a quorum queue counts earlier deliveries. It is absent the first time.
const headerDeliveryCount = "x-delivery-count"

// deliveries returns how often the broker delivered the message before.
func (m *message) deliveries() int64 {
	switch n := m.delivery.Headers[headerDeliveryCount].(type) {
	case int64:
		return n
	case int32:
		return int64(n)
	}
	return 0
}

// attrs describes the message in a log.
func (m *message) attrs() slog.Attr {
	attrs := []any{slog.String("id", m.event.ID), slog.String("type", m.event.Type), slog.String("key", m.event.Key)}
	if m.broken != nil {
		attrs = []any{slog.String("message_id", m.delivery.MessageId)}
	}
	attrs = append(attrs, slog.Int("attempt", m.tries.total), slog.Int64("deliveries", m.deliveries()))
	return slog.Group("event", attrs...)
}
