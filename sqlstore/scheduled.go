package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/internal/postgres"
)

var (
	_ outbox.Scheduler[*sql.Tx] = (*Store)(nil)
	_ relay.ScheduleStore       = (*Store)(nil)
)

// Schedule implements outbox.Scheduler.
func (s *Store) Schedule(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
	return s.engine.Append(ctx, querier{tx}, events)
}

// Cancel implements outbox.Scheduler.
func (s *Store) Cancel(ctx context.Context, tx *sql.Tx, ids []string) (int, error) {
	return s.engine.Cancel(ctx, querier{tx}, ids)
}

// MoveDue implements relay.ScheduleStore. It borrows one of db's connections.
func (s *Store) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	if s.db == nil {
		return 0, 0, postgres.ErrNoPool
	}
	return s.engine.MoveDueOn(ctx, querier{s.db}, limit)
}

// Scheduled lists delayed events in the order in which they become due, at most limit.
func (s *Store) Scheduled(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error) {
	return s.engine.Scheduled(ctx, filter, limit)
}

// CancelScheduled takes delayed events back, and returns how many. Who does so is recorded (Cancellations).
func (s *Store) CancelScheduled(ctx context.Context, filter relay.ScheduledFilter, by string) (int64, error) {
	return s.engine.CancelScheduled(ctx, filter, by)
}

// Cancellations lists the delayed events that operators took back (CancelScheduled), newest first, at most limit.
func (s *Store) Cancellations(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.Cancellation, error) {
	return s.engine.Cancellations(ctx, filter, limit)
}
