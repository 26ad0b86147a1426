package amqp

import (
	"context"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// QueueType is the kind of a queue, RabbitMQ's argument x-queue-type.
type QueueType string

const (
	// QuorumQueue is replicated by Raft, and counts how often it delivered a message.
	QuorumQueue QueueType = "quorum"
	// ClassicQueue lives on one node and counts nothing.
	ClassicQueue QueueType = "classic"
)

// allTypes in ConsumerConfig.Types asks for the events of every type.
const allTypes = "#"

// bindingKey returns the key that binds an event type on a topic exchange. Routing keys are "{source}.{type}", and
// "#" stands for any number of words, because a source may contain dots.
func bindingKey(eventType string) string {
	if eventType == allTypes {
		return allTypes
	}
	return "#." + eventType
}

// bindingKeys returns every key that the queue is bound with.
func (c ConsumerConfig) bindingKeys() []string {
	keys := make([]string, 0, len(c.Types)+len(c.BindingKeys))
	for _, t := range c.Types {
		keys = append(keys, bindingKey(t))
	}
	return append(keys, c.BindingKeys...)
}

// deadLetterQueue returns the name of the queue's dead-letter queue.
func (c ConsumerConfig) deadLetterQueue() string { return c.Queue + deadLetterSuffix }

// queueArgs returns the arguments of the consumed queue. They can't be changed once it exists: another value is a
// 406.
func (c ConsumerConfig) queueArgs() amqp091.Table {
	args := amqp091.Table{
		amqp091.QueueTypeArg: string(c.QueueType), // always sent: the vhost's default type may be another
		// What the broker itself gives up on goes where the consumer's own dead letters go. Without these two it
		// would be dropped.
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": c.deadLetterQueue(),
	}
	if !c.Competing {
		args["x-single-active-consumer"] = true
	}
	if c.QueueType == QuorumQueue {
		args["x-delivery-limit"] = int64(c.DeliveryLimit)
	}
	return args
}

// ensureTopology declares or verifies all that the consumer needs, as Mode asks. The dead-letter queue comes first,
// so that it is there before anything can be dead-lettered, and the exchange before the binding to it, so that the
// relay may be started later.
func (c ConsumerConfig) ensureTopology(ctx context.Context, l *link) error {
	if err := c.ensureDeadLetterQueue(ctx, l); err != nil {
		return err
	}
	if err := (Exchange{Name: c.Exchange}).withDefaults().ensure(ctx, l, c.Mode); err != nil {
		return err
	}
	if err := ensureQueue(ctx, l, c.Mode, c.Queue, c.queueArgs()); err != nil {
		return err
	}
	if c.Mode != Declare {
		return nil // AMQP has no way to look at a binding
	}
	for _, key := range c.bindingKeys() {
		of := entity{"binding", c.Exchange + " → " + c.Queue + " by " + key}
		err := declare(ctx, l, of, "bind", func(ch *amqp091.Channel) error {
			return ch.QueueBind(c.Queue, key, c.Exchange, false, nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c ConsumerConfig) ensureDeadLetterQueue(ctx context.Context, l *link) error {
	return ensureQueue(ctx, l, c.Mode, c.deadLetterQueue(), amqp091.Table{amqp091.QueueTypeArg: string(c.QueueType)})
}

// ensureQueue declares or verifies a durable queue.
func ensureQueue(ctx context.Context, l *link, mode Mode, name string, args amqp091.Table) error {
	return ensure(ctx, l, mode, entity{"queue", name}, func(ch *amqp091.Channel, passive bool) error {
		declare := ch.QueueDeclare
		if passive {
			declare = ch.QueueDeclarePassive
		}
		_, err := declare(name, true, false, false, false, args)
		return err
	})
}
