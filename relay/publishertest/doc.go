// Package publishertest is the conformance suite of relay.Publisher: each sentence of that interface is a test. Whoever
// writes a publisher for another broker describes it by a [Broker] and calls [Run]:
//
//	func TestConformance(t *testing.T) {
//		publishertest.Run(t, func(t *testing.T) *publishertest.Broker {
//			server := start(t)
//			return &publishertest.Broker{Publisher: server.publisher(), Published: server.published, Drop: server.cut, …}
//		})
//	}
//
// amqp.Publisher passes it, against RabbitMQ and against amqp/amqptest, and so does relaytest.Publisher.
package publishertest
