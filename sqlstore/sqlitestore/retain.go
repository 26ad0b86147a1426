package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

// An event's row doesn't say when it was written: its time is the writer's word, and may be of years ago. So Retain marks the log
// now and then: at this time, this was the highest number given out. Rows commit in the order of their numbers, and no
// number is given out twice, so whatever has a number up to that of a mark is at least as old as the mark. Nothing
// is paid for it when an event is written.
//
// The check of who has passed what and the removal are one transaction, which has the file's write lock from its first statement:
// no checkpoint, lease or event comes in between. A log that was set back, whose numbers below a cursor are those of events
// that nobody has read, is told as a relay tells it (log.trust), and left alone.

var _ relay.Retainer = (*Store)(nil)

// Retain implements relay.Retainer. It removes events in small transactions with pauses between, so that writers wait for it for
// some ten milliseconds, and works for some seconds at a time; the next call goes on. The file doesn't shrink by it: its free
// pages are those of the events to come, so that it grows to what the retention keeps, and no further.
func (s *Store) Retain(ctx context.Context, r relay.Retention) (report relay.RetentionReport, err error) {
	if r.Keep <= 0 {
		return report, fmt.Errorf("sqlitestore: Retention.Keep is %v: use a positive duration", r.Keep)
	}
	if s.db == nil {
		return report, errNoDB
	}
	err = s.mark(ctx, r.Keep)
	var passed int64
	if err == nil { // without the lock, so that nobody waits for nothing
		passed, report.Held, err = s.passed(ctx, s.db, r.Keep)
	}
	if err == nil && passed > 0 {
		limited, cancel := context.WithTimeout(ctx, retainTime)
		defer cancel()
		err = s.piecemeal(limited, func(tx *sql.Tx, most int64) (removed int64, err error) {
			if passed, report.Held, err = s.passed(limited, tx, r.Keep); err != nil {
				return 0, err
			}
			removed, err = exec(limited, tx, s.sql.removeOld, passed, most)
			report.Removed += removed
			return removed, err
		})
	}
	if err == nil {
		err = ctx.Err()
	}
	var busy busyError
	if err = explain("remove old events", err); errors.As(err, &busy) {
		report.Held = append(report.Held, relay.Holdup{Reason: errWriting})
		return report, nil
	}
	return report, err
}

const errWriting = "another connection held the file's write lock for longer than busy_timeout: it is tried again"

const (
	// retainTime is how long one call removes events: most of the time that a relay leaves it for.
	retainTime = 30 * time.Second

	// marksKept is how many marks fall into a retention: an event stays for longer than it must by one part of so many.
	marksKept = 32

	// A transaction removes as many rows as take about removeTime, at first removeFirst and at most removeMost. After it,
	// the lock is free for removeShare times as long, for others who poll for it.
	removeTime, removeFirst, removeMost, removeShare = 10 * time.Millisecond, 100, 2000, 4
)

// piecemeal calls remove in transactions, with how many rows it may remove at most, until that removes fewer. The end of ctx isn't
// an error.
func (s *Store) piecemeal(ctx context.Context, remove func(tx *sql.Tx, most int64) (removed int64, err error)) error {
	for most := int64(removeFirst); ; {
		var removed int64
		var began time.Time // with the lock
		err := s.locked(ctx, func(tx *sql.Tx) (err error) {
			began = time.Now()
			removed, err = remove(tx, most)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case removed < most:
			return nil
		}
		took := time.Since(began)
		if took < removeTime/2 {
			most = min(2*most, removeMost)
		} else if took > 2*removeTime {
			most = max(most/2, 1)
		}
		pause := time.NewTimer(removeShare * took)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// locked is transact for work that reads before it writes.
func (s *Store) locked(ctx context.Context, work func(tx *sql.Tx) error) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, s.sql.writeLock); err != nil {
			return err
		}
		return work(tx)
	})
}

// mark notes how far the log is, if it has grown and the last mark isn't of now.
func (s *Store) mark(ctx context.Context, keep time.Duration) error {
	due := func(q querier, now time.Time) (due bool, err error) {
		err = q.QueryRowContext(ctx, s.sql.markDue, micros(now), micros(now.Add(-keep/marksKept))).Scan(&due)
		return due, err
	}
	if is, err := due(s.db, time.Now()); err != nil || !is {
		return err
	}
	return s.locked(ctx, func(tx *sql.Tx) error {
		now := time.Now() // under the lock: all numbers given out are older
		if _, err := tx.ExecContext(ctx, s.sql.unmark, micros(now)); err != nil {
			return err
		}
		if is, err := due(tx, now); err != nil || !is {
			return err
		}
		_, err := tx.ExecContext(ctx, s.sql.mark, micros(now))
		return err
	})
}

// passed returns up to which number the events are old enough and passed by every destination, 0 if there are none to be
// removed, and who hasn't passed all of those that are old enough.
func (s *Store) passed(ctx context.Context, q querier, keep time.Duration) (upTo int64, held []relay.Holdup, err error) {
	var old, first, drawn int64
	cutoff := micros(time.Now().Add(-keep))
	if err := q.QueryRowContext(ctx, s.sql.old, cutoff).Scan(&old, &first, &drawn); err != nil {
		return 0, nil, err
	}
	if first == 0 || first > old {
		return 0, nil, nil
	}
	rows, err := q.QueryContext(ctx, s.sql.readers)
	if err != nil {
		return 0, nil, err
	}
	defer rows.Close()
	readers := 0
	for upTo = old; rows.Next(); readers++ {
		lane := relay.Lane{Of: 1}
		var at position
		var of string // the id of the event that has the cursor's number
		var stored sql.NullInt64
		if err := rows.Scan(&lane.Destination, &lane.Index, &at.seq, &at.id, &of, &stored); err != nil {
			return 0, nil, err
		}
		behind := func(reason string) {
			held = append(held, relay.Holdup{Lane: lane, Reason: "lane " + lane.String() + reason})
		}
		switch {
		case !at.belongs(seen{drawn, of}):
			upTo = 0
			behind(" has a cursor that isn't of this log, which was set back: see what its relay says")
		case at.seq >= old:
		case !stored.Valid:
			upTo = 0
			behind(" has published nothing yet: run its relay, or forget the destination: " + s.forgetting(lane))
		default:
			upTo = min(upTo, at.seq)
			behind(fmt.Sprintf(" hasn't passed event number %d (its last checkpoint is of %s): run its relay, or forget the destination: %s",
				max(at.seq+1, first), timeOf(stored.Int64).Format(time.RFC3339), s.forgetting(lane)))
		}
	}
	if readers == 0 {
		return 0, []relay.Holdup{{Reason: "no destination has ever read the log: run a relay"}}, rows.Err()
	}
	if upTo < first {
		upTo = 0
	}
	return upTo, held, rows.Err()
}

// forgetting returns the statements that forget a destination that nobody runs a relay for any more.
func (s *Store) forgetting(lane relay.Lane) string {
	of := " WHERE destination = '" + strings.ReplaceAll(lane.Destination, "'", "''") + "'; "
	return "DELETE FROM " + s.config.name("checkpoint") + of + "DELETE FROM " + s.config.name("lease") + of
}
