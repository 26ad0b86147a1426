package surepost

import (
	"context"
	"encoding/json"
	"maps"
	"time"
)

// Defaults are what [Event.Complete] fills in where neither the event nor the context says anything.
type Defaults struct {
	Source string
	// Trace reads the trace position of a context. Default: [Trace].
	Trace func(context.Context) (TraceContext, bool)
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Complete returns the event with every default filled in and its data marshalled; it doesn't validate. The event
// itself isn't changed: its headers are copied where they grow.
func (e Event) Complete(ctx context.Context, d Defaults) (Event, error) {
	raw, err := e.RawData()
	if err != nil {
		return Event{}, err
	}
	e.Data = raw
	if e.ID == "" {
		e.ID = NewID()
	}
	if e.Time.IsZero() {
		now := time.Now
		if d.Now != nil {
			now = d.Now
		}
		e.Time = now()
		if e.NotBefore.After(e.Time) { // nobody can tell of it before
			e.Time = e.NotBefore
		}
	}
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	if !e.NotBefore.IsZero() { // up, so that it is never early
		e.NotBefore = e.NotBefore.UTC().Add(time.Microsecond - time.Nanosecond).Truncate(time.Microsecond)
	}
	if e.Version == "" {
		e.Version = DefaultVersion
	}
	if e.Source == "" {
		e.Source = d.Source
	}
	if cause, ok := Handling(ctx); ok && e.CausationID == "" {
		e.CausationID = cause.ID
	}
	if e.CorrelationID == "" {
		e.CorrelationID = CorrelationID(ctx)
	}
	if e.CorrelationID == "" {
		e.CorrelationID = e.ID
	}
	if _, own := e.Headers[headerTraceParent]; !own {
		trace := Trace
		if d.Trace != nil {
			trace = d.Trace
		}
		if t, ok := trace(ctx); ok {
			e.Headers = withTrace(e.Headers, t)
		}
	}
	return e, nil
}

// Prepare is Complete followed by Validate, for writing: it saves parsing what it has just marshalled itself.
func (e Event) Prepare(ctx context.Context, d Defaults, limits Limits) (Event, error) {
	complete, err := e.Complete(ctx, d)
	if err != nil {
		return Event{}, err
	}
	marshalled := true
	switch e.Data.(type) {
	case json.RawMessage, []byte:
		marshalled = false
	}
	if fields := complete.problems(limits, marshalled); len(fields) > 0 {
		return Event{}, &EventError{ID: complete.ID, Type: complete.Type, Fields: fields}
	}
	return complete, nil
}

func withTrace(headers map[string]string, t TraceContext) map[string]string {
	grown := make(map[string]string, len(headers)+2)
	maps.Copy(grown, headers)
	grown[headerTraceParent] = t.Parent
	if t.State != "" {
		grown[headerTraceState] = t.State
	}
	return grown
}
