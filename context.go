package surepost

import (
	"context"
	"strings"
)

type (
	correlationKey struct{}
	traceKey       struct{}
	eventKey       struct{}
	writingKey     struct{}
)

// WithCorrelationID returns a context under which written events belong to the flow id. An HTTP service sets it from
// the request, so that a flow can be followed from its first request to its last event.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// CorrelationID returns the flow that the context belongs to: the id set by [WithCorrelationID], else that of the event
// being handled, else "".
func CorrelationID(ctx context.Context) string {
	if id, ok := ctx.Value(correlationKey{}).(string); ok && id != "" {
		return id
	}
	if e, ok := Handling(ctx); ok {
		return e.CorrelationID
	}
	return ""
}

// WithHandling returns a context that says that e is being handled. The inbox sets it; events written under it take e's
// correlation id, and its id as their causation id.
func WithHandling(ctx context.Context, e Event) context.Context {
	return context.WithValue(ctx, eventKey{}, e)
}

// Handling returns the event that is being handled under ctx.
func Handling(ctx context.Context) (Event, bool) {
	e, ok := ctx.Value(eventKey{}).(Event)
	return e, ok
}

// withWriting returns a context that says that e is being written.
func withWriting(ctx context.Context, e Event) context.Context {
	return context.WithValue(ctx, writingKey{}, &e)
}

// Writing returns the event that is being written under ctx, complete but for its trace: what outbox.Config.Trace may want
// to tell of it in a span.
func Writing(ctx context.Context) (Event, bool) {
	e, ok := ctx.Value(writingKey{}).(*Event)
	if !ok {
		return Event{}, false
	}
	return *e, true
}

// TraceContext is a position in a distributed trace, as W3C Trace Context (Level 1, §3) writes it.
type TraceContext struct {
	Parent string // traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	State  string // tracestate, optional
}

const (
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"
)

// WithTrace returns a context whose written events carry t. A traceparent that isn't well-formed is ignored together
// with its state, as the specification asks of a receiver (§4.3). Users of OpenTelemetry need not call it: they set
// outbox.Config.Trace.
//
// What is carried on is what an event can hold, whoever sent it: of a traceparent of a later version only what version 00
// has (§3.2.2.1 and §4.3), and no tracestate that isn't one or is longer than 512 bytes (§3.3.1.5).
func WithTrace(ctx context.Context, t TraceContext) context.Context {
	t, ok := t.carried()
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, t)
}

// Trace returns the trace position of ctx: the one set by [WithTrace], else that of the event being handled.
func Trace(ctx context.Context) (TraceContext, bool) {
	if t, ok := ctx.Value(traceKey{}).(TraceContext); ok {
		return t, true
	}
	if e, ok := Handling(ctx); ok {
		return TraceContext{e.Headers[headerTraceParent], e.Headers[headerTraceState]}.carried()
	}
	return TraceContext{}, false
}

// carried returns what of a position that came from elsewhere goes on with the events that are written under it. They
// must not become invalid by it: that would fail the transaction of a handler or of a request over another's header.
func (t TraceContext) carried() (TraceContext, bool) {
	if !validTraceParent(t.Parent) {
		return TraceContext{}, false
	}
	if t.Parent[:2] != "00" {
		sampled := "00"
		if strings.Contains("13579bdf", t.Parent[54:55]) {
			sampled = "01" // the one flag that version 00 knows
		}
		t.Parent = "00" + t.Parent[2:53] + sampled
	}
	if !validTraceState(t.State) {
		t.State = ""
	}
	return t, true
}

// maxTraceStateBytes is how much of a tracestate one has to carry on (W3C Trace Context §3.3.1.5).
const maxTraceStateBytes = 512

// validTraceState checks what would spoil an event or another's parser: the length, and the characters (§3.3.1.1).
func validTraceState(s string) bool {
	if len(s) > maxTraceStateBytes {
		return false
	}
	for i := range len(s) {
		if s[i] != '\t' && (s[i] < ' ' || s[i] > '~') {
			return false
		}
	}
	return true
}

// TraceID returns the trace that the event belongs to, in 32 hexadecimal digits; "" if it carries none. Log lines about an
// event have it as trace_id.
func (e Event) TraceID() string {
	parent := e.Headers[headerTraceParent]
	if !validTraceParent(parent) {
		return ""
	}
	return parent[3:35]
}

// validTraceParent checks the format of version 00 and the prefix of later ones (W3C Trace Context §3.2.2).
func validTraceParent(s string) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version, traceID, parentID, flags := s[0:2], s[3:35], s[36:52], s[53:55]
	for _, part := range []string{version, traceID, parentID, flags} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	if version == "ff" || strings.Trim(traceID, "0") == "" || strings.Trim(parentID, "0") == "" {
		return false
	}
	return len(s) == 55 || version != "00" && s[55] == '-'
}
