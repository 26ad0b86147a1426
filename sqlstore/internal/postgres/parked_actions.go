package postgres

import (
	"context"
	"time"

	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/relay"
)

// noteParkedAction records what happens to the rows of "changed", in the same statement.
const noteParkedAction = `
INSERT INTO ${parked_action} (action, by, destination, seq, event_id, type, key, reason)
SELECT $6, $7, destination, seq, id, type, key, reason FROM changed ORDER BY seq`

// Newest first. Plan: Index Scan Backward on the primary key.
const parkedActionsStatement = `SELECT action, by, at, destination, seq, event_id, type, key, reason
FROM (SELECT *, event_id AS id FROM ${parked_action}) actions WHERE ` + parkedFilter + ` ORDER BY n DESC LIMIT $6::int`

// RetryParked asks the relay to publish the parked events again, and returns how many that concerns.
func (e *Engine) RetryParked(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
	return e.change(ctx, "retry parked events", e.sql.retry, f, relay.ParkedRetry, by)
}

// DiscardParked removes parked events for good, and returns how many.
func (e *Engine) DiscardParked(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
	return e.change(ctx, "discard parked events", e.sql.discard, f, relay.ParkedDiscard, by)
}

func (e *Engine) change(
	ctx context.Context, what, sql string, f relay.ParkedFilter, action relay.ParkedActionKind, by string,
) (affected int64, err error) {
	if err := operator.Check(by); err != nil {
		return 0, e.explain(what, err)
	}
	err = e.onConn(ctx, func(q Querier) error {
		affected, err = q.Exec(ctx, sql, append(filterArgs(f), string(action), by)...)
		return err
	})
	return affected, e.explain(what, err)
}

// ParkedActions lists what operators did to parked events, newest first.
func (e *Engine) ParkedActions(ctx context.Context, f relay.ParkedFilter, limit int) (list []relay.ParkedAction, err error) {
	err = e.onConn(ctx, func(q Querier) error {
		list = nil
		rows, err := q.Query(ctx, e.sql.parkedActions, append(filterArgs(f), int64(limit))...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var a relay.ParkedAction
			var action string
			var at time.Time
			if err := rows.Scan(&action, &a.By, &at, &a.Destination, &a.Seq, &a.EventID, &a.Type, &a.Key, &a.Reason); err != nil {
				return err
			}
			a.Action, a.At = relay.ParkedActionKind(action), at.UTC()
			list = append(list, a)
		}
		return rows.Err()
	})
	return list, e.explain("list what was done to parked events", err)
}
