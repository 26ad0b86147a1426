package amqp

import (
	"cmp"
	"context"
	"errors"

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
func (c ConsumerConfig) deadLetterQueue() string {
	return cmp.Or(c.DeadLetterQueue, c.Queue+deadLetterSuffix)
}

// queueArgs returns the arguments of the consumed queue, or of each partition. They can't be changed once it exists:
// another value is a 406.
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

// ensureTopology declares or verifies all that the consumer needs, as Mode asks. The queues behind come first, so that
// they are there before anything can be dead-lettered, and the exchange before the binding to it, so that the relay
// may be started later.
func (c ConsumerConfig) ensureTopology(ctx context.Context, l *link) error {
	if err := c.ensureLetterQueues(ctx, l); err != nil {
		return err
	}
	if err := (Exchange{Name: c.Exchange}).withDefaults().ensure(ctx, l, c.Mode); err != nil {
		return err
	}
	if c.Partitions > 0 {
		return c.ensurePartitions(ctx, l)
	}
	if err := ensureQueue(ctx, l, c.Mode, c.Queue, c.queueArgs()); err != nil {
		return err
	}
	for _, key := range c.bindingKeys() {
		if err := ensureBinding(ctx, l, c.Mode, c.Exchange, c.Queue, key); err != nil {
			return err
		}
	}
	return nil
}

// ensureLetterQueues declares or verifies the queues that letters go to.
func (c ConsumerConfig) ensureLetterQueues(ctx context.Context, l *link) error {
	if err := ensureQueue(ctx, l, c.Mode, c.deadLetterQueue(), deadLetterArgs(c.QueueType)); err != nil {
		return err
	}
	return c.ensureRetryQueues(ctx, l)
}

// deadLetterArgs returns the arguments of a dead-letter queue. Whoever looks at dead letters returns them, which a quorum
// queue counts as a delivery: RabbitMQ 4 would drop them after 20. RabbitMQ 3 has no limit by default, but puts what
// was rejected at the end of the queue then ("Quorum Queues", "Repeated Requeues"). So there is one that is never
// reached.
func deadLetterArgs(kind QueueType) amqp091.Table {
	args := amqp091.Table{amqp091.QueueTypeArg: string(kind)}
	if kind == QuorumQueue {
		args["x-delivery-limit"] = int64(1_000_000_000)
	}
	return args
}

// ensureBinding binds a queue to an exchange. AMQP has no way to look at a binding, so nothing is verified.
func ensureBinding(ctx context.Context, l *link, mode Mode, exchange, queue, key string) error {
	if mode != Declare {
		return nil
	}
	of := entity{"binding", exchange + " → " + queue + " by " + key}
	return declare(ctx, l, of, "bind", func(ch *amqp091.Channel) error {
		return ch.QueueBind(queue, key, exchange, false, nil)
	})
}

// ensureExchangeBinding binds an exchange to another, from which it gets messages (RabbitMQ, "Exchange to Exchange
// Bindings").
func ensureExchangeBinding(ctx context.Context, l *link, mode Mode, from, to, key string) error {
	if mode != Declare {
		return nil
	}
	of := entity{"binding", from + " → " + to + " by " + key}
	return declare(ctx, l, of, "bind", func(ch *amqp091.Channel) error {
		return ch.ExchangeBind(to, key, from, false, nil)
	})
}

// inspectQueue looks at a queue and returns what the broker knows of it; false if it isn't there.
func inspectQueue(ctx context.Context, l *link, name string) (state amqp091.Queue, there bool, err error) {
	err = declare(ctx, l, entity{"queue", name}, "verify", func(ch *amqp091.Channel) (err error) {
		state, err = ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	var missing *TopologyError
	if errors.As(err, &missing) && missing.Code == amqp091.NotFound {
		return amqp091.Queue{}, false, nil
	}
	return state, err == nil, err
}

func queueExists(ctx context.Context, l *link, name string) (bool, error) {
	_, there, err := inspectQueue(ctx, l, name)
	return there, err
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
