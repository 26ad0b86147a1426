package memstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

var _ relay.ReplayStore = (*Store)(nil)

// replay is what a replay's destination takes of the log: the first entries, as many as had ever been committed when it was
// created, that the filter selects.
type replay struct {
	relay.Replay
	entries int
}

// marked gives the entry, which nobody else has, the header of its replay.
func (l *log) marked(entry relay.Entry) relay.Entry {
	lane := l.lease.Lane
	if d := l.store.destinations[lane.Destination]; d != nil && d.replay != nil {
		entry.Event = relay.Replayed(entry.Event, lane.Destination)
	}
	return entry
}

// end returns how many entries of the log are the destination's, and of those which; all without a replay.
func (l *log) end() (entries int, r *replay) {
	if d := l.store.destinations[l.lease.Lane.Destination]; d != nil && d.replay != nil {
		return d.replay.entries, d.replay
	}
	return l.store.length(), nil
}

// passed notes that a replay is done if all of its lanes have come to the end.
func (s *Store) passed(name string) {
	d := s.destinations[name]
	if d == nil || d.replay == nil || !d.replay.DoneAt.IsZero() {
		return
	}
	for i := range d.lanes {
		if s.places[relay.Lane{Destination: name, Index: i, Of: d.lanes}].read < d.replay.entries {
			return
		}
	}
	d.replay.DoneAt = time.Now().UTC()
}

// Destinations implements relay.ReplayStore.
func (s *Store) Destinations(ctx context.Context) (list []relay.Destination, err error) {
	err = s.do(ctx, func() error {
		for name, d := range s.destinations {
			list = append(list, d.shown(name))
		}
		return nil
	})
	slices.SortFunc(list, func(a, b relay.Destination) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

func (d *destination) shown(name string) relay.Destination {
	shown := relay.Destination{Name: name, Lanes: d.lanes, CreatedAt: d.created}
	if d.replay != nil {
		r := d.replay.Replay
		shown.Replay = &r
	}
	return shown
}

// CreateDestination implements relay.ReplayStore.
func (s *Store) CreateDestination(ctx context.Context, name string, from relay.Start) error {
	if err := relay.ValidDestination(name); err != nil {
		return err
	}
	since, byTime := from.Time()
	if byTime && since.After(time.Now()) {
		return fmt.Errorf("memstore: a destination can't begin at %s, which is yet to come: begin from now, or wait", since.Format(time.RFC3339Nano))
	}
	return s.do(ctx, func() error {
		at := s.length()
		switch {
		case from.Beginning():
			at = s.removed
		case byTime:
			if i := slices.IndexFunc(s.log, func(e relay.Entry) bool { return !e.Event.Time.Before(since) }); i >= 0 {
				at = s.removed + i
			}
		}
		_, err := s.create(name, at)
		return err
	})
}

// create makes a destination that begins behind the first entries, removed ones included. The store is locked.
func (s *Store) create(name string, entries int) (*destination, error) {
	if s.destinations[name] != nil {
		return nil, fmt.Errorf("memstore: %w: %q: choose another name, or remove it first", relay.ErrDestinationExists, name)
	}
	at := place{read: entries}
	for _, entry := range s.log[:entries-s.removed] {
		at.highest = max(at.highest, entry.Seq)
	}
	s.places[relay.Lane{Destination: name, Index: 0, Of: 1}] = at
	return s.destination(name, 1), nil
}

// CreateReplay implements relay.ReplayStore.
func (s *Store) CreateReplay(ctx context.Context, name string, f relay.EventFilter, by string) (created relay.Destination, err error) {
	if err := relay.ValidDestination(name); err != nil {
		return created, err
	}
	if err := f.Validate(); err != nil {
		return created, err
	}
	err = s.do(ctx, func() error {
		first := slices.IndexFunc(s.log, func(e relay.Entry) bool { return f.Matches(&e.Event) })
		if first < 0 {
			return fmt.Errorf("memstore: %w: check its values", relay.ErrNothingSelected)
		}
		d, err := s.create(name, s.removed+first)
		if err != nil {
			return err
		}
		d.replay = &replay{relay.Replay{Filter: f, CreatedBy: by}, s.length()}
		created = d.shown(name)
		return nil
	})
	return created, err
}

// CountEvents implements relay.ReplayStore.
func (s *Store) CountEvents(ctx context.Context, f relay.EventFilter) (map[string]int64, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	err := s.do(ctx, func() error {
		for _, e := range s.log {
			if f.Matches(&e.Event) {
				counts[e.Event.Type]++
			}
		}
		return nil
	})
	return counts, err
}

// RemoveDestination implements relay.ReplayStore.
func (s *Store) RemoveDestination(ctx context.Context, name string) error {
	return s.do(ctx, func() error {
		d := s.destinations[name]
		if d == nil {
			return fmt.Errorf("memstore: %w: %q: see the list of destinations", relay.ErrNoDestination, name)
		}
		others := 0
		for n, other := range s.destinations {
			if n != name && other.replay == nil {
				others++
			}
		}
		if d.replay == nil && others == 0 {
			return fmt.Errorf("memstore: destination %q is the only one that isn't a replay: create its successor first", name)
		}
		if owner := s.aliveOn(name); owner != "" {
			return fmt.Errorf("memstore: destination %q is in use by %s: stop its relays first", name, owner)
		}
		if n := len(s.list(name, func(*relay.ParkedEvent) bool { return true })); n > 0 {
			return fmt.Errorf("memstore: destination %q has %d parked events, which would be forgotten: retry or discard them first", name, n)
		}
		delete(s.destinations, name)
		for lane := range s.places {
			if lane.Destination == name {
				delete(s.places, lane)
			}
		}
		for lane := range s.leases {
			if lane.Destination == name {
				delete(s.leases, lane)
			}
		}
		for at := range s.discarded { // another of this name publishes them
			if at.destination == name {
				delete(s.discarded, at)
			}
		}
		return nil
	})
}

// aliveOn returns a relay of the destination that is alive, or "".
func (s *Store) aliveOn(name string) string {
	now := time.Now()
	for owner, r := range s.destinations[name].relays {
		if r.expires.After(now) {
			return owner
		}
	}
	for lane, l := range s.leases {
		if lane.Destination == name && l.owner != "" && l.expires.After(now) {
			return l.owner
		}
	}
	return ""
}
