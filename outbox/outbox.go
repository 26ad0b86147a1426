package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/surepost/surepost"
)

// Store puts complete, valid events into the log inside tx. It is implemented by pgxstore.Store (for pgx.Tx) and
// sqlstore.Store (for *sql.Tx). TX is a transaction, never a pool: that is what makes a write without a transaction
// a compile error.
type Store[TX any] interface {
	// Append adds the events to the log, in order, in one statement where the database can.
	Append(ctx context.Context, tx TX, events []surepost.Event) error
	// LockKeys waits until no other open transaction holds any of the keys, and holds them until tx ends. Keys are
	// sorted and distinct.
	LockKeys(ctx context.Context, tx TX, keys []string) error
}

// Config configures an Outbox. Its zero value works where every event names its source.
type Config struct {
	// Source is the Source of events that name none: the service's name. Default: none, which makes Event.Source
	// required.
	Source string

	// MaxDataBytes is the largest data of an event, in bytes of JSON. Default 1 MiB (surepost.DefaultMaxDataBytes):
	// brokers suffer from larger messages.
	MaxDataBytes int

	// MaxEvents is the most events of one Write. Default 10,000: one statement's worth of memory on both sides.
	MaxEvents int

	// LockKeys makes Write hold a transaction-scoped lock on each key before it draws places in the log, which gives
	// order per key to writers that don't serialise by themselves. Default false: an aggregate's row lock does the
	// same without a further round trip.
	LockKeys bool

	// Trace reads the trace position that events carry from the context. Default surepost.Trace. With OpenTelemetry:
	// inject the context's span with propagation.TraceContext and return its two headers.
	Trace func(context.Context) (surepost.TraceContext, bool)
}

func (c Config) withDefaults() Config {
	if c.MaxDataBytes == 0 {
		c.MaxDataBytes = surepost.DefaultMaxDataBytes
	}
	if c.MaxEvents == 0 {
		c.MaxEvents = 10_000
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if len(c.Source) > surepost.MaxNameBytes {
		errs = append(errs, fmt.Errorf("outbox: Config.Source is %d bytes long, the limit is %d: shorten it", len(c.Source), surepost.MaxNameBytes))
	}
	if c.MaxDataBytes < 0 {
		errs = append(errs, fmt.Errorf("outbox: Config.MaxDataBytes is %d: use a positive number of bytes, or 0 for the default", c.MaxDataBytes))
	}
	if c.MaxEvents < 0 {
		errs = append(errs, fmt.Errorf("outbox: Config.MaxEvents is %d: use a positive number, or 0 for the default", c.MaxEvents))
	}
	return errors.Join(errs...)
}

// Outbox writes events inside transactions of type TX. It is safe for concurrent use.
type Outbox[TX any] struct {
	store  Store[TX]
	config Config
}

// New returns an outbox on the store. TX is inferred: pgx.Tx for a pgxstore.Store, *sql.Tx for a sqlstore.Store.
func New[TX any](store Store[TX], config Config) (*Outbox[TX], error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	return &Outbox[TX]{store: store, config: config}, nil
}

// Write adds the events to the log inside tx. They are published after tx commits, in this order where they share a
// key, and never if it rolls back. Those whose NotBefore is in the future, by the store's clock, go to the schedule
// instead, until they are due.
//
// An error that matches surepost.ErrInvalidEvent tells everything that is wrong with the events, and nothing was sent
// to the database: tx is still usable. Any other error comes from the database, and the transaction must be rolled
// back.
func (o *Outbox[TX]) Write(ctx context.Context, tx TX, events ...surepost.Event) error {
	if len(events) == 0 {
		return nil
	}
	prepared, err := o.Prepare(ctx, events...)
	if err != nil {
		return err
	}
	if o.config.LockKeys {
		if keys := distinctKeys(prepared); len(keys) > 0 {
			if err := o.store.LockKeys(ctx, tx, keys); err != nil {
				return err
			}
		}
	}
	if delayed(prepared) {
		return o.schedule(ctx, tx, prepared)
	}
	return o.store.Append(ctx, tx, prepared)
}

// Prepare fills in defaults and checks the events as Write does, without writing them. It is for stores that carry
// events in another way, such as pgxstore's Queue.
func (o *Outbox[TX]) Prepare(ctx context.Context, events ...surepost.Event) ([]surepost.Event, error) {
	if len(events) > o.config.MaxEvents {
		return nil, fmt.Errorf("outbox: %w: %d events in one Write, the limit is %d: write them in several calls of the same transaction, or raise outbox.Config.MaxEvents",
			surepost.ErrInvalidEvent, len(events), o.config.MaxEvents)
	}
	defaults := surepost.Defaults{Source: o.config.Source, Trace: o.config.Trace}
	limits := surepost.Limits{MaxDataBytes: o.config.MaxDataBytes}
	prepared := make([]surepost.Event, len(events))
	seen := make(map[string]int, len(events))
	var errs []error
	for i, e := range events {
		p, err := e.Prepare(ctx, defaults, limits)
		if err != nil {
			errs = append(errs, atIndex(err, i, e))
			continue
		}
		if first, twice := seen[p.ID]; twice {
			errs = append(errs, atIndex(&surepost.FieldError{
				Field: "ID", Problem: fmt.Sprintf("is also the id of event #%d of this call", first), Remedy: "give every event an id of its own, or leave ID empty",
			}, i, e))
			continue
		}
		seen[p.ID] = i
		prepared[i] = p
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return prepared, nil
}

// atIndex says which event of the call an error is about.
func atIndex(err error, index int, e surepost.Event) error {
	whole := &surepost.EventError{Index: index, ID: e.ID, Type: e.Type}
	var many *surepost.EventError
	var one *surepost.FieldError
	switch {
	case errors.As(err, &many):
		whole.Fields = many.Fields
	case errors.As(err, &one):
		whole.Fields = []*surepost.FieldError{one}
	default:
		return err
	}
	return whole
}

func distinctKeys(events []surepost.Event) []string {
	keys := make([]string, 0, len(events))
	for _, e := range events {
		if e.Key != "" {
			keys = append(keys, e.Key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
