package memstore

import (
	"context"
	"slices"
	"time"

	"github.com/surepost/surepost/relay"
)

// Status returns how the outbox stands, of one moment. It takes no disk, so that the sizes are 0.
func (s *Store) Status(ctx context.Context) (status relay.OutboxStatus, err error) {
	err = s.do(ctx, func() error {
		if len(s.log) > 0 {
			status.OldestEvent = s.log[0].Event.Time
		}
		lanes := map[string]int{}
		for lane := range s.places {
			lanes[lane.Destination] = max(lanes[lane.Destination], lane.Of)
		}
		for lane := range s.leases {
			lanes[lane.Destination] = max(lanes[lane.Destination], lane.Index+1)
		}
		for at := range s.parked {
			lanes[at.destination] = max(lanes[at.destination], 1)
		}
		if len(lanes) == 0 {
			lanes[relay.DefaultDestination] = 1
		}
		for name, n := range lanes {
			status.Destinations = append(status.Destinations, s.destinationStatus(name, n))
		}
		slices.SortFunc(status.Destinations, func(a, b relay.DestinationStatus) int { return cmp.Compare(a.Name, b.Name) })
		return nil
	})
	return status, err
}
