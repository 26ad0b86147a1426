package sqlitestore

import (
	"context"
	"database/sql"
	"time"

	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/relay"
)

// RetryParked asks the relay to publish parked events again, and returns how many that concerns. Events that only
// wait behind one of their key follow by themselves once it is published. Who asks is recorded (ParkedActions).
func (s *Store) RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error) {
	now := micros(time.Now())
	return s.changeParked(ctx, "retry parked events", s.sql.noteRetry, s.sql.retry, filter, relay.ParkedRetry, by, now, now)
}

// DiscardParked removes parked events for good, and returns how many. Events that waited behind them are published
// then. Who does so is recorded (ParkedActions).
func (s *Store) DiscardParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error) {
	return s.changeParked(ctx, "discard parked events", s.sql.noteDiscard, s.sql.discard, filter, relay.ParkedDiscard, by, micros(time.Now()))
}

func (s *Store) changeParked(
	ctx context.Context, doing, note, change string, filter relay.ParkedFilter, action relay.ParkedActionKind, by string,
	now int64, before ...any,
) (affected int64, err error) {
	if err := operator.Check(by); err != nil {
		return 0, explain(doing, err)
	}
	args, err := filterArgs(filter)
	if err != nil {
		return 0, err
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, note, append([]any{string(action), by, now}, args...)...); err != nil {
			return explain(doing, err)
		}
		affected, err = exec(ctx, tx, change, append(before, args...)...)
		return explain(doing, err)
	})
	if err != nil {
		return 0, err
	}
	return affected, nil
}

// ParkedActions lists what operators did to parked events, newest first, at most limit.
func (s *Store) ParkedActions(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedAction, error) {
	const doing = "list what was done to parked events"
	if s.db == nil {
		return nil, errNoDB
	}
	args, err := filterArgs(filter)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, s.sql.parkedActions, append(args, int64(limit))...)
	if err != nil {
		return nil, explain(doing, err)
	}
	defer rows.Close()
	var list []relay.ParkedAction
	for rows.Next() {
		var a relay.ParkedAction
		var at int64
		if err := rows.Scan(&a.Action, &a.By, &at, &a.Destination, &a.Seq, &a.EventID, &a.Type, &a.Key, &a.Reason); err != nil {
			return nil, explain(doing, err)
		}
		a.At = timeOf(at)
		list = append(list, a)
	}
	return list, explain(doing, rows.Err())
}
