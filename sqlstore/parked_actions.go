package sqlstore

import (
	"context"

	"github.com/surepost/surepost/relay"
)

// ParkedActions lists what operators did to parked events, newest first, at most limit.
func (s *Store) ParkedActions(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedAction, error) {
	return s.engine.ParkedActions(ctx, filter, limit)
}
