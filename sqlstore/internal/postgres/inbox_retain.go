package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/surepost/surepost/inbox"
)

// The inbox is a ring as well, of leaves that the event's id chooses (migration 008): four days of ids to a leaf, sixteen leaves. A leaf
// whose newest record is older than the dedupe window is emptied by TRUNCATE, under a lock that nobody who handles one of its
// events can hold at the same time, with the check repeated under it: whoever records an id of that leaf waits, and then finds it empty,
// as it would have found the record gone.
//
// That covers windows of up to inboxSpan - 2 * inboxPeriod. Where something young keeps a leaf, because events are
// handled that are much older than others, or because the window is longer and the leaf's turn has come again, old records are deleted one
// by one when they are two periods overdue; so are those of ids that aren't UUIDv7, at once.
const (
	inboxLeaves = 16
	inboxPeriod = 4 * 24 * time.Hour
	inboxSpan   = inboxLeaves * inboxPeriod
)

// inboxLeaf returns the leaf that the id's record is in, as migration 008 computes it too: a different answer for an id that is
// recorded would have its event handled again.
func inboxLeaf(id string) int64 {
	const other = inboxLeaves
	if len(id) < len("01234567-89ab-7") || id[8] != '-' || id[13:15] != "-7" {
		return other
	}
	millis, err := strconv.ParseUint(id[:8]+id[9:13], 16, 48)
	if err != nil {
		return other
	}
	return int64(millis % uint64(inboxSpan.Milliseconds()) / uint64(inboxPeriod.Milliseconds()))
}

// deletedAtOnce is how many records one statement deletes: some ten milliseconds' work, and no more locks than that.
const deletedAtOnce = 1000

// PruneInbox implements inbox.Pruner.
func (e *Engine) PruneInbox(ctx context.Context, window time.Duration) (report inbox.PruneReport, err error) {
	if window <= 0 {
		return report, fmt.Errorf("sqlstore: the dedupe window is %v: use a positive duration", window)
	}
	conn, err := e.Dial(ctx)
	if err != nil {
		return report, err
	}
	defer conn.Close(ctx)
	for i := range inboxLeaves + 1 {
		leaf, overdue := "inbox_"+strconv.Itoa(i), 2*inboxPeriod
		if i == inboxLeaves {
			leaf, overdue = "inbox_other", 0
		}
		if err := e.pruneLeaf(ctx, conn, e.config.name(leaf), window, overdue, &report); err != nil {
			return report, e.explain("remove old records of the inbox", err)
		}
	}
	report.Attempts, err = conn.Exec(ctx, e.config.expand(`DELETE FROM ${inbox_attempt} WHERE last_started_at < clock_timestamp() - $1::bigint * interval '1 microsecond'`),
		window.Microseconds())
	return report, e.explain("remove old records of attempts", err)
}

func (e *Engine) pruneLeaf(ctx context.Context, conn Conn, leaf string, window, overdue time.Duration, report *inbox.PruneReport) error {
	var all, some bool
	err := conn.Transact(ctx, func(q Querier) (err error) {
		if err = atOnce(ctx, q); err == nil {
			all, some, err = older(ctx, q, leaf, window)
		}
		return err
	})
	if err != nil || !some {
		return err
	}
	if all {
		err := e.truncateOld(ctx, conn, leaf, window)
		switch {
		case err == nil:
			report.Emptied++
		case sqlState(err) != "55P03": // lock_not_available
			return err
		default:
			report.Held = append(report.Held, leaf+" is in use: it is tried again")
		}
		return nil
	}
	// Plan: Bitmap Heap Scan by the leaf's index on handled_at, then a Tid Scan.
	statement := `DELETE FROM ` + leaf + ` WHERE ctid = ANY (ARRAY(SELECT ctid FROM ` + leaf + `
WHERE handled_at < (SELECT clock_timestamp() - $1::bigint * interval '1 microsecond') LIMIT ` + strconv.Itoa(deletedAtOnce) + ` FOR UPDATE SKIP LOCKED))`
	for {
		var n int64
		err := conn.Transact(ctx, func(q Querier) (err error) {
			if err = atOnce(ctx, q); err == nil {
				n, err = q.Exec(ctx, statement, (window + overdue).Microseconds())
			}
			return err
		})
		if err != nil {
			return err
		}
		if report.Removed += n; n < deletedAtOnce {
			return nil
		}
	}
}

// truncateOld empties a leaf whose newest record is older than the window, if it still is under the lock.
func (e *Engine) truncateOld(ctx context.Context, conn Conn, leaf string, window time.Duration) error {
	return conn.Transact(ctx, func(q Querier) error {
		if err := atOnce(ctx, q); err != nil {
			return err
		}
		if _, err := q.Exec(ctx, `LOCK TABLE `+leaf+` IN ACCESS EXCLUSIVE MODE NOWAIT`); err != nil {
			return err
		}
		all, _, err := older(ctx, q, leaf, window)
		if err != nil || !all {
			return err
		}
		_, err = q.Exec(ctx, `TRUNCATE `+leaf)
		return err
	})
}

// older reports whether all, and whether some, records of the leaf are older than the window. Plan: two Bitmap Heap Scans by the index on
// handled_at, of the pages that it says may have such a row, and of those that are too new for it to know.
func older(ctx context.Context, q Querier, leaf string, window time.Duration) (all, some bool, err error) {
	const old = `clock_timestamp() - $1::bigint * interval '1 microsecond'`
	_, err = queryRow(ctx, q, `SELECT NOT EXISTS (SELECT FROM `+leaf+` WHERE handled_at >= (SELECT `+old+`)), EXISTS (SELECT FROM `+leaf+` WHERE handled_at < (SELECT `+old+`))`,
		[]any{window.Microseconds()}, &all, &some)
	return all, some, err
}
