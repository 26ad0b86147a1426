package relay

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Retention says which published events a store keeps.
type Retention struct {
	// Keep is how long an event is kept at least after it was written. It goes when that is over and every destination has
	// passed it, and never before; stores remove events in bulk, so that most stay for up to half as long again. Positive.
	Keep time.Duration
}

// RetentionReport is what one call of Retain did, and what it couldn't do.
type RetentionReport struct {
	// Moved: new events are written to another leaf of the ring from now on.
	Moved bool
	// Emptied is how many leaves of the ring were emptied.
	Emptied int
	// Removed is how many events were removed, by stores that remove them one by one.
	Removed int64
	// Held says what is in the way of removing events that are old enough. Empty: nothing.
	Held []Holdup
}

// Holdup is something that keeps old events from being removed. No event is lost by it, and none waits for it: the log grows.
type Holdup struct {
	// Lane hasn't passed all of the old events; without a destination it is something else.
	Lane Lane
	// PID is the database backend that holds a lock on them, 0 if none does. State, Query and Since are what the database
	// says of it: its transaction began at Since.
	PID          int
	State, Query string
	Since        time.Time
	// Reason says what is in the way, and what to do about it.
	Reason string
}

func (r RetentionReport) String() string {
	said := fmt.Sprintf("emptied %d leaves, removed %d events", r.Emptied, r.Removed)
	if r.Moved {
		said += ", moved on to the next leaf"
	}
	if len(r.Held) == 0 {
		return said
	}
	reasons := make([]string, len(r.Held))
	for i, h := range r.Held {
		reasons[i] = h.Reason
	}
	return said + "; held up: " + strings.Join(reasons, "; ")
}

// Retainer is a Store that can remove old events.
type Retainer interface {
	// Retain removes events that are older than the retention and were passed by every destination, as far as that is possible
	// now: it waits for nobody, and what is in the way is in the report and not an error. It may be called by many relays at
	// once.
	Retain(ctx context.Context, retention Retention) (RetentionReport, error)
}

// DefaultRetention is what Config.Retention is by default.
const DefaultRetention = 7 * 24 * time.Hour

// retainEvery is how often old events are looked for, at most; a short retention has them looked for sooner.
const retainEvery = time.Minute

// patience is how many rounds in a row something may be in the way of retention before it is logged: a backup takes a while.
const patience = 30

// checkRetention returns an error if a retention was chosen, and the store knows none: what was asked for wouldn't happen.
func checkRetention(store Store, chosen time.Duration) error {
	if _, able := store.(Retainer); able || store == nil || chosen == 0 {
		return nil
	}
	return fmt.Errorf("relay: Config.Retention is %v, and this store (%T) isn't a Retainer: how long its log keeps published events is its own "+
		"affair (on MySQL and MariaDB they go when they are published); leave it 0, or use a store on PostgreSQL or SQLite", chosen, store)
}

// retain removes old events for as long as the relay runs, where the store can, and says so where it can't. A replay doesn't: it may
// run under another configuration than the database's relays, and what they keep for ever must not go because somebody replays.
func (r *Relay) retain(ctx context.Context) {
	if r.config.Replay {
		return
	}
	store, is := able[Retainer](r.store)
	if !is {
		r.config.Logger.Info("this store isn't a relay.Retainer: the relay removes no events from its log", "store", fmt.Sprintf("%T", bare(r.store)))
		return
	}
	if r.config.Retention < 0 {
		return
	}
	every := max(min(retainEvery, r.config.Retention/100), 10*time.Millisecond)
	for held := 0; ; {
		if sleep(ctx, every); ctx.Err() != nil {
			return
		}
		limited, cancel := context.WithTimeout(ctx, retainEvery)
		report, err := store.Retain(limited, Retention{Keep: r.config.Retention})
		cancel()
		if ctx.Err() != nil {
			return
		}
		if h := r.config.Hooks.OnRetention; h != nil {
			h(report, err)
		}
		if err == nil && len(report.Held) == 0 {
			held = 0
			continue
		}
		if held++; held%patience != 0 {
			continue
		}
		if err != nil {
			r.config.Logger.Warn("old events couldn't be removed for a while: the log grows", "err", err)
			continue
		}
		r.config.Logger.Warn("something is in the way of removing old events: the log grows", "retention", r.config.Retention, "held", report.String())
	}
}
