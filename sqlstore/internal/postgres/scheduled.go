package postgres

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/relay"
)

// One row per event, those that aren't due into the schedule and the others into the log. Both sides compare with the same
// time: statement_timestamp() doesn't change within the statement. It is before the commit, so that nothing is early. Plan:
// two CTE Scans of one Function Scan.
const scheduleStatement = `WITH given AS MATERIALIZED (
    SELECT * FROM unnest($1::timestamptz[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::json[], $12::json[], $13::timestamptz[]) AS given (` + eventColumns + `, not_before)
), later AS (
    INSERT INTO ${scheduled} (` + eventColumns + `, not_before) SELECT * FROM given WHERE not_before > statement_timestamp()
)
` + intoLog + `given WHERE not_before IS NULL OR not_before <= statement_timestamp()`

// moveDueStatement returns the statement that moves up to limit events that are due, and returns how many it moved, whether there
// may be more, and in how many microseconds the next one is due (NULL: none is). It is one statement, and so one transaction and
// one round trip, which also works through a pooler.
//
// One mover at a time: what it moves draws its numbers while it holds the lock, and is visible before the next one has it.
// That one's snapshot may be from before: rows that the first has moved are locked by nobody and gone, and are passed over.
// 0x73757265 is "sure": a class of locks of our own.
//
// A row that a transaction is cancelling is not waited for. What is due later under its key stays, too (held): if the
// transaction rolls back, the order is still to be kept.
//
// The limit is a literal, since with a parameter a generic plan would assume a tenth of the table. Plans: Index Scan of the
// primary key, which ends at the limit; per key a range of scheduled_key, as far as its rows are free; Tid Scan for the
// delete (the rows are locked, so they are where they were). While an old snapshot is held, the index scans also go over what
// was moved since then.
func (c Config) moveDueStatement(limit int) string {
	n := strconv.Itoa(limit)
	return c.expand(`WITH mover AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(1937076837, hashtext($1)) AS alone
    WHERE (SELECT not_before FROM ${scheduled} ORDER BY not_before, n LIMIT 1) <= statement_timestamp()
), free AS MATERIALIZED (
    SELECT ctid AS place, not_before, n, key FROM ${scheduled}
    WHERE (SELECT alone FROM mover) AND not_before <= statement_timestamp()
    ORDER BY not_before, n LIMIT ` + n + ` FOR UPDATE SKIP LOCKED
), held AS MATERIALIZED (
    SELECT keys.key, first.not_before, first.n FROM (SELECT DISTINCT key FROM free WHERE key IS NOT NULL) keys CROSS JOIN LATERAL (
        SELECT s.not_before, s.n FROM ${scheduled} s WHERE s.key = keys.key AND s.n NOT IN (SELECT free.n FROM free)
        ORDER BY s.not_before, s.n LIMIT 1) first
), due AS (
    DELETE FROM ${scheduled} s WHERE s.ctid = ANY (ARRAY(
        SELECT free.place FROM free LEFT JOIN held USING (key)
        WHERE held.key IS NULL OR (free.not_before, free.n) < (held.not_before, held.n)))
    RETURNING s.*
), moved AS (
    ` + intoLog + `due ORDER BY not_before, n
    RETURNING 1
)
SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM free) >= ` + n + `,
    (SELECT greatest(extract(epoch FROM not_before - clock_timestamp()) * 1000000, 1)::bigint FROM ${scheduled}
     WHERE not_before > statement_timestamp() ORDER BY not_before, n LIMIT 1)`)
}

// In the order of writing, so that two transactions can't wait for each other. Plan: index scheduled_id, id by id.
const cancelStatement = `DELETE FROM ${scheduled} WHERE (not_before, n) IN (
    SELECT not_before, n FROM ${scheduled} WHERE id = ANY ($1::text[]) ORDER BY n FOR UPDATE)`

// scheduledFilter selects delayed events by key, type, source, ids and a range of not_before, where an empty value selects all.
const scheduledFilter = `($1 = '' OR key = $1) AND ($2 = '' OR type = $2) AND ($3 = '' OR source = $3) ` +
	`AND (cardinality($4::text[]) = 0 OR id = ANY ($4::text[])) ` +
	`AND ($5 = '' OR not_before >= nullif($5, '')::timestamptz) AND ($6 = '' OR not_before < nullif($6, '')::timestamptz)`

// scheduledColumns are a row of the schedule as row.dest takes it.
const scheduledColumns = `n, ` + eventTime + `, id, type, version, source, coalesce(key, ''), coalesce(correlation_id, id), coalesce(causation_id, ''),
       coalesce(category, ''), coalesce(headers::text, ''), data::text`

const scheduledStatement = `SELECT ` + scheduledColumns + `, not_before, written_at
FROM ${scheduled} WHERE ` + scheduledFilter + ` ORDER BY not_before, n LIMIT $7::bigint`

const revokeStatement = `WITH gone AS (DELETE FROM ${scheduled} WHERE ` + scheduledFilter + ` RETURNING *)
INSERT INTO ${cancellation} (by, event_id, type, key, source, not_before)
SELECT $7, id, type, coalesce(key, ''), source, not_before FROM gone ORDER BY not_before, n`

// Newest first. Plan: Index Scan Backward on the primary key.
const cancellationsStatement = `SELECT by, at, event_id, type, key, source, not_before
FROM (SELECT *, event_id AS id FROM ${cancellation}) cancellations WHERE ` + scheduledFilter + ` ORDER BY n DESC LIMIT $7::bigint`

func delayed(events []surepost.Event) bool {
	return slices.ContainsFunc(events, func(e surepost.Event) bool { return !e.NotBefore.IsZero() })
}

// notBefore returns the last parameter of scheduleStatement.
func notBefore(events []surepost.Event) string {
	return nullableArray(len(events), func(i int) string {
		if events[i].NotBefore.IsZero() {
			return ""
		}
		return timestamp(events[i].NotBefore)
	})
}

// MoveDue implements relay.ScheduleStore on a connection of its own, which it keeps: a pool that is busy must not delay events
// further.
func (e *Engine) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	err = e.mover.do(ctx, func(q Querier) error {
		moved, next, err = e.MoveDueOn(ctx, q, limit)
		return err
	})
	return moved, next, err
}

// MoveDueOn is MoveDue on the caller's connection.
func (e *Engine) MoveDueOn(ctx context.Context, q Querier, limit int) (moved int, next time.Duration, err error) {
	var n int64
	var more bool
	var micros *int64
	_, err = queryRow(ctx, q, e.config.moveDueStatement(limit), []any{"schedule " + e.config.name("")}, &n, &more, &micros)
	switch {
	case err != nil:
		return 0, 0, e.explain("move delayed events into the log", err)
	case more:
		return int(n), 0, nil
	case micros == nil:
		return int(n), relay.NeverDue, nil
	case *micros > int64(relay.NeverDue/time.Microsecond): // in three centuries
		return int(n), relay.NeverDue - 1, nil
	}
	return int(n), time.Duration(*micros) * time.Microsecond, nil
}

// Cancel takes events out of the schedule, and returns how many.
func (e *Engine) Cancel(ctx context.Context, q Querier, ids []string) (int, error) {
	n, err := q.Exec(ctx, e.sql.cancel, textArray(len(ids), func(i int) string { return ids[i] }))
	return int(n), e.explain("cancel delayed events", err)
}

// Scheduled lists delayed events, those that are due first first.
func (e *Engine) Scheduled(ctx context.Context, f relay.ScheduledFilter, limit int) (list []relay.ScheduledEvent, err error) {
	err = e.onConn(ctx, func(q Querier) error {
		list = nil
		rows, err := q.Query(ctx, e.sql.scheduled, append(scheduledArgs(f), int64(limit))...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r row
			var due, written time.Time
			if err := rows.Scan(append(r.dest(), &due, &written)...); err != nil {
				return err
			}
			s := relay.ScheduledEvent{Event: r.entry().Event, WrittenAt: written.UTC()}
			s.Event.NotBefore = due.UTC()
			list = append(list, s)
		}
		return rows.Err()
	})
	return list, e.explain("list delayed events", err)
}

// CancelScheduled takes delayed events back for an operator, and returns how many.
func (e *Engine) CancelScheduled(ctx context.Context, f relay.ScheduledFilter, by string) (affected int64, err error) {
	const what = "cancel delayed events"
	if err := operator.Check(by); err != nil {
		return 0, e.explain(what, err)
	}
	err = e.onConn(ctx, func(q Querier) error {
		affected, err = q.Exec(ctx, e.sql.revoke, append(scheduledArgs(f), by)...)
		return err
	})
	return affected, e.explain(what, err)
}

// Cancellations lists the delayed events that operators took back, newest first.
func (e *Engine) Cancellations(ctx context.Context, f relay.ScheduledFilter, limit int) (list []relay.Cancellation, err error) {
	err = e.onConn(ctx, func(q Querier) error {
		list = nil
		rows, err := q.Query(ctx, e.sql.cancellations, append(scheduledArgs(f), int64(limit))...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c relay.Cancellation
			if err := rows.Scan(&c.By, &c.At, &c.EventID, &c.Type, &c.Key, &c.Source, &c.NotBefore); err != nil {
				return err
			}
			c.At, c.NotBefore = c.At.UTC(), c.NotBefore.UTC()
			list = append(list, c)
		}
		return rows.Err()
	})
	return list, e.explain("list cancelled events", err)
}

func scheduledArgs(f relay.ScheduledFilter) []any {
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return timestamp(t)
	}
	return []any{f.Key, f.Type, f.Source, textArray(len(f.IDs), func(i int) string { return f.IDs[i] }), at(f.Since), at(f.Until)}
}
