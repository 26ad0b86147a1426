package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/surepost/surepost/relay"
)

// Status returns how the outbox stands, as of one moment. The store takes no disk: the sizes are 0.
func (s *Store) Status(ctx context.Context) (status relay.OutboxStatus, err error) {
	err = s.do(ctx, func() error {
		for name, lanes := range s.lanes() {
			status.Destinations = append(status.Destinations, s.destinationStatus(name, lanes))
		}
		slices.SortFunc(status.Destinations, func(a, b relay.DestinationStatus) int { return cmp.Compare(a.Name, b.Name) })
		if len(s.log) > 0 {
			status.OldestEvent = s.log[0].Event.Time
		}
		if status.Scheduled = int64(len(s.schedule)); status.Scheduled > 0 {
			status.ScheduledDue = s.schedule[0].Event.NotBefore
		}
		return nil
	})
	return status, err
}

// lanes returns the destinations, by name, and how many lanes each has. The store is locked.
func (s *Store) lanes() map[string]int {
	lanes := map[string]int{}
	for name, d := range s.destinations {
		lanes[name] = d.lanes
	}
	if len(lanes) == 0 {
		lanes[relay.DefaultDestination] = 1
	}
	return lanes
}

func (s *Store) destinationStatus(name string, lanes int) (d relay.DestinationStatus) {
	d.Name, d.Lanes = name, lanes
	for i := range lanes {
		lane := relay.Lane{Destination: name, Index: i, Of: lanes}
		is := relay.LaneStatus{Lane: lane}
		if l := s.leases[share(lane)]; l != nil {
			is.Epoch = l.epoch
			if l.owner != "" {
				is.Owner, is.Expires = l.owner, time.Until(l.expires)
			}
		}
		for _, entry := range s.log[max(s.places[lane].read-s.removed, 0):] {
			if at := entry.Event.Time; entry.Event.Slot()%lanes == i {
				is.Backlog++
				if is.OldestUnpublished.IsZero() || at.Before(is.OldestUnpublished) {
					is.OldestUnpublished = at
				}
			}
		}
		d.LanesStatus = append(d.LanesStatus, is)
	}
	if known := s.destinations[name]; known != nil {
		for owner, r := range known.relays {
			if left := time.Until(r.expires); left > 0 {
				d.Relays = append(d.Relays, relay.RelayStatus{Owner: owner, Expires: left})
			}
		}
		slices.SortFunc(d.Relays, func(a, b relay.RelayStatus) int { return cmp.Compare(a.Owner, b.Owner) })
	}
	keys := map[string]bool{}
	for _, p := range s.list(name, func(*relay.ParkedEvent) bool { return true }) {
		d.Parked++
		if d.ParkedAt.IsZero() || p.At.Before(d.ParkedAt) {
			d.ParkedAt = p.At
		}
		if key := p.Event.Key; key != "" && !p.Behind && !p.Retrying {
			keys[key] = true
		}
	}
	d.ParkedKeys = int64(len(keys))
	return d
}
