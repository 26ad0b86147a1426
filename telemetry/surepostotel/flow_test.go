package surepostotel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/telemetry/surepostotel"
)

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// shop is a service that places orders and reserves stock for them, over a broker in this process.
type shop struct {
	t        *testing.T
	spans    *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
	tracing  *surepostotel.Tracing
	store    *memstore.Store
	box      *outbox.Outbox[*memstore.Tx]
	inbox    *inbox.Inbox[*memstore.Tx]
	broker   *amqptest.Broker
}

func open(t *testing.T, sampler sdktrace.Sampler, consumer amqp.ConsumerConfig) *shop {
	t.Helper()
	s := &shop{t: t, spans: tracetest.NewInMemoryExporter(), store: memstore.New()}
	s.provider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(s.spans), sdktrace.WithSampler(sampler))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.broker, err = amqptest.Start(amqptest.Config{})
	must(err)
	t.Cleanup(s.broker.Close)
	at := amqp.Connection{URLs: []string{s.broker.URL()}}
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: at, Logger: silent})
	must(err)
	s.tracing = surepostotel.New(surepostotel.Config{TracerProvider: s.provider, Route: publisher.Route})
	s.box, err = outbox.New(s.store, outbox.Config{Source: "shop", Trace: s.tracing.Trace})
	must(err)
	s.inbox, err = inbox.New(s.store, inbox.Config{Consumer: "stock"})
	must(err)
	s.inbox.On("OrderPlaced", func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
		return s.box.Write(ctx, tx, surepost.Event{ID: "stock-for-" + e.ID, Type: "StockReserved", Key: e.Key})
	})
	s.inbox.On("StockReserved", func(context.Context, *memstore.Tx, surepost.Event) error { return nil })
	failures := 0
	s.inbox.On("OrderBroken", func(context.Context, *memstore.Tx, surepost.Event) error {
		if failures++; failures == 1 {
			return errors.New("no luck")
		}
		return nil
	})
	consumer.Connection, consumer.Queue, consumer.Types, consumer.Logger = at, "stock.orders", s.inbox.Types(), silent
	consumer.Handler = s.tracing.Handler("stock.orders", s.inbox)
	consumer.Backoff = amqp.Backoff{Min: time.Millisecond, Max: time.Millisecond}
	c, err := amqp.NewConsumer(consumer)
	must(err)
	r, err := relay.New(s.store, publisher, relay.Config{Logger: silent, UnroutableTries: 1, Hooks: s.tracing.Relay()})
	must(err)
	s.start(c.Run)
	s.await("the queue", func() bool { _, there := s.broker.Queue("stock.orders"); return there })
	s.start(r.Run)
	return s
}

// start runs something until the test ends.
func (s *shop) start(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
}

func (s *shop) await(what string, reached func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, span := range s.spans.GetSpans() {
				s.t.Log(span.Name, span.Attributes)
			}
			s.t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// write commits events.
func (s *shop) write(ctx context.Context, events ...surepost.Event) {
	s.t.Helper()
	if err := s.store.Do(ctx, func(tx *memstore.Tx) error { return s.box.Write(ctx, tx, events...) }); err != nil {
		s.t.Fatal(err)
	}
}

// span returns the ended span of an operation on an event, and waits for it.
func (s *shop) span(operation, eventID string) tracetest.SpanStub {
	s.t.Helper()
	return s.nth(operation, eventID, 0)
}

func (s *shop) nth(operation, eventID string, n int) (found tracetest.SpanStub) {
	s.t.Helper()
	s.await(fmt.Sprintf("span %s %s #%d", operation, eventID, n), func() bool {
		var all []tracetest.SpanStub
		for _, span := range s.spans.GetSpans() {
			if value(span.Attributes, "messaging.operation.name") == operation && value(span.Attributes, "messaging.message.id") == eventID {
				all = append(all, span)
			}
		}
		if len(all) > n {
			found = all[n]
		}
		return len(all) > n
	})
	return found
}

func value(attributes []attribute.KeyValue, key attribute.Key) string {
	for _, a := range attributes {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// wants checks a span's place and its attributes.
func wants(t *testing.T, span tracetest.SpanStub, name string, kind trace.SpanKind, parent trace.SpanContext, attributes map[attribute.Key]string) {
	t.Helper()
	if span.Name != name || span.SpanKind != kind {
		t.Errorf("the span is %q of kind %v, want %q of kind %v", span.Name, span.SpanKind, name, kind)
	}
	if span.Parent.SpanID() != parent.SpanID() || span.SpanContext.TraceID() != parent.TraceID() {
		t.Errorf("%s is a child of %v in trace %v, want of %v in %v", name, span.Parent.SpanID(), span.SpanContext.TraceID(), parent.SpanID(), parent.TraceID())
	}
	for key, want := range attributes {
		if got := value(span.Attributes, key); got != want {
			t.Errorf("%s: %s is %q, want %q", name, key, got, want)
		}
	}
}

func linksTo(span tracetest.SpanStub, other trace.SpanContext) bool {
	for _, l := range span.Links {
		if l.SpanContext.TraceID() == other.TraceID() && l.SpanContext.SpanID() == other.SpanID() {
			return true
		}
	}
	return false
}

func TestOneTraceFromTheRequestToTheFollowUpEvent(t *testing.T) {
	s := open(t, sdktrace.ParentBased(sdktrace.AlwaysSample()), amqp.ConsumerConfig{})
	ctx, request := s.provider.Tracer("test").Start(t.Context(), "POST /orders", trace.WithSpanKind(trace.SpanKindServer))
	s.write(surepost.WithCorrelationID(ctx, "req_1"), surepost.Event{ID: "order", Type: "OrderPlaced", Key: "7"})
	request.End()

	before := request.SpanContext()
	for _, step := range []struct{ id, destination, eventType string }{
		{"order", "events:shop.OrderPlaced", "OrderPlaced"}, {"stock-for-order", "events:shop.StockReserved", "StockReserved"},
	} {
		common := map[attribute.Key]string{
			"messaging.system": "rabbitmq", "messaging.message.id": step.id, "messaging.message.conversation_id": "req_1",
			"surepost.event.type": step.eventType,
		}
		with := func(more map[attribute.Key]string) map[attribute.Key]string {
			for k, v := range common {
				more[k] = v
			}
			return more
		}
		create, publish, process := s.span("create", step.id), s.span("publish", step.id), s.span("process", step.id)
		wants(t, create, "create "+step.destination, trace.SpanKindProducer, before, with(map[attribute.Key]string{
			"messaging.operation.type": "create", "messaging.destination.name": step.destination,
		}))
		wants(t, publish, "publish "+step.destination, trace.SpanKindClient, create.SpanContext, with(map[attribute.Key]string{
			"messaging.operation.type": "send", "messaging.destination.name": step.destination,
			"messaging.rabbitmq.destination.routing_key": "shop." + step.eventType,
			"surepost.outcome":                           "confirmed", "surepost.lane": "default 0/1", "surepost.try": "1",
		}))
		wants(t, process, "process stock.orders", trace.SpanKindConsumer, create.SpanContext, with(map[attribute.Key]string{
			"messaging.operation.type": "process", "messaging.destination.name": "stock.orders", "surepost.result": "handled",
		}))
		if !linksTo(publish, create.SpanContext) || !linksTo(process, create.SpanContext) {
			t.Errorf("%s: publish or process doesn't link to create", step.id)
		}
		if publish.EndTime.Before(publish.StartTime) || publish.EndTime.Sub(publish.StartTime) > time.Minute {
			t.Errorf("publish took from %v to %v", publish.StartTime, publish.EndTime)
		}
		if publish.Status.Code == codes.Error || process.Status.Code == codes.Error {
			t.Errorf("%s: %v, %v", step.id, publish.Status, process.Status)
		}
		before = process.SpanContext
	}
	if n := len(s.spans.GetSpans()); n != 7 {
		t.Errorf("%d spans, want the request and three for each event", n)
	}
}

func TestAnUnsampledTraceMakesNoSpanAndGoesOn(t *testing.T) {
	s := open(t, sdktrace.ParentBased(sdktrace.NeverSample()), amqp.ConsumerConfig{})
	ctx, request := s.provider.Tracer("test").Start(t.Context(), "POST /orders")
	s.write(ctx, surepost.Event{ID: "order", Type: "OrderPlaced"})
	s.write(t.Context(), surepost.Event{ID: "untraced", Type: "OrderPlaced"})
	s.await("the follow-ups", func() bool { return len(s.store.Events()) == 4 })
	for _, e := range s.store.Events() {
		want := request.SpanContext().TraceID().String()
		if e.CorrelationID == "untraced" {
			if e.ID == "untraced" && e.TraceID() != "" {
				t.Errorf("an event outside of any trace got %s", e.TraceID())
			}
			continue
		}
		if e.TraceID() != want {
			t.Errorf("%s is of trace %q, want %s", e.ID, e.TraceID(), want)
		}
	}
	if spans := s.spans.GetSpans(); len(spans) > 0 {
		t.Errorf("%d spans, the first is %s", len(spans), spans[0].Name)
	}
}

func TestWhatFailsIsMarked(t *testing.T) {
	s := open(t, sdktrace.AlwaysSample(), amqp.ConsumerConfig{})
	ctx, request := s.provider.Tracer("test").Start(t.Context(), "POST /orders")
	defer request.End()
	s.write(ctx, surepost.Event{ID: "broken", Type: "OrderBroken"}, surepost.Event{ID: "unheard", Type: "Unheard"})

	failed := s.span("process", "broken")
	if failed.Status.Code != codes.Error || len(failed.Events) != 1 || failed.Events[0].Name != "exception" ||
		value(failed.Attributes, "error.type") == "" || value(failed.Attributes, "surepost.result") != "" {
		t.Errorf("the failed try: %+v, %v, %v", failed.Status, failed.Events, failed.Attributes)
	}
	again := s.nth("process", "broken", 1)
	if again.Status.Code == codes.Error || value(again.Attributes, "surepost.result") != "handled" {
		t.Errorf("the second try: %+v, %v", again.Status, again.Attributes)
	}
	unheard := s.span("publish", "unheard")
	if unheard.Status.Code != codes.Error || value(unheard.Attributes, "error.type") != "unroutable" ||
		value(unheard.Attributes, "surepost.outcome") != "unroutable" {
		t.Errorf("an event that no queue wants: %+v, %v", unheard.Status, unheard.Attributes)
	}
}

func TestABatchLinksToAllAndItsFollowUpsStayInTheirTraces(t *testing.T) {
	s := open(t, sdktrace.AlwaysSample(), amqp.ConsumerConfig{BatchSize: 5, BatchLinger: 5 * time.Second, Workers: 1})
	requests := map[string]trace.SpanContext{}
	for n := range 5 {
		ctx, request := s.provider.Tracer("test").Start(t.Context(), "POST /orders")
		id := fmt.Sprint("order", n)
		requests[id] = request.SpanContext()
		s.write(ctx, surepost.Event{ID: id, Type: "OrderPlaced", Key: id})
		request.End()
	}
	var batch tracetest.SpanStub
	s.await("a batch of five", func() bool {
		for _, span := range s.spans.GetSpans() {
			if value(span.Attributes, "messaging.batch.message_count") == "5" {
				batch = span
				return true
			}
		}
		return false
	})
	if batch.Parent.IsValid() || batch.Name != "process stock.orders" || batch.SpanKind != trace.SpanKindConsumer || len(batch.Links) != 5 {
		t.Errorf("the batch: %q, kind %v, parent %v, %d links", batch.Name, batch.SpanKind, batch.Parent.SpanID(), len(batch.Links))
	}
	for id, request := range requests {
		create, followUp := s.span("create", id), s.span("create", "stock-for-"+id)
		if !linksTo(batch, create.SpanContext) {
			t.Errorf("the batch doesn't link to %s", id)
		}
		if followUp.SpanContext.TraceID() != request.TraceID() || followUp.Parent.SpanID() != create.SpanContext.SpanID() ||
			!linksTo(followUp, batch.SpanContext) {
			t.Errorf("the follow-up of %s isn't in its trace, or doesn't link to the batch", id)
		}
	}
}
