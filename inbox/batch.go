package inbox

import (
	"context"
	"fmt"

	"github.com/surepost/surepost"
)

// BatchHandler does the consumer's work for several events of one type, in the order in which they must be applied,
// with the transaction that also records their ids: for work that is one statement for many rows. What [Handler] says
// holds for it too; an error rolls back all of the transaction, in which there may be other handlers' events besides.
//
// ctx carries none of the events. Pass surepost.WithHandling(ctx, event) to what is written because of one, so that
// the follow-up event continues its flow.
type BatchHandler[TX any] func(ctx context.Context, tx TX, events []surepost.Event) error

// Typed is an event whose data was decoded.
type Typed[T any] struct {
	surepost.Event
	Data T // hides Event.Data, which is still there as it came
}

// OnBatch registers a handler that gets several events of a type at once, where they come one after the other in
// a batch (HandleBatch), and a single one otherwise. Like [Inbox.On] it panics if the type is empty or has a handler
// already.
func (in *Inbox[TX]) OnBatch(eventType string, handler BatchHandler[TX]) {
	in.register("OnBatch", eventType, handler != nil, registered[TX]{batch: handler})
}

// OnBatch registers a handler that gets several events at once with their data decoded from JSON into a T. Data that
// doesn't decode is a permanent failure.
func OnBatch[T, TX any](
	in *Inbox[TX], eventType string, handler func(ctx context.Context, tx TX, events []Typed[T]) error,
) {
	in.OnBatch(eventType, func(ctx context.Context, tx TX, events []surepost.Event) error {
		typed := make([]Typed[T], len(events))
		for i, event := range events {
			typed[i].Event = event
			if err := event.Decode(&typed[i].Data); err != nil {
				return Permanent(about(event, err))
			}
		}
		return handler(ctx, tx, typed)
	})
}

// HandleBatch processes the events in one transaction, in their order, each with the handler of its type, and returns
// what became of each. Handlers registered by On are called for every event; those registered by OnBatch get runs of
// consecutive events. An event that comes twice is handled once: the second is a Duplicate.
//
// After an error nothing is left of the work for any of them (with the same exception as for Process), and the error
// may be of one event or of all: process them one by one then. Concurrent batches may overlap in any way. An error
// that is Permanent is so for one event, not for the batch.
func (in *Inbox[TX]) HandleBatch(ctx context.Context, events []surepost.Event) ([]Result, error) {
	b := batch[TX]{inbox: in, events: events, handlers: make([]registered[TX], len(events))}
	if err := b.sort(); err != nil {
		return nil, err
	}
	if len(b.ids) == 0 {
		return b.results(nil), nil
	}
	var recorded []bool
	err := in.store.Transact(ctx, in.config.Consumer, b.ids, func(tx TX, first []bool) error {
		recorded = first
		return b.run(ctx, tx, first)
	})
	if err != nil {
		return nil, fmt.Errorf("inbox: %s: a batch of %d events: %w", in.config.Consumer, len(events), err)
	}
	return b.results(recorded), nil
}

// batch is one HandleBatch.
type batch[TX any] struct {
	inbox    *Inbox[TX]
	events   []surepost.Event
	handlers []registered[TX] // of each event
	ids      []string         // of those that have a handler, each once
	of       []int            // for each of ids, the first event that has it
}

// sort finds the handlers and the ids.
func (b *batch[TX]) sort() error {
	known := make(map[string]bool, len(b.events))
	for i, event := range b.events {
		handler, ok := b.inbox.handler(event.Type)
		if !ok {
			continue
		}
		if event.ID == "" {
			return Permanent(errNoID)
		}
		b.handlers[i] = handler
		if !known[event.ID] {
			known[event.ID] = true
			b.ids, b.of = append(b.ids, event.ID), append(b.of, i)
		}
	}
	return nil
}

// run calls the handlers of those events that were recorded first.
func (b *batch[TX]) run(ctx context.Context, tx TX, first []bool) error {
	var due []int // events
	for n, i := range b.of {
		if first[n] {
			due = append(due, i)
		}
	}
	for len(due) > 0 {
		event, handler := b.events[due[0]], b.handlers[due[0]]
		if handler.each != nil {
			err := call(func() error { return handler.each(surepost.WithHandling(ctx, event), tx, event) })
			if err != nil {
				return about(event, err)
			}
			due = due[1:]
			continue
		}
		var run []surepost.Event
		for len(due) > 0 && b.events[due[0]].Type == event.Type {
			run, due = append(run, b.events[due[0]]), due[1:]
		}
		if err := call(func() error { return handler.batch(ctx, tx, run) }); err != nil {
			return fmt.Errorf("%d events of type %s: %w", len(run), event.Type, err)
		}
	}
	return nil
}

// results says what became of each event after the commit.
func (b *batch[TX]) results(first []bool) []Result {
	results := make([]Result, len(b.events))
	for i, handler := range b.handlers {
		results[i] = Duplicate // unless one of the following says otherwise
		if handler.each == nil && handler.batch == nil {
			results[i] = Skipped
		}
	}
	for n, i := range b.of {
		if first[n] {
			results[i] = Handled
		}
	}
	return results
}
