package mysqlstore

import (
	"context"
	"database/sql"
	"slices"
	"strconv"

	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/relay"
)

// RetryParked asks the relay to publish parked events again, and returns how many that concerns. Events that only
// wait behind one of their key follow by themselves once it is published. Who asks is recorded (ParkedActions).
func (s *Store) RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error) {
	return s.changeParked(ctx, "retry parked events", "retry_at IS NULL AND ", s.sql.retry, filter, relay.ParkedRetry, by)
}

// DiscardParked removes parked events for good, and returns how many. Events that waited behind them are published
// then. Who does so is recorded (ParkedActions).
func (s *Store) DiscardParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error) {
	return s.changeParked(ctx, "discard parked events", "", s.sql.discard, filter, relay.ParkedDiscard, by)
}

func (s *Store) changeParked(
	ctx context.Context, doing, only, change string, filter relay.ParkedFilter, action relay.ParkedActionKind, by string,
) (affected int64, err error) {
	if err := operator.Check(by); err != nil {
		return 0, explain(doing, err)
	}
	where, args := parkedWhere(filter)
	err = s.own(ctx, func(tx *sql.Tx) error {
		chosen, err := column[int64](tx.QueryContext(ctx, s.sql.parkedChosen+only+where+" ORDER BY n FOR UPDATE", args...))
		if err != nil {
			return err
		}
		affected = int64(len(chosen))
		for chunk := range slices.Chunk(chosen, removeAtOnce) {
			if _, err := tx.ExecContext(ctx, s.sql.noteParked+numbers(chunk)+" ORDER BY n", []byte(action), []byte(by)); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, change+numbers(chunk)); err != nil {
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

// ParkedActions lists what operators did to parked events, newest first, at most limit.
func (s *Store) ParkedActions(ctx context.Context, filter relay.ParkedFilter, limit int) (list []relay.ParkedAction, err error) {
	where, args := parkedWhere(filter)
	err = s.own(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, s.sql.parkedActions+where+" ORDER BY n DESC LIMIT "+strconv.Itoa(limit), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var a relay.ParkedAction
			var at string
			if err := rows.Scan(&a.Action, &a.By, &at, &a.Destination, &a.Seq, &a.EventID, &a.Type, &a.Key, &a.Reason); err != nil {
				return err
			}
			a.At = readTimestamp(at)
			list = append(list, a)
		}
		return rows.Err()
	})
	return list, explain("list what was done to parked events", err)
}
