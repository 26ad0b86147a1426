package outboxtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
)

// Store can tell what a transaction has written. All of Surepost's stores implement it; for one that doesn't, see
// [Record].
type Store[TX any] interface {
	// Written returns the events that tx itself has written and not taken back (by a rollback to a savepoint), in the
	// order of writing, complete as a consumer would get them: with Data as a json.RawMessage. Delayed ones that aren't
	// due come after the others, with their NotBefore, unless tx has cancelled them. Events of other transactions,
	// committed or not, are not among them. It changes nothing, and tx can be used afterwards.
	Written(ctx context.Context, tx TX) ([]surepost.Event, error)
}

// Recorder is an outbox.Store that notes what is written through it.
type Recorder[TX any] struct {
	outbox.Store[TX]

	mu      sync.Mutex
	written map[any][]surepost.Event // by transaction
}

// Record returns a store that does what store does and notes each event by its transaction, for stores that can't tell
// what a transaction has written. The code under test must write through it:
//
//	store := outboxtest.Record(ownStore)
//	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
//
// It knows a transaction by its value, which must be comparable, as pointers are; and it doesn't see events that come
// into the table in another way, nor that a savepoint took some back. It keeps what it noted for as long as it lives: use one
// per test. It is safe for concurrent use.
func Record[TX any](store outbox.Store[TX]) *Recorder[TX] {
	return &Recorder[TX]{Store: store, written: map[any][]surepost.Event{}}
}

// Append implements outbox.Store.
func (r *Recorder[TX]) Append(ctx context.Context, tx TX, events []surepost.Event) error {
	if err := r.Store.Append(ctx, tx, events); err != nil {
		return err
	}
	r.note(tx, events)
	return nil
}

// Schedule implements outbox.Scheduler, for a store that does. Which events are due is the store's to know: all that have a
// NotBefore are noted with it.
func (r *Recorder[TX]) Schedule(ctx context.Context, tx TX, events []surepost.Event) error {
	s, ok := r.Store.(outbox.Scheduler[TX])
	if !ok {
		return fmt.Errorf("outboxtest: %w: %T isn't an outbox.Scheduler", outbox.ErrNoSchedule, r.Store)
	}
	if err := s.Schedule(ctx, tx, events); err != nil {
		return err
	}
	r.note(tx, events)
	return nil
}

// Cancel implements outbox.Scheduler, for a store that does.
func (r *Recorder[TX]) Cancel(ctx context.Context, tx TX, ids []string) (int, error) {
	s, ok := r.Store.(outbox.Scheduler[TX])
	if !ok {
		return 0, fmt.Errorf("outboxtest: %w: %T isn't an outbox.Scheduler", outbox.ErrNoSchedule, r.Store)
	}
	n, err := s.Cancel(ctx, tx, ids)
	if err != nil {
		return n, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[tx] = slices.DeleteFunc(r.written[tx], func(e surepost.Event) bool {
		return !e.NotBefore.IsZero() && slices.Contains(ids, e.ID)
	})
	return n, nil
}

func (r *Recorder[TX]) note(tx TX, events []surepost.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[tx] = append(r.written[tx], events...)
}

// Written implements Store.
func (r *Recorder[TX]) Written(_ context.Context, tx TX) ([]surepost.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	written := slices.Clone(r.written[tx])
	slices.SortStableFunc(written, func(a, b surepost.Event) int { // delayed ones last
		return cmp.Compare(min(a.NotBefore.Compare(time.Time{}), 1), min(b.NotBefore.Compare(time.Time{}), 1))
	})
	return written, nil
}
