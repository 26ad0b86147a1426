package sqlstore

import (
	"context"

	"github.com/surepost/surepost/relay"
)

var _ relay.Retainer = (*Store)(nil)

// Retain implements relay.Retainer. The role that calls it needs the right to truncate the leaves of the outbox.
func (s *Store) Retain(ctx context.Context, retention relay.Retention) (relay.RetentionReport, error) {
	return s.engine.Retain(ctx, retention)
}
