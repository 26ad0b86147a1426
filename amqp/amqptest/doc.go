// Package amqptest is an AMQP 0-9-1 broker inside of this process, for tests and demos: it speaks the wire protocol,
// so the real client library and all that is built on it run against it unchanged, over real sockets or pipes, and it
// fails on demand where a real broker fails once a year.
//
//	broker, err := amqptest.Start(amqptest.Config{})
//	defer broker.Close()
//	conn, err := amqp091.Dial(broker.URL())
//
// What a fault strikes and what it does are chosen apart:
//
//	// The 3rd message is stored, and the connection is lost before its confirm.
//	broker.Inject(amqptest.Fault{When: amqptest.Publish(nil), Skip: 2, Times: 1, Do: amqptest.Drop(), After: true})
//
//	// One confirm in ten is late, the same ones in each run.
//	broker.Inject(amqptest.Fault{When: amqptest.Sometimes(seed, 0.1, amqptest.Publish(nil)),
//		Do: amqptest.ConfirmAfter(time.Millisecond)})
//
// It covers what RabbitMQ does with: connections, channels, heartbeats and alarms; direct, topic, fanout and headers
// exchanges, bindings between them, alternate exchanges; classic and quorum queues with their limits, times to live,
// dead-lettering, delivery limits and single active consumers; publisher confirms and returns; consumers with
// prefetch and priority; and what it says when it refuses. Where versions of RabbitMQ differ, it follows
// Config.Version. A conformance suite runs against it and against real brokers, so that both can't drift apart.
//
// It isn't a broker to rely on: nothing is on disk, and there is no cluster, no TLS, no AMQP 1.0, no transactions, no
// policies, no streams, no plugins, no priority queues, no CC and BCC headers, no direct reply-to, and no permissions
// beyond the login. It keeps what it is given in memory: the limits are those of the queues.
//
// # How to read it
//
// A connection (connection.go, writer.go) reads frames (frame.go, field.go) and executes methods (method.go) on
// channels (channel.go, publish.go, consume.go, declare.go) under the broker's one lock (broker.go). Exchanges
// (exchange.go, vhost.go) route messages into queues (queue.go, settings.go, deadletter.go). Confirms and faults have
// files of their own (confirm.go, fault.go).
package amqptest
