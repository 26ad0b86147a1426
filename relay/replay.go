package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/surepost/surepost"
)

var (
	// ErrDestinationExists says that a destination can't be created because there is one of its name.
	ErrDestinationExists = errors.New("relay: the destination exists already")

	// ErrNoDestination says that there is no destination, or no replay, of a name.
	ErrNoDestination = errors.New("relay: there is no such destination")

	// ErrNothingSelected says that a replay would publish nothing.
	ErrNothingSelected = errors.New("relay: the filter selects no event of the log")
)

// ReplayStore is what a store that keeps its log offers of destinations and replays, besides being a Store. All methods are
// safe for concurrent use. Whatever they refuse, they have changed nothing.
type ReplayStore interface {
	// Destinations lists the destinations by name, replays included.
	Destinations(ctx context.Context) ([]Destination, error)

	// CreateDestination makes a destination of one lane that begins to read the log at from, which isn't in the future. It
	// returns an error that matches ErrDestinationExists if there is one of that name, replay or not.
	CreateDestination(ctx context.Context, name string, from Start) error

	// RemoveDestination removes a destination, or cancels a replay, and all that is known of how far it came. It refuses
	// while a relay is alive on it, while it has parked events, and if it is the only one that isn't a replay. It returns
	// an error that matches ErrNoDestination if there is none of that name.
	RemoveDestination(ctx context.Context, name string) error

	// CreateReplay makes a destination of those events that filter selects and that are committed now; by says who asked
	// for it. Its log gives each of them HeaderReplay, and ends (Page.Done). It returns an error that matches
	// ErrDestinationExists or ErrNothingSelected.
	CreateReplay(ctx context.Context, name string, filter EventFilter, by string) (Destination, error)

	// CountEvents returns how many events of the log the filter selects, by type: what a replay that is created now
	// would publish.
	CountEvents(ctx context.Context, filter EventFilter) (map[string]int64, error)
}

// isReplay returns an error that matches ErrHalt if the destination must be a replay and isn't.
func (r *Relay) isReplay(ctx context.Context) error {
	if !r.config.Replay {
		return nil
	}
	name := r.config.Destination
	store, ok := able[ReplayStore](r.store)
	if !ok {
		return fmt.Errorf("relay: %w: Config.Replay is set, and this store has no replays: use a PostgreSQL store", ErrHalt)
	}
	list, err := within(ctx, store.Destinations, nil)
	if err != nil {
		return err
	}
	for _, d := range list {
		switch {
		case d.Name == name && d.Replay != nil:
			return nil
		case d.Name == name:
			return fmt.Errorf("relay: %w: destination %q isn't a replay: correct Config.Destination, or leave Config.Replay out", ErrHalt, name)
		}
	}
	return fmt.Errorf("relay: %w: %w: there is no replay %q (any more): make it with the store's CreateReplay", ErrHalt, ErrNoDestination, name)
}

// MaxFilterValues is how many values a field of an EventFilter may have: each row that is looked at is compared with all
// of them.
const MaxFilterValues = 1000

// Validate returns everything that is wrong with the filter, each with its remedy. An empty filter is valid: it selects
// every event.
func (f EventFilter) Validate() error {
	var errs []error
	add := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("relay: EventFilter."+format, args...))
	}
	for _, field := range []struct {
		name   string
		values []string
	}{{"Types", f.Types}, {"Keys", f.Keys}, {"Sources", f.Sources}, {"IDs", f.IDs}} {
		if len(field.values) > MaxFilterValues {
			add("%s has %d values, the limit is %d: use several filters, or select by another field", field.name, len(field.values), MaxFilterValues)
			continue
		}
		for i, v := range field.values {
			if problem := nameProblem(v); problem != "" {
				add("%s[%d] %s", field.name, i, problem)
			}
		}
	}
	if f.CorrelationID != "" {
		if problem := nameProblem(f.CorrelationID); problem != "" {
			add("CorrelationID %s", problem)
		}
	}
	for _, field := range []struct {
		name string
		at   time.Time
	}{{"Since", f.Since}, {"Until", f.Until}} {
		if y := field.at.UTC().Year(); y < 1 || y > 9998 {
			add("%s has the year %d: use a year from 1 to 9998, or leave it out", field.name, y)
		}
	}
	switch {
	case f.Since.IsZero() || f.Until.IsZero():
	case f.Since.Equal(f.Until):
		add("Since and Until are both %s, and nothing is at or after the one and before the other: set Until behind the last event that you want",
			f.Since.Format(time.RFC3339Nano))
	case f.Since.After(f.Until):
		add("Since (%s) is after Until (%s): exchange them", f.Since.Format(time.RFC3339Nano), f.Until.Format(time.RFC3339Nano))
	}
	return errors.Join(errs...)
}

// ValidDestination says what is wrong with a name for a destination, and returns nil if nothing is: 1 to 255 bytes of valid
// UTF-8, as it travels in a header.
func ValidDestination(name string) error {
	if problem := nameProblem(name); problem != "" {
		return fmt.Errorf("relay: the destination's name %s", problem)
	}
	return nil
}

// nameProblem says what is wrong with a name, and what to do about it; "" if nothing is.
func nameProblem(name string) string {
	switch {
	case name == "":
		return "is empty: leave it out, or write what you mean"
	case len(name) > surepost.MaxNameBytes:
		return fmt.Sprintf("is %d bytes long, the limit is %d: shorten it", len(name), surepost.MaxNameBytes)
	case !utf8.ValidString(name):
		return fmt.Sprintf("is not valid UTF-8 (%q): convert it", name)
	case strings.ContainsRune(name, 0):
		return "contains a NUL byte: remove it"
	}
	return ""
}

// Matches reports whether the filter selects the event, which is complete: it has its correlation id.
func (f EventFilter) Matches(e *surepost.Event) bool {
	in := func(values []string, v string) bool { return len(values) == 0 || slices.Contains(values, v) }
	return in(f.Types, e.Type) && in(f.Keys, e.Key) && in(f.Sources, e.Source) && in(f.IDs, e.ID) &&
		(f.CorrelationID == "" || f.CorrelationID == e.CorrelationID) &&
		(f.Since.IsZero() || !e.Time.Before(f.Since)) &&
		(f.Until.IsZero() || e.Time.Before(f.Until))
}

// Replayed returns the event as the replay of that name publishes it: with [HeaderReplay], and otherwise as it was. The
// event's own headers aren't changed.
func Replayed(e surepost.Event, replay string) surepost.Event {
	headers := make(map[string]string, len(e.Headers)+1)
	maps.Copy(headers, e.Headers)
	headers[HeaderReplay] = replay
	e.Headers = headers
	return e
}
