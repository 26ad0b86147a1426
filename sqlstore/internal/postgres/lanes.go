package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/surepost/surepost/relay"
)

// SetLanes implements relay.LaneStore. It is one transaction: until it commits, the old lanes wait with their
// checkpoints and renewals; then all of them find that their leases are lost.
func (e *Engine) SetLanes(ctx context.Context, destination string, lanes int) error {
	if lanes < 1 || lanes > relay.MaxLanes {
		return fmt.Errorf("sqlstore: %d lanes: use 1 to %d", lanes, relay.MaxLanes)
	}
	conn, err := e.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Transact(ctx, func(q Querier) error { return e.setLanes(ctx, q, destination, lanes) })
}

func (e *Engine) setLanes(ctx context.Context, q Querier, destination string, lanes int) error {
	const doing = "change the number of lanes"
	// Leases are renewed meanwhile, which would make a repeatable read fail.
	if _, err := q.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL READ COMMITTED`); err != nil {
		return e.explain(doing, err)
	}
	var old int64
	found, err := queryRow(ctx, q, e.sql.lockLanes, []any{destination}, &old)
	switch {
	case err != nil:
		return e.explain(doing, err)
	case !found:
		return fmt.Errorf("sqlstore: there is no destination %q: a relay creates its own when it first runs, with Config.Lanes lanes", destination)
	case int(old) == lanes:
		return nil
	}
	if _, err := q.Exec(ctx, e.sql.fence, destination, max(old, int64(lanes)), int64(lanes)); err != nil {
		return e.explain("end the old lanes' leases", err)
	}
	from, err := e.oldest(ctx, q, destination, int(old))
	if err != nil {
		return err
	}
	if _, err := q.Exec(ctx, e.sql.forgetPlaces, destination); err != nil {
		return e.explain("remove the old lanes' checkpoints", err)
	}
	if from != nil {
		if _, err := q.Exec(ctx, e.sql.place, destination, int64(lanes), from.hot, from.snap.String(), strconv.FormatUint(from.next, 10)); err != nil {
			return e.explain("write the new lanes' checkpoints", err)
		}
	}
	_, err = q.Exec(ctx, e.sql.setLanes, destination, int64(lanes))
	return e.explain(doing, err)
}

// oldest returns the cursor that all new lanes begin at, nil for the origin.
func (e *Engine) oldest(ctx context.Context, q Querier, destination string, lanes int) (*cursor, error) {
	const doing = "read the old lanes' checkpoints"
	rows, err := q.Query(ctx, e.sql.places, destination, int64(lanes))
	if err != nil {
		return nil, e.explain(doing, err)
	}
	defer rows.Close()
	var cursors []cursor
	var ahead int // cursors of another cluster
	for rows.Next() {
		var c cursor
		var snap, next string
		var foreign bool
		if err := rows.Scan(&c.hot, &snap, &next, &foreign); err != nil {
			return nil, e.explain(doing, err)
		}
		if c.snap, err = parseSnapshot(snap); err != nil {
			return nil, err
		}
		if c.next, err = strconv.ParseUint(next, 10, 64); err != nil {
			return nil, fmt.Errorf("sqlstore: checkpoint of destination %s: %w", destination, err)
		}
		if foreign {
			ahead++
		}
		cursors = append(cursors, c)
	}
	if err := rows.Err(); err != nil {
		return nil, e.explain(doing, err)
	}
	if ahead > 0 && ahead < len(cursors) {
		return nil, errMixedClusters
	}
	if len(cursors) < lanes {
		return nil, nil
	}
	c := oldest(cursors)
	return &c, nil
}

// errMixedClusters: transaction ids of two clusters can't be compared.
var errMixedClusters = errors.New("sqlstore: some lanes stand where the database was when it was restored into this cluster, and others have moved on since: " +
	"let the relays run until every lane has moved, which takes some seconds, and change the number of lanes then")

// oldest returns a cursor that is valid for every slot of the lanes that the cursors belong to, none of which is
// passed over: the snapshot that was taken first, with its next, and the lowest hot. Pins are left out, since a cursor
// without its pin is the one that the pinned pages began at, which is as valid as it is older.
//
// It is valid, in the words of cursor.go. Let snap, of cursor A, be the oldest snapshot, and r a row of the lane of a
// cursor B, with seq(r) <= hot <= hot(B). If snap sees r, then so does the later snap(B), and B says that r was handed
// out. If snap doesn't see r, the next read has it among its stragglers: seq(r) <= hot <= hot(A), so r has a
// transaction id below next(A), as every row up to hot(A) has, whatever its lane (the proof doesn't ask for it: numbers
// and transaction ids are drawn by all alike). And rows above hot are fresh. So nothing is skipped; some is handed out
// that was before.
//
// First occurrences stay in order: what the new lane hands out of a key is, from this cursor on, in the key's order, and
// complete. So is what the old one did from its own, and goes on doing until it knows that it was fenced. Whichever is
// the first to publish an event has published what comes before it, or that was settled before either's cursor.
func oldest(cursors []cursor) cursor {
	// Of two snapshots of one cluster, the one taken later has the higher xmax (the last completed transaction's id plus
	// one), or the same, and then a part of the other's xip: some transactions have ended, and none below xmax has begun.
	// Equal ones see the same; the higher next is as valid for both.
	first := slices.MinFunc(cursors, func(a, b cursor) int {
		return cmp.Or(
			cmp.Compare(a.snap.xmax, b.snap.xmax),
			cmp.Compare(len(b.snap.xip), len(a.snap.xip)),
			cmp.Compare(b.next, a.next),
		)
	})
	hot := first.hot
	for _, c := range cursors {
		hot = min(hot, c.hot)
	}
	return cursor{hot: hot, snap: first.snap, next: first.next}
}
