package mysqlstore

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
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

// Schedule implements outbox.Scheduler. It asks the server for the time, since only INSERT … VALUES draws the log's numbers
// as its rows are written.
func (s *Store) Schedule(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
	const doing = "write delayed events"
	var text string
	if err := tx.QueryRowContext(ctx, "SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)").Scan(&text); err != nil {
		return explain(doing, err)
	}
	now := readTimestamp(text)
	var due []surepost.Event
	var rows [][]any
	var sizes []int
	var ids []string
	for _, e := range events {
		if !e.NotBefore.After(now) {
			due = append(due, e)
			continue
		}
		event, err := eventRow(&e)
		if err != nil {
			return err
		}
		row := append([]any{timestamp(e.NotBefore)}, event...)
		rows, sizes, ids = append(rows, row), append(sizes, rowBytes(row)), append(ids, e.ID)
	}
	if err := s.Append(ctx, tx, due); err != nil {
		return err
	}
	insert := func(rows [][]any) error {
		_, err := tx.ExecContext(ctx, s.sql.scheduleRows+placeholders(len(rows), len(rows[0])), slices.Concat(rows...)...)
		return explain(doing, err)
	}
	return s.inChunks(ctx, tx, rows, sizes, insert, func(i int) string { return ids[i] })
}

// Cancel implements outbox.Scheduler. At REPEATABLE READ, cancelling ids that aren't there keeps others from scheduling
// their neighbours until tx ends (gap locks): READ COMMITTED doesn't.
func (s *Store) Cancel(ctx context.Context, tx *sql.Tx, ids []string) (cancelled int, err error) {
	const doing = "cancel delayed events"
	for chunk := range slices.Chunk(ids, removeAtOnce) {
		chosen, err := column[int64](tx.QueryContext(ctx, s.sql.chosenByID+texts(chunk)+" FOR UPDATE"))
		if err != nil {
			return 0, explain(doing, err)
		}
		if err := s.removeDelayed(ctx, tx, chosen); err != nil {
			return 0, explain(doing, err)
		}
		cancelled += len(chosen)
	}
	return cancelled, nil
}

func (s *Store) removeDelayed(ctx context.Context, tx *sql.Tx, chosen []int64) error {
	if len(chosen) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, s.sql.removeDelayed, array(chosen))
	return err
}

// delayedRow is a row of the schedule.
type delayedRow struct {
	row
	notBefore string
}

func (d *delayedRow) event() surepost.Event {
	e := d.entry().Event
	e.NotBefore = readTimestamp(d.notBefore)
	return e
}

// before reports whether it is due before the other one.
func (d *delayedRow) before(notBefore string, n int64) bool {
	return d.notBefore < notBefore || d.notBefore == notBefore && d.seq < n
}

// delayedRows reads and closes a result of not_before and delayedColumns.
func delayedRows(rows *sql.Rows, err error) ([]delayedRow, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []delayedRow
	for rows.Next() {
		var d delayedRow
		if err := rows.Scan(append([]any{&d.notBefore}, d.dest()...)...); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

// MoveDue implements relay.ScheduleStore. What it moves draws its numbers while it holds the mover's row, which the next one
// gets when it has committed: that is the order that the log's argument asks for.
func (s *Store) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	const doing = "move delayed events into the log"
	if s.db == nil {
		return 0, 0, ErrNoPool
	}
	// Reading waits for nobody, and locks nothing.
	next, err = s.nextDue(ctx, s.db)
	if err != nil || next > 0 {
		return 0, next, explain(doing, err)
	}
	err = s.own(ctx, func(tx *sql.Tx) error {
		moved, next = 0, 0
		alone, err := column[int64](tx.QueryContext(ctx, s.sql.mover))
		if err != nil || len(alone) == 0 {
			return err // somebody else is at it
		}
		due, err := s.due(ctx, tx, limit)
		if err != nil || len(due) == 0 {
			return err
		}
		events, numbers := make([]surepost.Event, len(due)), make([]int64, len(due))
		for i := range due {
			events[i], numbers[i] = due[i].entry().Event, due[i].seq
		}
		if err := s.Append(ctx, tx, events); err != nil {
			return err
		}
		if err := s.removeDelayed(ctx, tx, numbers); err != nil {
			return err
		}
		moved = len(due)
		next, err = s.nextDue(ctx, tx)
		return err
	})
	if err != nil {
		return 0, 0, explain(doing, err)
	}
	return moved, next, nil
}

// due returns events that are due, locked, in their order, and none behind one of its key that somebody else has locked.
func (s *Store) due(ctx context.Context, tx *sql.Tx, limit int) ([]delayedRow, error) {
	free, err := delayedRows(tx.QueryContext(ctx, s.sql.due+strconv.Itoa(limit)+skipLocked))
	if err != nil || len(free) == 0 {
		return nil, err
	}
	last := free[len(free)-1]
	// Cancel locks by ids first and then waits for the row, so what it has come to is left to it: deleting the row would
	// wait for the lock on the id, and each for the other.
	ids := make([]string, len(free))
	for i := range free {
		ids[i] = free[i].id
	}
	chosen, err := column[int64](tx.QueryContext(ctx, s.sql.chosenByID+texts(ids)+skipLocked))
	if err != nil {
		return nil, err
	}
	mine := make(map[int64]bool, len(chosen))
	for _, n := range chosen {
		mine[n] = true
	}
	free = slices.DeleteFunc(free, func(d delayedRow) bool { return !mine[d.seq] })
	// A row that is being deleted is still seen by a read that doesn't lock.
	rows, err := tx.QueryContext(ctx, s.sql.dueBefore, last.notBefore, last.notBefore, last.seq)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	held := map[string]*delayedRow{} // by key, the first one that isn't free
	for rows.Next() {
		var d delayedRow
		if err := rows.Scan(&d.seq, &d.notBefore, &d.key); err != nil {
			return nil, err
		}
		if first := held[d.key]; !mine[d.seq] && d.key != "" && (first == nil || d.before(first.notBefore, first.seq)) {
			held[d.key] = &d
		}
	}
	return slices.DeleteFunc(free, func(d delayedRow) bool {
		first := held[d.key]
		return first != nil && first.before(d.notBefore, d.seq)
	}), rows.Err()
}

// nextDue returns how long it is until the first event is due, by the server's clock.
func (s *Store) nextDue(ctx context.Context, q querier) (time.Duration, error) {
	var micros sql.NullInt64
	if err := q.QueryRowContext(ctx, s.sql.nextDue).Scan(&micros); err != nil {
		return 0, err
	}
	switch {
	case !micros.Valid:
		return relay.NeverDue, nil
	case micros.Int64 > int64(relay.NeverDue/time.Microsecond): // in three centuries
		return relay.NeverDue - 1, nil
	}
	return max(time.Duration(micros.Int64)*time.Microsecond, 0), nil
}

// Scheduled lists delayed events in the order in which they become due, at most limit.
func (s *Store) Scheduled(
	ctx context.Context, filter relay.ScheduledFilter, limit int,
) (list []relay.ScheduledEvent, err error) {
	where, args := scheduledWhere(filter)
	err = s.own(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, s.sql.scheduled+where+" ORDER BY not_before, n LIMIT "+strconv.Itoa(limit), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var d delayedRow
			var written string
			if err := rows.Scan(append([]any{&d.notBefore, &written}, d.dest()...)...); err != nil {
				return err
			}
			list = append(list, relay.ScheduledEvent{Event: d.event(), WrittenAt: readTimestamp(written)})
		}
		return rows.Err()
	})
	return list, explain("list delayed events", err)
}

// CancelScheduled takes delayed events back, and returns how many. Who does so is recorded (Cancellations).
func (s *Store) CancelScheduled(ctx context.Context, filter relay.ScheduledFilter, by string) (affected int64, err error) {
	const doing = "cancel delayed events"
	if err := operator.Check(by); err != nil {
		return 0, explain(doing, err)
	}
	where, args := scheduledWhere(filter)
	err = s.own(ctx, func(tx *sql.Tx) error {
		chosen, err := column[int64](tx.QueryContext(ctx, s.sql.chosen+where+" ORDER BY n FOR UPDATE", args...))
		if err != nil {
			return err
		}
		affected = int64(len(chosen))
		for chunk := range slices.Chunk(chosen, removeAtOnce) {
			if _, err := tx.ExecContext(ctx, s.sql.noteCancelled+numbers(chunk)+" ORDER BY not_before, n", []byte(by)); err != nil {
				return err
			}
			if err := s.removeDelayed(ctx, tx, chunk); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, explain(doing, err)
	}
	return affected, nil
}

// Cancellations lists the delayed events that operators took back (CancelScheduled), newest first, at most limit.
func (s *Store) Cancellations(
	ctx context.Context, filter relay.ScheduledFilter, limit int,
) (list []relay.Cancellation, err error) {
	where, args := scheduledWhere(filter)
	err = s.own(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, s.sql.cancellations+where+" ORDER BY n DESC LIMIT "+strconv.Itoa(limit), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c relay.Cancellation
			var at, due string
			if err := rows.Scan(&c.By, &at, &c.EventID, &c.Type, &c.Key, &c.Source, &due); err != nil {
				return err
			}
			c.At, c.NotBefore = readTimestamp(at), readTimestamp(due)
			list = append(list, c)
		}
		return rows.Err()
	})
	return list, explain("list cancelled events", err)
}

// scheduledWhere selects delayed events. An empty field selects all.
func scheduledWhere(f relay.ScheduledFilter) (where string, args []any) {
	conditions := []string{"TRUE"}
	add := func(condition string, arg any) {
		conditions, args = append(conditions, condition), append(args, arg)
	}
	if f.Key != "" {
		add("`key` = ?", []byte(f.Key))
	}
	if f.Type != "" {
		add("type = ?", []byte(f.Type))
	}
	if f.Source != "" {
		add("source = ?", []byte(f.Source))
	}
	if !f.Since.IsZero() {
		add("not_before >= ?", timestamp(f.Since))
	}
	if !f.Until.IsZero() {
		add("not_before < ?", timestamp(f.Until))
	}
	if len(f.IDs) > 0 {
		conditions = append(conditions, "id IN "+texts(f.IDs))
	}
	return strings.Join(conditions, " AND "), args
}
