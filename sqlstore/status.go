package sqlstore

import (
	"context"

	"github.com/surepost/surepost/relay"
)

// Status returns how the outbox stands: destinations, lanes and their backlog, parked and scheduled events, and what it
// takes on disk. It may be called often: it costs some index probes for each lane, however long the log is, and the first
// 10,000 rows behind the cursor of a lane that is behind. Checkpoints follow publication by up to 100 ms, and so do the
// backlog and the age of the oldest unpublished event.
func (s *Store) Status(ctx context.Context) (relay.OutboxStatus, error) {
	return s.engine.OutboxStatus(ctx)
}
