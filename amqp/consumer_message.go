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

	queue   *keyQueue // its place in the schedule
	company company
	held    bool // it is being dead-lettered
	tries   tries

	counted bool // the AttemptCounter has a record of its event
	started bool // an attempt of that record is open
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

// redelivered reports whether the message was delivered before, by whichever of its two signs: a classic queue has no
// count, and RabbitMQ 4.3 counts what wasn't acknowledged in other ways than before.
func (m *message) redelivered() bool { return m.delivery.Redelivered || m.deliveries() > 0 }

// attrs describes the message in a log.
func (m *message) attrs() slog.Attr {
	attrs := []any{slog.String("id", m.event.ID), slog.String("type", m.event.Type), slog.String("key", m.event.Key)}
	if m.broken != nil {
		attrs = []any{slog.String("message_id", m.delivery.MessageId)}
	}
	attrs = append(attrs, slog.Int("attempt", m.tries.total), slog.Int64("deliveries", m.deliveries()))
	return slog.Group("event", attrs...)
}
