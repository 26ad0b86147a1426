package surepostotel

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// alone handles events one at a time, counts nothing and panics over "panic".
type alone struct{}

func (alone) Handle(_ context.Context, e surepost.Event) (inbox.Result, error) {
	if e.ID == "panic" {
		panic("oh")
	}
	return inbox.Handled, nil
}

// able can do all that a consumer may ask for.
type able struct{ alone }

func (able) HandleBatch(_ context.Context, events []surepost.Event) ([]inbox.Result, error) {
	return make([]inbox.Result, len(events)), nil
}
func (able) StartAttempt(context.Context, string, int) (int, error) { return 2, nil }
func (able) FinishAttempt(context.Context, string, error) error     { return nil }
func (able) ForgetAttempts(context.Context, string) error           { return nil }

func TestATracedHandlerCanDoWhatItsHandlerCan(t *testing.T) {
	tracing := New(Config{})
	if _, ok := tracing.Handler("q", alone{}).(amqp.BatchHandler); ok {
		t.Error("a handler without batches takes batches")
	}
	if _, err := tracing.Handler("q", alone{}).(amqp.AttemptCounter).StartAttempt(t.Context(), "1", 1); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a handler that doesn't count says %v", err)
	}
	h := tracing.Handler("q", able{})
	results, err := h.(amqp.BatchHandler).HandleBatch(t.Context(), make([]surepost.Event, 3))
	if len(results) != 3 || err != nil {
		t.Errorf("a batch: %v, %v", results, err)
	}
	counter := h.(amqp.AttemptCounter)
	n, err := counter.StartAttempt(t.Context(), "1", 1)
	if err := errors.Join(err, counter.FinishAttempt(t.Context(), "1", nil), counter.ForgetAttempts(t.Context(), "1")); n != 2 || err != nil {
		t.Errorf("counting: %d, %v", n, err)
	}
}

func TestAPanicIsRecordedAndGoesOn(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	h := New(Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))}).Handler("q", alone{})
	func() {
		defer func() {
			if recover() != "oh" {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = h.Handle(t.Context(), surepost.Event{ID: "panic"})
	}()
	if got := spans.GetSpans(); len(got) != 1 || len(got[0].Events) != 1 {
		t.Errorf("spans: %+v", got)
	}
}

func TestSampledReadsTheFlag(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
	for flags, want := range map[string]bool{"00": false, "01": true, "03": true, "0a": false, "0b": true, "": false} {
		headers := map[string]string{headerParent: parent + flags}
		if sampled(headers) != want {
			t.Errorf("flags %q: %v", flags, !want)
		}
	}
	if sampled(nil) {
		t.Error("no traceparent is sampled")
	}
}

func TestAnEventsTraceOfAnotherMakeIsContinued(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracing := New(Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))})
	ctx := surepost.WithTrace(t.Context(), surepost.TraceContext{
		Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", State: "vendor=x",
	})
	got, ok := tracing.Trace(ctx)
	if !ok || got.State != "vendor=x" || len(spans.GetSpans()) != 1 || spans.GetSpans()[0].Parent.SpanID().String() != "00f067aa0ba902b7" {
		t.Errorf("%+v, %v, %+v", got, ok, spans.GetSpans())
	}
}

// asked counts how often a span was begun without a sampled parent.
type asked struct{ times int }

func (a *asked) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	a.times++
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}
func (*asked) Description() string { return "asked" }

func TestNoSpanIsEvenBegunForAnUnsampledEvent(t *testing.T) {
	a := &asked{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(a))
	tracing := New(Config{TracerProvider: provider})
	ctx, _ := provider.Tracer("test").Start(t.Context(), "request")
	a.times = 0
	position, ok := tracing.Trace(ctx)
	if !ok || sampled(map[string]string{headerParent: position.Parent}) {
		t.Fatalf("the event gets %+v", position)
	}
	tracing.Relay().OnSettled(relay.Lane{}, []relay.Settled{
		{Entry: relay.Entry{Event: surepost.Event{ID: "1", Headers: map[string]string{headerParent: position.Parent}}}},
		{Entry: relay.Entry{Event: surepost.Event{ID: "untraced"}}},
	})
	if a.times > 0 {
		t.Errorf("%d spans were begun", a.times)
	}
}

func TestRefusalsAreErrors(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracing := New(Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))})
	now := time.Now()
	entry := relay.Entry{Event: surepost.Event{ID: "1", Type: "T", Headers: map[string]string{
		headerParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}}}
	tracing.Relay().OnSettled(relay.Lane{}, []relay.Settled{
		{Entry: entry, Outcome: relay.Outcome{Status: relay.Refused, Reason: "too large"}, Try: 1, SentAt: now.Add(-time.Second), At: now},
	})
	got := spans.GetSpans()
	if len(got) != 1 || got[0].Status.Code != codes.Error || got[0].Status.Description != "too large" || got[0].EndTime.Sub(got[0].StartTime) != time.Second {
		t.Errorf("%+v", got)
	}
}

// What an unsampled event costs in the goroutine that publishes.
func BenchmarkUnsampled(b *testing.B) {
	hooks := New(Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))}).Relay()
	settled := make([]relay.Settled, 100)
	for i := range settled {
		settled[i].Entry.Event.Headers = map[string]string{headerParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
	}
	b.ReportAllocs()
	for b.Loop() {
		hooks.OnSettled(relay.Lane{}, settled)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(settled)), "ns/event")
}
