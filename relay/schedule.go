package relay

import (
	"context"
	"math"
	"time"

	"github.com/surepost/surepost"
)

// ScheduleStore is a Store with delayed events (surepost.Event.NotBefore), which the relay moves into the log when they are
// due. All of Surepost's stores implement it.
type ScheduleStore interface {
	// MoveDue moves events that are due, by the store's clock, from the schedule into the log, at most limit: in the order
	// of NotBefore, then of writing, and each in the transaction that takes it out of the schedule. One caller at a time
	// does so: the others move nothing, and don't wait. Nor does it wait for transactions that are cancelling events: it
	// leaves those out, and what is due after them under the same key.
	//
	// It returns how many it moved, and how long it is until the next one is due, by the store's clock: 0 if more may be
	// due, NeverDue if none is scheduled. It is safe for concurrent use.
	MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error)
}

// NeverDue is how long it is until the next event of an empty schedule is due.
const NeverDue time.Duration = math.MaxInt64

// ScheduledFilter selects delayed events. Empty fields select all; several fields must all match.
type ScheduledFilter struct {
	Key, Type, Source string
	IDs               []string
	Since, Until      time.Time // of NotBefore: Since <= NotBefore < Until
}

// ScheduledEvent is a delayed event that isn't due yet, or was not moved yet.
type ScheduledEvent struct {
	Event     surepost.Event // with NotBefore
	WrittenAt time.Time      // by the store's clock
}

// Cancellation is that an operator took a delayed event back.
type Cancellation struct {
	By        string // who, as given to CancelScheduled
	At        time.Time
	EventID   string
	Type      string
	Key       string
	Source    string
	NotBefore time.Time
}

const (
	// moveEvery is how often the schedule is looked at, at least: what was written with a NotBefore that is sooner than
	// the next one known waits no longer than that.
	moveEvery = 500 * time.Millisecond
	// moveAtOnce is how many events one transaction moves: a million that are due together neither make a transaction of
	// minutes nor hold up what follows.
	moveAtOnce = 1000
	// moveSoonest keeps a clock that runs ahead of the store's from asking again and again.
	moveSoonest = 5 * time.Millisecond
)

// moveDue moves delayed events into the log as they become due, on standby too: the store lets one relay at a time do so. A
// replay doesn't: it is an operator's, who needn't have the right to write events.
func (r *Relay) moveDue(ctx context.Context) {
	store, ok := able[ScheduleStore](r.store)
	if !ok || r.config.Replay {
		return
	}
	log := r.config.Logger.With("destination", r.config.Destination, "owner", r.config.Owner)
	type answer struct {
		moved int
		next  time.Duration
	}
	failing := false
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, r.config.LeaseTTL)
		a, err := within(attempt, func(ctx context.Context) (a answer, err error) {
			a.moved, a.next, err = store.MoveDue(ctx, moveAtOnce)
			return a, err
		}, nil)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != failing { // once, however long it lasts
			failing = err != nil
			if failing {
				log.Warn("delayed events couldn't be moved into the log yet", "err", err)
			} else {
				log.Info("delayed events are moved into the log again")
			}
		}
		if a.moved > 0 {
			r.Wake()
			if a.next <= 0 {
				continue
			}
		}
		wait := moveEvery
		if err == nil && a.next > 0 {
			wait = min(wait, max(a.next, moveSoonest))
		}
		sleep(ctx, wait)
	}
}
