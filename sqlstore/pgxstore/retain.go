package pgxstore

import (
	"context"
	"time"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

var (
	_ relay.Retainer = (*Store)(nil)
	_ inbox.Pruner   = (*Store)(nil)
)

// Retain implements relay.Retainer. The role that calls it needs the right to truncate the leaves of the outbox.
func (s *Store) Retain(ctx context.Context, retention relay.Retention) (relay.RetentionReport, error) {
	return s.engine.Retain(ctx, retention)
}

// PruneInbox implements inbox.Pruner. The role that calls it needs the rights to truncate the leaves of the inbox, and to delete from
// them.
func (s *Store) PruneInbox(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
	return s.engine.PruneInbox(ctx, window)
}
