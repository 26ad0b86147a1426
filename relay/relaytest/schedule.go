package relaytest

import (
	"context"
	"time"

	"github.com/surepost/surepost/relay"
)

// MoveDue implements relay.ScheduleStore. The schedule of a store without one is empty.
func (s *store) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	if err := s.writable(); err != nil {
		return 0, 0, err
	}
	schedule, ok := s.Store.(relay.ScheduleStore)
	if !ok {
		return 0, relay.NeverDue, nil
	}
	return schedule.MoveDue(ctx, limit)
}
