// Package amqp connects Surepost to RabbitMQ over AMQP 0-9-1: a publisher for the relay, a consumer for the inbox, and the
// topology (exchanges, queues, bindings) that both need.
//
// What it promises: the publisher reports an event as confirmed only after the broker confirmed a persistent, mandatory message that
// was not returned; the consumer acknowledges a message only after its handler's transaction committed, or after a
// copy of it was confirmed in the dead-letter queue. No call waits longer than its limit, whatever the socket does.
package amqp
