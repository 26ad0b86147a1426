package inbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/surepost/surepost"
)

// Handler does the consumer's work for one event with the transaction that also records the event's id. It must do
// its database work with tx only, and return an error if any of it failed: the transaction is rolled back then, and
// the event delivered again later. ctx carries the event (surepost.Handling), so that events written with it continue
// the flow.
//
// A handler may be called more than once for one event, but only one call's transaction commits.
type Handler[TX any] func(ctx context.Context, tx TX, event surepost.Event) error

// Result is what became of a processed event.
type Result uint8

const (
	// Handled: the handler ran and its transaction committed.
	Handled Result = iota + 1
	// Duplicate: the event had been handled before; nothing was done.
	Duplicate
	// Skipped: no handler is registered for its type; nothing was done.
	Skipped
)

func (r Result) String() string {
	switch r {
	case Handled:
		return "handled"
	case Duplicate:
		return "duplicate"
	case Skipped:
		return "skipped"
	}
	return "failed"
}

// Config configures an Inbox.
type Config struct {
	// Consumer names the subscription whose effects happen once, usually the service's name: two consumers with one
	// database each handle the same event. Required, at most 255 bytes. Changing it makes every redelivered event
	// look new.
	Consumer string
}

func (c Config) validate() error {
	switch {
	case c.Consumer == "":
		return errors.New(`inbox: Config.Consumer is empty: name the subscription, for example "inventory"; effects are exactly-once per consumer`)
	case len(c.Consumer) > surepost.MaxNameBytes:
		return fmt.Errorf("inbox: Config.Consumer is %d bytes long, the limit is %d: shorten it", len(c.Consumer), surepost.MaxNameBytes)
	}
	return nil
}

// Inbox handles events exactly once. It is safe for concurrent use.
type Inbox[TX any] struct {
	store  Store[TX]
	config Config

	mu       sync.RWMutex
	handlers map[string]registered[TX]
}

// registered is what handles an event type: one of the two.
type registered[TX any] struct {
	each  Handler[TX]
	batch BatchHandler[TX]
}

// New returns an inbox on the store. TX is inferred: pgx.Tx for a pgxstore.Store, *sql.Tx for a sqlstore.Store.
func New[TX any](store Store[TX], config Config) (*Inbox[TX], error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	return &Inbox[TX]{store: store, config: config, handlers: map[string]registered[TX]{}}, nil
}

// Consumer returns the subscription's name.
func (in *Inbox[TX]) Consumer() string { return in.config.Consumer }

// On registers the handler of an event type. It panics if the type is empty or has a handler already: both are mistakes
// in the program. Register all handlers before events are consumed.
func (in *Inbox[TX]) On(eventType string, handler Handler[TX]) {
	in.register("On", eventType, handler != nil, registered[TX]{each: handler})
}

func (in *Inbox[TX]) register(by, eventType string, given bool, handler registered[TX]) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if eventType == "" || !given {
		panic("inbox: " + by + " needs an event type and a handler")
	}
	if _, taken := in.handlers[eventType]; taken {
		panic("inbox: event type " + eventType + " has a handler already: do both works in one handler, or use an inbox of another consumer name")
	}
	in.handlers[eventType] = handler
}

func (in *Inbox[TX]) handler(eventType string) (handler registered[TX], ok bool) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	handler, ok = in.handlers[eventType]
	return handler, ok
}

// On registers a handler that gets the event's data decoded from JSON into a T. Data that doesn't decode is a permanent
// failure: trying again can't help.
func On[T, TX any](in *Inbox[TX], eventType string, handler func(ctx context.Context, tx TX, event surepost.Event, data T) error) {
	in.On(eventType, func(ctx context.Context, tx TX, event surepost.Event) error {
		var data T
		if err := event.Decode(&data); err != nil {
			return Permanent(err)
		}
		return handler(ctx, tx, event, data)
	})
}

// Types returns the event types that have a handler, sorted: what a consumer binds its queue to.
func (in *Inbox[TX]) Types() []string {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return slices.Sorted(maps.Keys(in.handlers))
}

// Handle processes the event with the handler of its type.
func (in *Inbox[TX]) Handle(ctx context.Context, event surepost.Event) (Result, error) {
	handler, ok := in.handler(event.Type)
	switch {
	case !ok:
		return Skipped, nil
	case handler.each != nil:
		return in.Process(ctx, event, handler.each)
	}
	return in.Process(ctx, event, func(_ context.Context, tx TX, event surepost.Event) error {
		return handler.batch(ctx, tx, []surepost.Event{event}) // not the context of a single event: see BatchHandler
	})
}

// Process records the event and runs handler in one transaction, unless the event was handled before. Of two
// concurrent calls for one event the second waits for the first; then it finds the work done, or does it itself if
// the first failed.
//
// After an error nothing of handler's work is left, except where the error came from the commit: then it is open
// whether it took place, and processing the event again settles it.
func (in *Inbox[TX]) Process(ctx context.Context, event surepost.Event, handler Handler[TX]) (Result, error) {
	if event.ID == "" {
		return 0, Permanent(errNoID)
	}
	var result Result
	err := in.store.Transact(ctx, in.config.Consumer, []string{event.ID}, func(tx TX, first []bool) error {
		if !first[0] {
			result = Duplicate
			return nil
		}
		result = Handled
		return call(func() error { return handler(surepost.WithHandling(ctx, event), tx, event) })
	})
	if err != nil {
		return 0, fmt.Errorf("inbox: %s: %w", in.config.Consumer, about(event, err))
	}
	return result, nil
}

var errNoID = fmt.Errorf("inbox: %w: the event has no id to dedupe by", surepost.ErrInvalidEvent)

// about says which event an error is about.
func about(event surepost.Event, err error) error {
	return fmt.Errorf("event %s of type %s: %w", event.ID, event.Type, err)
}

// call turns a handler's panic into an error, so that one bad event doesn't end the process for all others.
func call(handler func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicked(r)
		}
	}()
	return handler()
}
