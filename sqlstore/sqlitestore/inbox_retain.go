package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/surepost/surepost/inbox"
)

var _ inbox.Pruner = (*Store)(nil)

// inboxPage is how many records are looked at at once.
const inboxPage = 1000

// PruneInbox implements inbox.Pruner. It looks through the whole inbox, which has no index by time so that recording costs
// nothing more, page by page and without a lock; what is old in a page is removed in small transactions, as by Retain.
func (s *Store) PruneInbox(ctx context.Context, window time.Duration) (report inbox.PruneReport, err error) {
	if window <= 0 {
		return report, fmt.Errorf("sqlitestore: the dedupe window is %v: use a positive duration", window)
	}
	if s.db == nil {
		return report, errNoDB
	}
	before := micros(time.Now().Add(-window))
	if err = s.pruneAttempts(ctx, before, &report); err == nil {
		err = s.pruneRecords(ctx, before, &report)
	}
	if err == nil {
		err = ctx.Err()
	}
	var busy busyError
	if err = explain("remove old records of the inbox", err); errors.As(err, &busy) {
		report.Held = append(report.Held, errWriting)
		return report, nil
	}
	return report, err
}

func (s *Store) pruneAttempts(ctx context.Context, before int64, report *inbox.PruneReport) error {
	var some bool
	if err := s.db.QueryRowContext(ctx, s.sql.oldAttempts, before).Scan(&some); err != nil || !some {
		return err
	}
	return s.piecemeal(ctx, func(tx *sql.Tx, most int64) (removed int64, err error) {
		removed, err = exec(ctx, tx, s.sql.pruneAttempts, before, most)
		report.Attempts += removed
		return removed, err
	})
}

func (s *Store) pruneRecords(ctx context.Context, before int64, report *inbox.PruneReport) error {
	consumers, err := column(ctx, s.db, s.sql.consumers)
	if err != nil {
		return err
	}
	for _, consumer := range consumers {
		for from, more := "", true; more && ctx.Err() == nil; {
			var last string
			var looked int64
			var some bool
			if err := s.db.QueryRowContext(ctx, s.sql.inboxPage, before, consumer, from, inboxPage).Scan(&last, &looked, &some); err != nil {
				return err
			}
			if some {
				err := s.piecemeal(ctx, func(tx *sql.Tx, most int64) (removed int64, err error) {
					removed, err = exec(ctx, tx, s.sql.pruneInbox, consumer, consumer, from, last, before, most)
					report.Removed += removed
					return removed, err
				})
				if err != nil {
					return err
				}
			}
			from, more = last, looked == inboxPage // the last record is the next page's first
		}
	}
	return nil
}
