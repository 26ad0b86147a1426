// Package amqp connects Surepost to RabbitMQ over AMQP 0-9-1: a publisher for the relay, a consumer for the inbox, and
// the topology (exchanges, queues, bindings) that both need. RabbitMQ 3.10 to 4.x.
//
//	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
//		Connection: amqp.Connection{URLs: []string{
//			"amqps://orders:secret@rabbit-1/shop", "amqps://orders:secret@rabbit-2/shop",
//		}},
//		Routing: amqp.Routing{Rules: []amqp.Rule{
//			{Category: "system", Exchange: "ops", Key: "{type}"},
//		}},
//	})
//
// What it promises: the publisher reports an event as confirmed only after the broker confirmed a persistent, mandatory
// message that was not returned; the consumer acknowledges a message only after its handler's transaction committed, or
// after a copy of it was confirmed in the dead-letter queue. No call waits longer than its limit, whatever the socket does.
//
// One queue has one active consumer, for the sake of order. What is too much for one process is spread over partitions
// (ConsumerConfig.Partitions). What can't be handled waits in a dead-letter queue, at will after some rounds of delayed
// retries (ConsumerConfig.RetryDelays), until [DeadLetters] has shown why and [Redrive] moves it back.
//
// What it doesn't: a confirmed message is as safe as its queue. A classic queue on one node is lost with the node's disk;
// use quorum queues. An alternate exchange takes unroutable events silently: the broker doesn't return them then.
//
// # How to read it
//
// A [Publisher] opens sessions (publisher.go, session.go); a session is one connection that never reconnects, since
// whatever is begun on a lost one (a delivery tag, an unconfirmed message) has no meaning on the next. The events
// without an outcome are in window.go. Beneath is a connection that can't be blocked for ever (connection.go,
// conn.go); beside it the routing (routing.go), the mapping of events to messages (message.go) and the declarations
// (topology.go).
//
// A [Consumer] opens sessions too (consumer.go, consumer_session.go), and moves their messages through a schedule to the
// handler (consumer_dispatch.go, consumer_schedule.go). Its queues are in queue.go, partition.go and retry.go, what
// leaves them in deadletter.go. A courier (courier.go) takes messages from one queue to another; redrive.go reads the
// dead-letter queue as a pile (pile.go). What differs between RabbitMQ's versions is in version.go.
//
// [EventFromDelivery] and [PublishingFromEvent] (or [Format.Publishing]) are for those who bring a consumer or publisher of their own.
package amqp
