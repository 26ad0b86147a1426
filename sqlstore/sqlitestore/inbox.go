package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"
)

// idsPerInsert is how many ids one statement records at most.
const idsPerInsert = 512

// Transact implements inbox.Store. Its transaction holds the file's write lock from its beginning: handlers run one at
// a time.
func (s *Store) Transact(
	ctx context.Context, consumer string, eventIDs []string, work func(tx *sql.Tx, first []bool) error,
) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		first, err := s.recordAll(ctx, tx, consumer, eventIDs)
		if err != nil {
			err = explain("record the handled events", err)
			if errors.Is(err, context.DeadlineExceeded) {
				err = busyError{err} // the time was spent on waiting for the lock, and none of it by the handler
			}
			return err
		}
		return work(tx, first)
	})
}

// Record notes in tx that consumer handles the event, and returns false if that was noted before: an inbox for
// transactions that the caller opens. tx holds the file's write lock from here on, as with Append.
func (s *Store) Record(ctx context.Context, tx *sql.Tx, consumer, eventID string) (first bool, err error) {
	first, err = s.record(ctx, tx, consumer, eventID)
	return first, explain("record the handled events", err)
}

func (s *Store) record(ctx context.Context, tx *sql.Tx, consumer, eventID string) (first bool, err error) {
	affected, err := exec(ctx, tx, s.sql.record, consumer, eventID, micros(time.Now()))
	return affected == 1, err
}

// recordAll notes several distinct ids, and reports of each whether this is the first time.
func (s *Store) recordAll(ctx context.Context, tx *sql.Tx, consumer string, eventIDs []string) (first []bool, err error) {
	if len(eventIDs) == 1 {
		one, err := s.record(ctx, tx, consumer, eventIDs[0])
		return []bool{one}, err
	}
	now := micros(time.Now())
	recorded := make(map[string]bool, len(eventIDs))
	for chunk := range slices.Chunk(eventIDs, idsPerInsert) {
		args := make([]any, 0, 3*len(chunk))
		for _, id := range chunk {
			args = append(args, consumer, id, now)
		}
		query := s.sql.recordHead + `(?, ?, ?)` + strings.Repeat(`, (?, ?, ?)`, len(chunk)-1) + s.sql.recordTail
		ids, err := column(ctx, tx, query, args...)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			recorded[id] = true
		}
	}
	first = make([]bool, len(eventIDs))
	for i, id := range eventIDs {
		first[i] = recorded[id]
	}
	return first, nil
}

// column returns a result of one text column.
func column(ctx context.Context, q querier, query string, args ...any) (list []string, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, rows.Err()
}

// StartAttempt implements inbox.AttemptStore.
func (s *Store) StartAttempt(ctx context.Context, consumer, eventID string, limit int) (unfinished int, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		now := micros(time.Now())
		noted, err := exec(ctx, tx, s.sql.started, consumer, eventID, now, now, int64(limit))
		if err != nil {
			return explain("note the start of an attempt", err)
		}
		var started int64 // and not finished
		if err := tx.QueryRowContext(ctx, s.sql.unfinished, consumer, eventID).Scan(&started); err != nil {
			return explain("note the start of an attempt", err)
		}
		unfinished = int(started - noted) // without this one
		return nil
	})
	return unfinished, err
}

// FinishAttempt implements inbox.AttemptStore.
func (s *Store) FinishAttempt(ctx context.Context, consumer, eventID, failure string) error {
	if s.db == nil {
		return errNoDB
	}
	_, err := s.db.ExecContext(ctx, s.sql.finished, noteText(failure), consumer, eventID)
	return explain("note the end of an attempt", err)
}

// ForgetAttempts implements inbox.AttemptStore.
func (s *Store) ForgetAttempts(ctx context.Context, consumer, eventID string) error {
	if s.db == nil {
		return errNoDB
	}
	_, err := s.db.ExecContext(ctx, s.sql.forget, consumer, eventID)
	return explain("remove the record of attempts", err)
}

// noteText returns text as valid UTF-8 without NUL, and no longer than is read.
func noteText(text string) string {
	const limit = 4 << 10
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, ""), "\x00", "")
}
