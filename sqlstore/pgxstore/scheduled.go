package pgxstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

var (
	_ outbox.Scheduler[pgx.Tx] = (*Store)(nil)
	_ relay.ScheduleStore      = (*Store)(nil)
)

// Schedule implements outbox.Scheduler.
func (s *Store) Schedule(ctx context.Context, tx pgx.Tx, events []surepost.Event) error {
	return s.engine.Append(ctx, querier{tx}, events)
}

// Cancel implements outbox.Scheduler.
func (s *Store) Cancel(ctx context.Context, tx pgx.Tx, ids []string) (int, error) {
	return s.engine.Cancel(ctx, querier{tx}, ids)
}

// MoveDue implements relay.ScheduleStore, on a connection of its own.
func (s *Store) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	return s.engine.MoveDue(ctx, limit)
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
