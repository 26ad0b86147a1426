package mysqlstore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surepost/surepost/inbox"
)

var _ inbox.Pruner = (*Store)(nil)

// inboxPage is how many records are looked at, and removed at most, at once.
const inboxPage = 1000

// PruneInbox implements inbox.Pruner. It looks through the whole inbox, which has no index by time so that recording costs nothing more,
// page by page and without a lock. What is old in a page is removed in a transaction of its own, which waits for nobody: a record
// that somebody holds, because a copy of its event has come, is left for another time.
func (s *Store) PruneInbox(ctx context.Context, window time.Duration) (report inbox.PruneReport, err error) {
	if window <= 0 {
		return report, fmt.Errorf("mysqlstore: the dedupe window is %v: use a positive duration", window)
	}
	if s.db == nil {
		return report, ErrNoPool
	}
	if err = s.pruneAttempts(ctx, window, &report); err == nil {
		err = s.pruneRecords(ctx, window, &report)
	}
	return report, explain("remove old records of the inbox", err)
}

// pruneAttempts forgets attempts at events that were dead-lettered by the broker, so that no consumer did.
func (s *Store) pruneAttempts(ctx context.Context, window time.Duration, report *inbox.PruneReport) error {
	for {
		var removed int64
		err := s.own(ctx, func(tx *sql.Tx) error {
			removed = 0
			rows, err := tx.QueryContext(ctx, s.sql.oldAttempts, window.Microseconds(), inboxPage)
			if err != nil {
				return err
			}
			defer rows.Close()
			var old [][2]string
			for rows.Next() {
				var consumer, id []byte
				if err := rows.Scan(&consumer, &id); err != nil {
					return err
				}
				old = append(old, [2]string{hex.EncodeToString(consumer), hex.EncodeToString(id)})
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(old) == 0 {
				return err
			}
			removed, err = prune(ctx, tx, s.sql.pruneAttempts, old)
			return err
		})
		if err != nil {
			return err
		}
		if report.Attempts += removed; removed < inboxPage {
			return nil
		}
	}
}

func (s *Store) pruneRecords(ctx context.Context, window time.Duration, report *inbox.PruneReport) error {
	consumers, err := column[[]byte](s.db.QueryContext(ctx, s.sql.consumers))
	if err != nil {
		return err
	}
	for _, consumer := range consumers {
		for from, more := []byte{}, true; more; {
			var last []byte
			var looked, old int
			if err := s.db.QueryRowContext(ctx, s.sql.inboxPage, window.Microseconds(), consumer, from, inboxPage).Scan(&last, &looked, &old); err != nil {
				return err
			}
			if old > 0 {
				removed, err := s.prunePage(ctx, consumer, from, last, window)
				if err != nil {
					return err
				}
				report.Removed += removed
			}
			from, more = last, looked == inboxPage // the last record is the next page's first
		}
	}
	return nil
}

// prunePage removes what is old of a consumer's records between two, both included.
func (s *Store) prunePage(ctx context.Context, consumer, from, to []byte, window time.Duration) (removed int64, err error) {
	err = s.own(ctx, func(tx *sql.Tx) error {
		removed = 0
		ids, err := column[[]byte](tx.QueryContext(ctx, s.sql.oldRecords, consumer, from, to, window.Microseconds(), inboxPage))
		if err != nil || len(ids) == 0 {
			return err
		}
		old := make([]string, len(ids))
		for i, id := range ids {
			old[i] = hex.EncodeToString(id)
		}
		removed, err = prune(ctx, tx, s.sql.pruneInbox, old, consumer)
		return err
	})
	return removed, err
}

// prune runs a statement that removes what a list says.
func prune(ctx context.Context, tx *sql.Tx, statement string, list any, more ...any) (removed int64, err error) {
	text, err := json.Marshal(list)
	if err != nil {
		return 0, err
	}
	result, err := tx.ExecContext(ctx, statement, append([]any{string(text)}, more...)...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
