package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/surepost/surepost"
)

// Scheduler is a Store that can hold events back until they are due. All of Surepost's stores implement it. The relay moves
// what is due into the log (relay.ScheduleStore).
type Scheduler[TX any] interface {
	Store[TX]

	// Schedule is Append for events some of which have a NotBefore: those that aren't due yet go to the schedule
	// instead of the log. What is due is decided by the store's clock, so that a writer's clock that is off publishes
	// nothing early.
	Schedule(ctx context.Context, tx TX, events []surepost.Event) error

	// Cancel takes the events with these ids out of the schedule inside tx, and returns how many it found there. If one
	// is being moved into the log at the same moment, it waits for that, and doesn't count it.
	Cancel(ctx context.Context, tx TX, ids []string) (cancelled int, err error)
}

// ErrNoSchedule is matched by the errors of writing a delayed event to a store that isn't a Scheduler, and of cancelling
// there.
var ErrNoSchedule = errors.New("outbox: the store has no schedule")

// Cancel takes delayed events back inside tx, by their ids, and returns how many: the order is paid, so its reminder
// isn't wanted any more. Those that are not counted are in the log already and will be published, or were never
// scheduled, or cancelled before. If tx rolls back they stay scheduled.
//
// While tx is open, what it has cancelled doesn't move, nor do later delayed events of the same keys: end it soon.
func (o *Outbox[TX]) Cancel(ctx context.Context, tx TX, ids ...string) (cancelled int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	if len(ids) > o.config.MaxEvents {
		return 0, fmt.Errorf("outbox: %d events in one Cancel, the limit is %d: cancel them in several calls of the same transaction, or raise outbox.Config.MaxEvents",
			len(ids), o.config.MaxEvents)
	}
	s, ok := o.store.(Scheduler[TX])
	if !ok {
		return 0, fmt.Errorf("%w (%T), so that there is nothing to cancel: use a store that implements outbox.Scheduler", ErrNoSchedule, o.store)
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return s.Cancel(ctx, tx, slices.Compact(ids))
}

func (o *Outbox[TX]) schedule(ctx context.Context, tx TX, events []surepost.Event) error {
	s, ok := o.store.(Scheduler[TX])
	if !ok {
		return fmt.Errorf("%w (%T): write the event without NotBefore, or use a store that implements outbox.Scheduler", ErrNoSchedule, o.store)
	}
	return s.Schedule(ctx, tx, events)
}

func delayed(events []surepost.Event) bool {
	return slices.ContainsFunc(events, func(e surepost.Event) bool { return !e.NotBefore.IsZero() })
}
