package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/internal/mysqlerr"
)

// Transact implements inbox.Store. The transaction has the session's isolation level.
//
// work must return the errors of its statements. After a deadlock, MySQL has rolled back the whole transaction and runs
// what follows without one: a handler that passes over such an error would have part of its effects. It is found
// before the commit, and an error then.
func (s *Store) Transact(
	ctx context.Context, consumer string, eventIDs []string, work func(tx *sql.Tx, first []bool) error,
) error {
	if s.db == nil {
		return ErrNoPool
	}
	for try := 1; ; try++ {
		recorded := false
		err := transact(ctx, s.db, sql.LevelDefault, func(tx *sql.Tx) error {
			first, err := s.record(ctx, tx, consumer, eventIDs)
			if err != nil {
				return err
			}
			recorded = true
			if err := work(tx, first); err != nil {
				return err
			}
			return s.intact(ctx, tx, consumer, eventIDs, first)
		})
		// Copies that waited for one that rolled back deadlock with each other; one that waited for a commit is told by
		// MariaDB 11.6 and later that its snapshot is too old, where it has one. Nothing was done yet.
		again := slices.Contains([]int{mysqlerr.Deadlock, mysqlerr.RecordChanged}, mysqlerr.Find(err))
		if recorded || !again || try == deadlockTries {
			return err
		}
	}
}

// errTransactionLost is the handler's fault.
var errTransactionLost = errors.New("mysqlstore: the server had rolled back the transaction before its end (a deadlock or a " +
	"lock timeout, error 1213 or 1205), and the handler went on without it: return the errors of its statements")

// intact reports an error if the transaction that has recorded the events isn't the current one any more.
func (s *Store) intact(ctx context.Context, tx *sql.Tx, consumer string, eventIDs []string, first []bool) error {
	i := slices.Index(first, true)
	if i < 0 {
		return nil // nothing was done
	}
	var n int
	if err := tx.QueryRowContext(ctx, s.sql.recorded, []byte(consumer), []byte(eventIDs[i])).Scan(&n); err != nil {
		return explain("look after the record of the handled events", err)
	}
	if n == 0 {
		return errTransactionLost
	}
	return nil
}

// Record notes in tx that consumer handles the event, and returns false if that was noted before: an inbox for
// transactions that the caller opens. If another open transaction is noting the same, it waits for that one's end. Then
// this may have to be tried again: after that one's rollback because of a deadlock (error 1213), after its commit
// because this transaction's snapshot is too old (1020, MariaDB 11.6 and later).
func (s *Store) Record(ctx context.Context, tx *sql.Tx, consumer, eventID string) (first bool, err error) {
	recorded, err := s.record(ctx, tx, consumer, []string{eventID})
	return err == nil && recorded[0], err
}

// record notes that consumer handles the events, whose ids are distinct, and reports of each whether it is the first to
// do so. Ids are recorded in their order, so that two transactions can't wait for each other: each holds only ids
// below the one that it waits for.
func (s *Store) record(ctx context.Context, tx *sql.Tx, consumer string, eventIDs []string) (first []bool, err error) {
	for _, id := range eventIDs {
		if err := recordable(consumer, id); err != nil {
			return nil, err
		}
	}
	const atOnce = 500
	known := map[string]bool{}
	for chunk := range slices.Chunk(slices.Sorted(slices.Values(eventIDs)), atOnce) {
		args := make([]any, 0, 2*len(chunk))
		for _, id := range chunk {
			args = append(args, []byte(consumer), []byte(id))
		}
		result, err := tx.ExecContext(ctx, s.sql.record+placeholders(len(chunk), 2)+recordedAgain, args...)
		if err != nil {
			return nil, explain("record the handled events", err)
		}
		affected, err := result.RowsAffected()
		switch {
		case err != nil:
			return nil, explain("record the handled events", err)
		case affected == int64(len(chunk)): // all new
		case affected == 2*int64(len(chunk)): // all known
			for _, id := range chunk {
				known[id] = true
			}
		default:
			if err := s.tellApart(ctx, tx, consumer, chunk, known); err != nil {
				return nil, explain("record the handled events", err)
			}
		}
	}
	first = make([]bool, len(eventIDs))
	for i, id := range eventIDs {
		first[i] = !known[id]
	}
	return first, nil
}

// tellApart notes which of the ids were known when they were recorded: those that were counted as copies. A transaction
// sees its own changes at every isolation level, whenever its snapshot was taken.
func (s *Store) tellApart(ctx context.Context, tx *sql.Tx, consumer string, eventIDs []string, known map[string]bool) error {
	fresh, err := column[string](tx.QueryContext(ctx, s.sql.recordedNew+texts(eventIDs), []byte(consumer)))
	if err != nil {
		return err
	}
	for _, id := range eventIDs {
		known[id] = !slices.Contains(fresh, id)
	}
	return nil
}

// recordable refuses names that a server without a strict sql_mode would cut off, and so take for others.
func recordable(consumer, eventID string) error {
	for _, name := range []string{consumer, eventID} {
		if len(name) > surepost.MaxNameBytes {
			return inbox.Permanent(fmt.Errorf("mysqlstore: %w: %.40q… is %d bytes long, and a consumer's name or an event's id has at most %d",
				surepost.ErrInvalidEvent, name, len(name), surepost.MaxNameBytes))
		}
	}
	return nil
}

// StartAttempt implements inbox.AttemptStore.
func (s *Store) StartAttempt(ctx context.Context, consumer, eventID string, limit int) (unfinished int, err error) {
	if err := recordable(consumer, eventID); err != nil {
		return 0, err
	}
	err = s.own(ctx, func(tx *sql.Tx) error {
		about := []any{[]byte(consumer), []byte(eventID)}
		if _, err := tx.ExecContext(ctx, s.sql.begun, about...); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, s.sql.unfinished, about...).Scan(&unfinished); err != nil || unfinished >= limit {
			return err
		}
		_, err := tx.ExecContext(ctx, s.sql.started, about...)
		return err
	})
	return unfinished, explain("note the start of an attempt", err)
}

// FinishAttempt implements inbox.AttemptStore.
func (s *Store) FinishAttempt(ctx context.Context, consumer, eventID, failure string) error {
	return explain("note the end of an attempt", s.own(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, s.sql.finished, nullable(noteText(failure)), []byte(consumer), []byte(eventID))
		return err
	}))
}

// ForgetAttempts implements inbox.AttemptStore.
func (s *Store) ForgetAttempts(ctx context.Context, consumer, eventID string) error {
	return explain("remove the record of attempts", s.own(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, s.sql.forget, []byte(consumer), []byte(eventID))
		return err
	}))
}

// noteText returns valid UTF-8 that is no longer than is read.
func noteText(text string) string {
	const limit = 4 << 10
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}

// column reads and closes a result of one column.
func column[T any](rows *sql.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var value T
		if err := rows.Scan(&value); err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, rows.Err()
}
