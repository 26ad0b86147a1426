package surepostotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
)

// Handler returns a handler that makes a span of each call of h, which handles what comes from the queue. Events that h
// writes continue the trace, if the outbox that it writes them with has this Tracing's Trace. What h can do besides, batches and
// the counting of attempts, it still can.
func (t *Tracing) Handler(queue string, h amqp.Handler) amqp.Handler {
	one := handler{t, queue, h}
	if several, ok := h.(amqp.BatchHandler); ok {
		return batchHandler{one, several}
	}
	return one
}

type handler struct {
	tracing *Tracing
	queue   string
	inner   amqp.Handler
}

var _ amqp.AttemptCounter = handler{}

// Handle implements amqp.Handler.
func (h handler) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	from := creation(event.Headers)
	if from.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, from)
	}
	ctx, span := h.start(ctx, trace.WithLinks(link(from)...), trace.WithAttributes(about(nil, event)...))
	defer span.End() // it records a panic
	result, err := h.inner.Handle(ctx, event)
	if err == nil {
		span.SetAttributes(AttrResult.String(result.String()))
	}
	failed(span, err)
	return result, err
}

func (h handler) start(ctx context.Context, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	attributes := []attribute.KeyValue{
		semconv.MessagingSystemRabbitMQ, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
		semconv.MessagingDestinationName(h.queue), // a handler isn't told from which exchange an event came
	}
	options = append(options, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...))
	return h.tracing.tracer.Start(ctx, "process "+h.queue, options...)
}

func failed(span trace.Span, err error) {
	if err == nil {
		return
	}
	span.RecordError(err)
	span.SetAttributes(semconv.ErrorType(err))
	span.SetStatus(codes.Error, err.Error())
}

// StartAttempt implements amqp.AttemptCounter.
func (h handler) StartAttempt(ctx context.Context, eventID string, limit int) (unfinished int, err error) {
	if counter, ok := h.inner.(amqp.AttemptCounter); ok {
		return counter.StartAttempt(ctx, eventID, limit)
	}
	return 0, errors.ErrUnsupported // as amqp.AttemptCounter has it where there is no count
}

// FinishAttempt implements amqp.AttemptCounter.
func (h handler) FinishAttempt(ctx context.Context, eventID string, failure error) error {
	if counter, ok := h.inner.(amqp.AttemptCounter); ok {
		return counter.FinishAttempt(ctx, eventID, failure)
	}
	return errors.ErrUnsupported
}

// ForgetAttempts implements amqp.AttemptCounter.
func (h handler) ForgetAttempts(ctx context.Context, eventID string) error {
	if counter, ok := h.inner.(amqp.AttemptCounter); ok {
		return counter.ForgetAttempts(ctx, eventID)
	}
	return errors.ErrUnsupported
}

type batchHandler struct {
	handler
	inner amqp.BatchHandler
}

// batchKey is the context key of the span of the batch that is being handled.
type batchKey struct{}

// HandleBatch implements amqp.BatchHandler. The span belongs to no event's trace and links to those of all: a batch has no
// single parent. What a handler writes because of an event (surepost.Handling) continues that event's trace nevertheless.
func (h batchHandler) HandleBatch(ctx context.Context, events []surepost.Event) ([]inbox.Result, error) {
	links := make([]trace.Link, 0, len(events))
	for _, event := range events {
		if from := creation(event.Headers); from.IsValid() {
			links = append(links, trace.Link{SpanContext: from, Attributes: []attribute.KeyValue{semconv.MessagingMessageID(event.ID)}})
		}
	}
	ctx, span := h.start(ctx, trace.WithLinks(links...), trace.WithAttributes(semconv.MessagingBatchMessageCount(len(events))))
	defer span.End()
	results, err := h.inner.HandleBatch(context.WithValue(ctx, batchKey{}, span.SpanContext()), events)
	failed(span, err)
	return results, err
}
