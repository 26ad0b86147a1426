// Package surepostotel traces events with OpenTelemetry, from the code that writes one through the relay and the consumer to
// the events that its handler writes, in one trace:
//
//	request ─▶ create ─┬▶ publish
//	                   └▶ process ─▶ create ─┬▶ publish
//	                                         └▶ process
//
//	tracing := surepostotel.New(surepostotel.Config{Route: publisher.Route})
//	box, err := outbox.New(store, outbox.Config{Trace: tracing.Trace})
//	r, err := relay.New(store, publisher, relay.Config{Hooks: tracing.Relay()})
//	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{Queue: queue, …, Handler: tracing.Handler(queue, in)})
//
// Names, kinds and attributes of the spans follow OpenTelemetry's semantic conventions for messaging and for RabbitMQ, version
// 1.43. The spans publish and process are children of create and link to it, as the conventions want for one message;
// the span of a batch has no parent and links to all of its events' create spans.
//
// What it costs: an event whose trace isn't sampled makes no span when it is written, and none in the relay, which looks at two
// bytes of its traceparent. In the consumer the sampler decides. An event that is written outside of any trace begins
// none.
package surepostotel
