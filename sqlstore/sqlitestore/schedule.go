package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

var (
	_ outbox.Scheduler[*sql.Tx] = (*Store)(nil)
	_ relay.ScheduleStore       = (*Store)(nil)
)

// Schedule implements outbox.Scheduler. What is due is decided by the machine's clock, which all processes that use the
// file share.
func (s *Store) Schedule(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
	now := time.Now()
	var due, later []surepost.Event
	for _, e := range events {
		if e.NotBefore.After(now) {
			later = append(later, e)
		} else {
			due = append(due, e)
		}
	}
	if err := s.Append(ctx, tx, due); err != nil {
		return err
	}
	for chunk := range slices.Chunk(later, rowsPerInsert) {
		args := make([]any, 0, len(chunk)*(eventWidth+2))
		for i := range chunk {
			var err error
			if args, err = appendEventArgs(append(args, micros(chunk[i].NotBefore), micros(now)), &chunk[i]); err != nil {
				return err
			}
		}
		statement := s.sql.scheduleHead + s.sql.scheduleRow + strings.Repeat(`, `+s.sql.scheduleRow, len(chunk)-1)
		if _, err := tx.ExecContext(ctx, statement, args...); err != nil {
			return explain("write delayed events", err)
		}
	}
	return nil
}

// Cancel implements outbox.Scheduler. Like Append it takes the file's write lock.
func (s *Store) Cancel(ctx context.Context, tx *sql.Tx, ids []string) (int, error) {
	list, err := json.Marshal(ids)
	if err != nil {
		return 0, err
	}
	n, err := exec(ctx, tx, s.sql.cancel, string(list))
	return int(n), explain("cancel delayed events", err)
}

// MoveDue implements relay.ScheduleStore. It waits for the file's write lock, for up to busy_timeout, where something is due.
func (s *Store) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	if s.db == nil {
		return 0, 0, errNoDB
	}
	// Reading waits for nobody: nothing is locked until something is due.
	next, err = s.firstDue(ctx, s.db)
	if err != nil || next > 0 {
		return 0, next, err
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		const doing = "move delayed events into the log"
		now := micros(time.Now())
		n, err := exec(ctx, tx, s.sql.move, now, int64(limit))
		if err != nil {
			return explain(doing, err)
		}
		if _, err := tx.ExecContext(ctx, s.sql.moved, now, int64(limit)); err != nil {
			return explain(doing, err)
		}
		moved = int(n)
		next, err = s.firstDue(ctx, tx)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return moved, next, nil
}

// firstDue returns how long it is until the first event is due.
func (s *Store) firstDue(ctx context.Context, q querier) (time.Duration, error) {
	var first sql.NullInt64
	if err := q.QueryRowContext(ctx, s.sql.firstDue).Scan(&first); err != nil {
		return 0, explain("see when the next delayed event is due", err)
	}
	if !first.Valid {
		return relay.NeverDue, nil
	}
	return max(time.Until(time.UnixMicro(first.Int64)), 0), nil
}

// Scheduled lists delayed events in the order in which they become due, at most limit.
func (s *Store) Scheduled(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error) {
	const doing = "list delayed events"
	if s.db == nil {
		return nil, errNoDB
	}
	args, err := scheduledArgs(filter)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, s.sql.scheduled, append(args, int64(limit))...)
	if err != nil {
		return nil, explain(doing, err)
	}
	defer rows.Close()
	var list []relay.ScheduledEvent
	for rows.Next() {
		var r row
		var due, written int64
		if err := rows.Scan(append(r.dest(), &due, &written)...); err != nil {
			return nil, explain(doing, err)
		}
		d := relay.ScheduledEvent{Event: r.entry().Event, WrittenAt: timeOf(written)}
		d.Event.NotBefore = timeOf(due)
		list = append(list, d)
	}
	return list, explain(doing, rows.Err())
}

// CancelScheduled takes delayed events back, and returns how many. Who does so is recorded (Cancellations).
func (s *Store) CancelScheduled(ctx context.Context, filter relay.ScheduledFilter, by string) (affected int64, err error) {
	const doing = "cancel delayed events"
	if err := operator.Check(by); err != nil {
		return 0, explain(doing, err)
	}
	args, err := scheduledArgs(filter)
	if err != nil {
		return 0, err
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, s.sql.noteRevoke, append([]any{by, micros(time.Now())}, args...)...); err != nil {
			return explain(doing, err)
		}
		affected, err = exec(ctx, tx, s.sql.revoke, args...)
		return explain(doing, err)
	})
	if err != nil {
		return 0, err
	}
	return affected, nil
}

// Cancellations lists the delayed events that operators took back (CancelScheduled), newest first, at most limit.
func (s *Store) Cancellations(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.Cancellation, error) {
	const doing = "list cancelled events"
	if s.db == nil {
		return nil, errNoDB
	}
	args, err := scheduledArgs(filter)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, s.sql.cancellations, append(args, int64(limit))...)
	if err != nil {
		return nil, explain(doing, err)
	}
	defer rows.Close()
	var list []relay.Cancellation
	for rows.Next() {
		var c relay.Cancellation
		var at, due int64
		if err := rows.Scan(&c.By, &at, &c.EventID, &c.Type, &c.Key, &c.Source, &due); err != nil {
			return nil, explain(doing, err)
		}
		c.At, c.NotBefore = timeOf(at), timeOf(due)
		list = append(list, c)
	}
	return list, explain(doing, rows.Err())
}

// scheduledArgs returns the parameters of scheduledFilter.
func scheduledArgs(f relay.ScheduledFilter) ([]any, error) {
	ids := []byte("[]")
	if len(f.IDs) > 0 {
		var err error
		if ids, err = json.Marshal(f.IDs); err != nil {
			return nil, err
		}
	}
	since, until := int64(math.MinInt64), int64(math.MaxInt64)
	if !f.Since.IsZero() {
		since = micros(f.Since)
	}
	if !f.Until.IsZero() {
		until = micros(f.Until)
	}
	return []any{f.Key, f.Key, f.Type, f.Type, f.Source, f.Source, string(ids), string(ids), since, until}, nil
}
