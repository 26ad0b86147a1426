package postgres

import (
	"context"
	"strings"
)

// Record notes that consumer handles the events, whose ids are distinct, and reports of each whether it is the first
// to do so.
func (e *Engine) Record(ctx context.Context, q Querier, consumer string, eventIDs []string) (first []bool, err error) {
	sql, args := e.RecordStatement(consumer, eventIDs)
	if len(eventIDs) == 1 {
		return e.RecordedOne(q.Exec(ctx, sql, args...))
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, e.explainRecord(err)
	}
	return e.RecordedAll(eventIDs, rows)
}

// RecordStatement returns Record's statement, for callers that send it in their own way. What comes of it is read by
// RecordedOne for a single id, which is what costs least, and by RecordedAll for several.
func (e *Engine) RecordStatement(consumer string, eventIDs []string) (sql string, args []any) {
	if len(eventIDs) == 1 {
		return e.sql.record, []any{consumer, eventIDs[0], inboxLeaf(eventIDs[0])}
	}
	inLeaves := make([]int64, len(eventIDs))
	for i, id := range eventIDs {
		inLeaves[i] = inboxLeaf(id)
	}
	return e.sql.recordAll, []any{consumer, textArray(len(eventIDs), func(i int) string { return eventIDs[i] }), intArray(inLeaves)}
}

// RecordedOne takes the number of rows that the statement has affected.
func (e *Engine) RecordedOne(affected int64, err error) (first []bool, _ error) {
	if err != nil {
		return nil, e.explainRecord(err)
	}
	return []bool{affected == 1}, nil
}

// RecordedAll reads and closes the statement's rows.
func (e *Engine) RecordedAll(eventIDs []string, rows Rows) (first []bool, err error) {
	defer rows.Close()
	recorded := make(map[string]bool, len(eventIDs))
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, e.explainRecord(err)
		}
		recorded[id] = true
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, e.explainRecord(err)
	}
	first = make([]bool, len(eventIDs))
	for i, id := range eventIDs {
		first[i] = recorded[id]
	}
	return first, nil
}

func (e *Engine) explainRecord(err error) error { return e.explain("record the handled events", err) }

// StartAttempt notes that consumer begins an attempt at the event, if fewer than limit were begun and never finished.
// It returns how many those are.
func (e *Engine) StartAttempt(
	ctx context.Context, q Querier, consumer, eventID string, limit int,
) (unfinished int, err error) {
	// Attempts that others begin at the same moment may be newer than the statement's snapshot, which then says nothing,
	// or that there is room for one that wasn't noted. The next statement sees them; each try gets that far only because
	// somebody else got on.
	for {
		var before int64
		var noted bool
		found, err := queryRow(ctx, q, e.sql.started, []any{consumer, eventID, int64(limit)}, &before, &noted)
		if err != nil || noted || found && before >= int64(limit) {
			return int(before), e.explain("note the start of an attempt", err)
		}
	}
}

// FinishAttempt notes that an attempt that was begun has ended, with a failure.
func (e *Engine) FinishAttempt(ctx context.Context, q Querier, consumer, eventID, failure string) error {
	_, err := q.Exec(ctx, e.sql.finished, consumer, eventID, noteText(failure))
	return e.explain("note the end of an attempt", err)
}

// ForgetAttempts removes what was noted of attempts at the event.
func (e *Engine) ForgetAttempts(ctx context.Context, q Querier, consumer, eventID string) error {
	_, err := q.Exec(ctx, e.sql.forget, consumer, eventID)
	return e.explain("remove the record of attempts", err)
}

// noteText returns text as PostgreSQL stores it: valid UTF-8 without NUL, and no longer than is read.
func noteText(text string) string {
	const limit = 4 << 10
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}
