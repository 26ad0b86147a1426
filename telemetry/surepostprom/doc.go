// Package surepostprom has Surepost's Prometheus metrics, as hooks of the relay and the consumer and as a collector of how
// the outbox stands:
//
//	r, err := relay.New(store, publisher, relay.Config{Hooks: surepostprom.Relay(registry)})
//	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{Queue: "inventory.orders", …,
//		Hooks: surepostprom.Consumer(registry, "inventory.orders", in.Types()...)})
//	surepostprom.Outbox(registry, store, surepostprom.OutboxConfig{})
//
// Hooks of one's own go beside them with relay.JoinHooks and amqp.JoinHooks. [Metrics] lists what there is.
//
// What it promises: every label has few values (destinations, lanes, queues, event types that were named beforehand), never an
// id or a key; counting an event costs some ten nanoseconds; and however often Prometheus asks, the database is asked for its
// status at most every few seconds and waited for no longer than a limit.
package surepostprom
