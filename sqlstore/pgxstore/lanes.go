package pgxstore

import (
	"context"
	"time"

	"github.com/surepost/surepost/relay"
)

var _ relay.LaneStore = (*Store)(nil)

// Join implements relay.LaneStore.
func (s *Store) Join(
	ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
) (relay.Membership, error) {
	return s.engine.Join(ctx, destination, owner, instance, lanes, ttl)
}

// Leave implements relay.LaneStore.
func (s *Store) Leave(ctx context.Context, destination, owner, instance string) error {
	return s.engine.Leave(ctx, destination, owner, instance)
}

// SetLanes implements relay.LaneStore: it changes a destination's number of lanes, while its relays run.
func (s *Store) SetLanes(ctx context.Context, destination string, lanes int) error {
	return s.engine.SetLanes(ctx, destination, lanes)
}
