package surepostotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// Scope is the name of the tracer that makes the spans.
const Scope = "github.com/surepost/surepost/telemetry/surepostotel"

// Attributes beside those of the conventions.
const (
	// AttrEventType is the event's type.
	AttrEventType = attribute.Key("surepost.event.type")
	// AttrResult is what became of a processed event: handled, duplicate or skipped.
	AttrResult = attribute.Key("surepost.result")
	// AttrOutcome is what the broker said of a published event: confirmed, rejected, unroutable or refused.
	AttrOutcome = attribute.Key("surepost.outcome")
	// AttrLane is the lane that published the event, as relay.Lane writes it.
	AttrLane = attribute.Key("surepost.lane")
	// AttrTry counts from 1 how often the relay has sent the event.
	AttrTry = attribute.Key("surepost.try")
)

// Config configures [New]. Its zero value works.
type Config struct {
	// TracerProvider makes the spans. Default: OpenTelemetry's global one.
	TracerProvider trace.TracerProvider

	// Route returns the exchange and the routing key of an event: amqp.Publisher.Route. Default none: the spans create
	// and publish then name no destination.
	Route func(surepost.Event) (exchange, routingKey string)
}

// Tracing makes spans of what happens to events. It is safe for concurrent use.
type Tracing struct {
	tracer trace.Tracer
	route  func(surepost.Event) (exchange, routingKey string)
}

// New returns a Tracing.
func New(config Config) *Tracing {
	if config.TracerProvider == nil {
		config.TracerProvider = otel.GetTracerProvider()
	}
	return &Tracing{
		tracer: config.TracerProvider.Tracer(Scope, trace.WithSchemaURL(semconv.SchemaURL)),
		route:  config.Route,
	}
}

// Trace is an outbox.Config.Trace: it makes a span for the event that is written under ctx, as a child of ctx's span,
// and returns its position for the event to carry. Where ctx's span isn't sampled it returns that span's position;
// where ctx has no span, that of surepost.Trace.
func (t *Tracing) Trace(ctx context.Context) (surepost.TraceContext, bool) {
	parent, links := origin(ctx)
	switch {
	case !parent.IsValid():
		return surepost.TraceContext{}, false
	case !parent.IsSampled():
		return position(parent), true
	}
	event, _ := surepost.Writing(ctx)
	name, attributes := t.describe("create", semconv.MessagingOperationTypeCreate, event)
	_, span := t.tracer.Start(trace.ContextWithSpanContext(ctx, parent), name,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...), trace.WithLinks(links...))
	span.End() // it stands for a moment; when the event is published the relay tells
	return position(span.SpanContext()), true
}

// origin returns what an event that is written under ctx continues.
func origin(ctx context.Context) (parent trace.SpanContext, links []trace.Link) {
	current := trace.SpanContextFromContext(ctx)
	if batch, ok := ctx.Value(batchKey{}).(trace.SpanContext); ok && batch.Equal(current) {
		// The batch has events of many traces; the one that is being handled says whose this one is.
		if event, ok := surepost.Handling(ctx); ok {
			if own := creation(event.Headers); own.IsValid() {
				return own, link(batch)
			}
		}
	}
	if current.IsValid() {
		return current, nil
	}
	if t, ok := surepost.Trace(ctx); ok {
		return creation(map[string]string{headerParent: t.Parent, headerState: t.State}), nil
	}
	return trace.SpanContext{}, nil
}

// Relay returns hooks that make a span of every try to publish a sampled event, from its sending until its outcome. They
// go beside others with relay.JoinHooks.
func (t *Tracing) Relay() relay.Hooks {
	return relay.Hooks{OnSettled: t.published}
}

func (t *Tracing) published(lane relay.Lane, settled []relay.Settled) {
	var by attribute.KeyValue
	for i := range settled {
		s := &settled[i]
		if !sampled(s.Entry.Event.Headers) {
			continue
		}
		from := creation(s.Entry.Event.Headers)
		if !from.IsValid() {
			continue
		}
		if !by.Valid() {
			by = AttrLane.String(lane.String())
		}
		name, attributes := t.describe("publish", semconv.MessagingOperationTypeSend, s.Entry.Event)
		attributes = append(attributes, by, AttrOutcome.String(s.Outcome.Status.String()), AttrTry.Int(s.Try))
		// CLIENT, since its own position isn't what consumers see.
		_, span := t.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), from), name,
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(s.SentAt), trace.WithLinks(link(from)...),
			trace.WithAttributes(attributes...))
		if s.Outcome.Status != relay.Confirmed {
			span.SetAttributes(semconv.ErrorTypeKey.String(s.Outcome.Status.String()))
			span.SetStatus(codes.Error, s.Outcome.Reason)
		}
		span.End(trace.WithTimestamp(latest(s.SentAt, s.At)))
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// describe returns the name and the attributes of a span about a message that is created or published.
func (t *Tracing) describe(operation string, kind attribute.KeyValue, event surepost.Event) (string, []attribute.KeyValue) {
	attributes := append(make([]attribute.KeyValue, 0, 12), semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName(operation), kind)
	name := operation
	if t.route != nil && event.Type != "" {
		exchange, key := t.route(event)
		destination := address(exchange, key)
		name += " " + destination
		attributes = append(attributes, semconv.MessagingDestinationName(destination), semconv.MessagingRabbitMQDestinationRoutingKey(key))
	}
	return name, about(attributes, event)
}

// address names an exchange and a routing key as the conventions for RabbitMQ do.
func address(exchange, key string) string {
	switch {
	case exchange == "" && key == "":
		return "amq.default"
	case exchange == "":
		return key
	case key == "":
		return exchange
	}
	return exchange + ":" + key
}

// about adds the attributes of a single message.
func about(attributes []attribute.KeyValue, event surepost.Event) []attribute.KeyValue {
	if event.ID == "" {
		return attributes
	}
	attributes = append(attributes, semconv.MessagingMessageID(event.ID), AttrEventType.String(event.Type))
	if event.CorrelationID != "" {
		attributes = append(attributes, semconv.MessagingMessageConversationID(event.CorrelationID))
	}
	return attributes
}

// The headers of W3C Trace Context.
const (
	headerParent = "traceparent"
	headerState  = "tracestate"
)

// sampled reports whether an event's trace is sampled, by the last flag of its traceparent (W3C Trace Context, §3.2.2.5).
func sampled(headers map[string]string) bool {
	parent := headers[headerParent]
	const flags = len("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-")
	if len(parent) < flags+2 {
		return false
	}
	digit := parent[flags+1]
	if digit >= 'a' {
		digit -= 'a' - 10 // its lowest bit is what matters
	}
	return digit&1 == 1
}

var w3c propagation.TraceContext

// creation returns the position of the span in which an event was written; an invalid one if it carries none.
func creation(headers map[string]string) trace.SpanContext {
	return trace.SpanContextFromContext(w3c.Extract(context.Background(), propagation.MapCarrier(headers)))
}

// position is what an event carries of a span.
func position(of trace.SpanContext) surepost.TraceContext {
	headers := propagation.MapCarrier{}
	w3c.Inject(trace.ContextWithSpanContext(context.Background(), of), headers)
	return surepost.TraceContext{Parent: headers[headerParent], State: headers[headerState]}
}

func link(to trace.SpanContext) []trace.Link {
	if !to.IsValid() {
		return nil
	}
	return []trace.Link{{SpanContext: to}}
}
