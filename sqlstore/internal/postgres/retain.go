package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

// The log is a ring of four leaves (migration 007). Producers write to the current one; when it has been current for half the
// retention the ring moves on to the next, if that is empty; and a leaf that was left a retention ago is emptied by TRUNCATE. So
// an event is kept for at least the retention, and for at most one and a half of it while nothing is in the way: three
// leaves hold events at any time, and the fourth is empty for half a retention before its turn comes.
//
// What may go wrong, and why it doesn't:
//
//   - A leaf never decides whether an event is read: every read looks at all four. So a producer may write to any leaf at any
//     time, whatever it believes to be the current one: with a snapshot from before the ring moved, for example, or since it
//     asked a second ago (currentLeaf).
//   - No INSERT fails or waits for what happens here, except for one into the leaf that is being emptied, which waits for
//     some milliseconds. If no leaf is empty, the ring stays where it is, and the leaf grows.
//   - A leaf is emptied only if every lane of every destination has passed all rows in it, in the words of cursor.go: no row has
//     seq > hot, a transaction in xip(snap), or one from xmax(snap) on. The check is made under an ACCESS EXCLUSIVE lock on the leaf.
//     Whoever has inserted into it holds ROW EXCLUSIVE until its transaction ends, prepared ones included; so under the lock no
//     row is uncommitted, and a statement that takes its snapshot under the lock sees all there are. That takes READ COMMITTED:
//     with one snapshot for the whole transaction, rows that committed before the lock was granted would be unseen, and lost.
//   - A checkpoint that the check relies on may not be flushed yet (they are committed asynchronously). But a transaction that
//     truncates is, always, and with it all of the WAL before: no crash, standby or restored backup has the one without the other.
//   - A cursor that a lane takes later may be older than the one that was checked (after the number of lanes was changed): what
//     the leaf had was published by then, whoever reads on from where.
//   - A destination that is made meanwhile begins with what is left, or is seen by the check.
//   - Nobody is waited for with a lock in hand: the leaf's is taken NOWAIT, and reads of other tables wait for a second
//     at most. So there is no deadlock, and readers of the log are held up for the check and the truncation, no longer.
//
// A row with seq <= hot and a transaction id that this cluster hasn't given out yet came with a dump from an older one: whoever's
// next is above it was read there, and whoever's isn't has handed it out here.

// leaves are the ring's.
const leaves = 4

// ringClass is the advisory lock of whoever changes the ring: one at a time, for each set of tables.
func (c Config) ringLock() string {
	return `SELECT pg_try_advisory_xact_lock(1937076837, hashtext(` + quoteLiteral("retain "+c.name("")) + `))`
}

// leaf is how one of the ring's leaves stands.
type leaf struct {
	number  int64
	current bool
	age     time.Duration // since the ring moved to it, or left it
	empty   bool          // as it was truncated: without a page
	refill  bool          // rows came after that, from somebody who took it for the current one
}

// Retain implements relay.Retainer.
func (e *Engine) Retain(ctx context.Context, r relay.Retention) (report relay.RetentionReport, err error) {
	if r.Keep <= 0 {
		return report, fmt.Errorf("sqlstore: Retention.Keep is %v: use a positive duration", r.Keep)
	}
	conn, err := e.Dial(ctx)
	if err != nil {
		return report, err
	}
	defer conn.Close(ctx)
	ring, err := e.ring(ctx, conn)
	if err != nil {
		return report, err
	}
	for _, l := range ring {
		if l.current || l.empty || l.refill || l.age < r.Keep {
			continue
		}
		emptied, held, err := e.emptyLeaf(ctx, conn, l.number, r.Keep)
		if err != nil {
			return report, err
		}
		if emptied {
			report.Emptied++
		}
		report.Held = append(report.Held, held...)
	}
	report.Moved, err = e.turn(ctx, conn, r.Keep)
	if report.Moved {
		e.leaf.forget()
	}
	return report, err
}

// ring reads how the leaves stand, the current one included.
func (e *Engine) ring(ctx context.Context, q Querier) ([]leaf, error) {
	rows, err := q.Query(ctx, e.sql.ring)
	if err != nil {
		return nil, e.explain("see how the outbox's leaves stand", err)
	}
	defer rows.Close()
	var ring []leaf
	for rows.Next() {
		var l leaf
		var micros int64
		if err := rows.Scan(&l.number, &l.current, &micros, &l.empty, &l.refill); err != nil {
			return nil, err
		}
		l.age = time.Duration(micros) * time.Microsecond
		ring = append(ring, l)
	}
	if err := rows.Err(); err != nil {
		return nil, e.explain("see how the outbox's leaves stand", err)
	}
	if len(ring) != leaves {
		return nil, misfit("table %s has %d rows, and the outbox's ring %d leaves: it was changed by hand; restore it from Store.MigrationSQL",
			e.config.name("ring"), len(ring), leaves)
	}
	return ring, nil
}

// turn moves the ring on to the next leaf if it is time and that is empty.
func (e *Engine) turn(ctx context.Context, conn Conn, keep time.Duration) (moved bool, err error) {
	err = e.alone(ctx, conn, func(q Querier) error {
		ring, err := e.ring(ctx, q)
		if err != nil {
			return err
		}
		for i, l := range ring {
			next := ring[(i+1)%leaves]
			if l.refill { // its time begins anew, so that these are kept as long as others
				if _, err := q.Exec(ctx, e.sql.ringRefilled, l.number); err != nil {
					return err
				}
			}
			if !l.current || l.empty || l.age < keep/2 || !next.empty {
				continue
			}
			if _, err := q.Exec(ctx, e.sql.ringMove, next.number); err != nil {
				return err
			}
			moved = true
		}
		return nil
	})
	return moved, e.explain("move on to the next leaf of the outbox's ring", err)
}

// errHeld ends a transaction that found something in its way.
var errHeld = errors.New("sqlstore: something is in the way")

// emptyLeaf truncates a leaf that was left keep ago, unless somebody hasn't passed it or holds a lock on it.
func (e *Engine) emptyLeaf(ctx context.Context, conn Conn, number int64, keep time.Duration) (emptied bool, held []relay.Holdup, err error) {
	const doing = "empty a leaf of the outbox's ring"
	// Without a lock first: while somebody is behind, readers aren't held up for nothing.
	err = e.alone(ctx, conn, func(q Querier) (err error) {
		held, err = e.behind(ctx, q, number)
		return err
	})
	if err != nil || len(held) > 0 {
		return false, held, e.explain(doing, err)
	}
	// Those that read the log hold a lock for a millisecond, one after the other: there are gaps.
	const tries, few = 40, 5
	for try := range tries {
		locked := false
		err = e.alone(ctx, conn, func(q Querier) error {
			if _, err := q.Exec(ctx, e.sql.lockLeaf[number]); err != nil {
				return err
			}
			locked = true
			ring, err := e.ring(ctx, q) // somebody else may have been here meanwhile
			if err != nil {
				return err
			}
			if l := ring[number]; l.current || l.empty || l.refill || l.age < keep {
				return nil
			}
			if held, err = e.behind(ctx, q, number); err != nil {
				return err
			}
			if len(held) > 0 {
				return errHeld
			}
			if _, err := q.Exec(ctx, e.sql.truncateLeaf[number]); err != nil {
				return err
			}
			if _, err := q.Exec(ctx, e.sql.ringEmptied, number); err != nil {
				return err
			}
			emptied = true
			return nil
		})
		switch {
		case err == nil:
			return emptied, nil, nil
		case errors.Is(err, errHeld):
			return false, held, nil
		case sqlState(err) != "55P03": // lock_not_available
			return false, nil, e.explain(doing, err)
		}
		select {
		case <-ctx.Done():
			return false, nil, ctx.Err()
		case <-time.After(time.Millisecond + rand.N(10*time.Millisecond)):
		}
		if !locked && try != few-1 && try != tries-1 {
			continue
		}
		// Each failure is a line in the server's log. Who has been at it for a second, a backup, won't be done in a moment. And where the
		// leaf was locked, an autovacuum holds its TOAST table: TRUNCATE has waited for that, and everybody for TRUNCATE.
		var long bool
		held, long, err = e.lockers(ctx, conn, number)
		if err != nil || long || locked {
			return false, held, e.explain("see who holds a lock on a leaf of the outbox's ring", err)
		}
	}
	return false, held, nil
}

// alone runs work in a transaction that nobody else changes the ring in, or not at all if somebody does.
func (e *Engine) alone(ctx context.Context, conn Conn, work func(q Querier) error) error {
	return conn.Transact(ctx, func(q Querier) error {
		if err := atOnce(ctx, q); err != nil {
			return err
		}
		var alone bool
		if _, err := queryRow(ctx, q, e.config.ringLock(), nil, &alone); err != nil || !alone {
			return err
		}
		return work(q)
	})
}

// atOnce begins a transaction that is to empty a leaf.
func atOnce(ctx context.Context, q Querier) error {
	// A statement must see what has committed before it: what was true before the lock may not be true under it.
	if _, err := q.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL READ COMMITTED`); err != nil {
		return err
	}
	// What comes while a lock is held must not wait, nor take long; if it would, another time. Compiling the check would take
	// seconds, since it is estimated for a thousand lanes, and is run for one; and what looks for the last young row of a leaf
	// finds none, which the planner doesn't know when it finds a scan from end to end as good.
	_, err := q.Exec(ctx, `SELECT set_config('lock_timeout', '1s', true), set_config('statement_timeout', '10s', true),
    set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true)`)
	return err
}

// behind returns the lanes that haven't passed all rows of the leaf.
func (e *Engine) behind(ctx context.Context, q Querier, number int64) (held []relay.Holdup, err error) {
	rows, err := q.Query(ctx, e.sql.behind[number])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var destination string
		var lane, of, seq int64
		var at *time.Time
		if err := rows.Scan(&destination, &lane, &of, &seq, &at); err != nil {
			return nil, err
		}
		h := relay.Holdup{Lane: relay.Lane{Destination: destination, Index: int(lane), Of: int(of)}}
		switch {
		case destination == "":
			h.Reason = "no destination has ever read the log: run a relay"
		case at == nil:
			h.Reason = fmt.Sprintf("lane %s has published nothing yet: run its relay, or remove the destination", h.Lane)
		default:
			h.Reason = fmt.Sprintf("lane %s hasn't passed event number %d (its last checkpoint is of %s): run its relay, or remove the destination",
				h.Lane, seq, at.UTC().Format(time.RFC3339))
		}
		held = append(held, h)
	}
	return held, rows.Err()
}

// lockers returns who holds locks on the leaf or its TOAST table, and whether one of them has been at it for long: reads of the log
// take milliseconds.
func (e *Engine) lockers(ctx context.Context, q Querier, number int64) (held []relay.Holdup, long bool, err error) {
	rows, err := q.Query(ctx, e.sql.lockers[number])
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	name := e.config.name("outbox_" + strconv.FormatInt(number, 10))
	for rows.Next() {
		var pid int64
		var h relay.Holdup
		var since *time.Time
		var old bool
		if err := rows.Scan(&pid, &h.State, &h.Query, &since, &old); err != nil {
			return nil, false, err
		}
		long = long || old
		h.PID = int(pid)
		if since != nil {
			h.Since = since.UTC()
		}
		if pid == 0 {
			h.Reason = fmt.Sprintf("a prepared transaction holds a lock on %s: commit or roll it back (pg_prepared_xacts)", name)
		} else {
			h.Reason = fmt.Sprintf("backend %d (%s, in a transaction since %s) holds a lock on %s: %.100q; wait for it, or SELECT pg_terminate_backend(%[1]d)",
				pid, h.State, h.Since.Format(time.RFC3339), name, h.Query)
		}
		held = append(held, h)
	}
	if err := rows.Err(); err != nil {
		return nil, false, err
	}
	if len(held) == 0 {
		held = []relay.Holdup{{Reason: "reads of " + name + " follow each other without a gap: it is tried again"}}
	}
	return held, long, nil
}

// retainStatements are those of the ring; arrays have one per leaf.
type retainStatements struct {
	ring, ringMove, ringEmptied, ringRefilled string
	lockLeaf, truncateLeaf, behind, lockers   [leaves]string
}

func newRetainStatements(c Config) (s retainStatements) {
	// A leaf without a page is one that nobody has written to since it was truncated. Rows of transactions that rolled back have
	// pages, and go with the others.
	s.ring = c.expand(`SELECT leaf::bigint, left_at IS NULL, (extract(epoch FROM clock_timestamp() - coalesce(left_at, current_at)) * 1000000)::bigint,
       size = 0, size > 0 AND emptied AND left_at IS NOT NULL
FROM ${ring} CROSS JOIN LATERAL pg_relation_size(CASE leaf WHEN 0 THEN ` + c.regclass("outbox_0") + ` WHEN 1 THEN ` + c.regclass("outbox_1") +
		` WHEN 2 THEN ` + c.regclass("outbox_2") + ` WHEN 3 THEN ` + c.regclass("outbox_3") + ` END) AS size
WHERE leaf BETWEEN 0 AND 3 ORDER BY leaf`)

	s.ringMove = c.expand(`UPDATE ${ring} SET current_at = CASE leaf WHEN $1::bigint THEN clock_timestamp() ELSE current_at END,
    left_at = CASE leaf WHEN $1::bigint THEN NULL ELSE clock_timestamp() END, emptied = false
WHERE leaf = $1::bigint OR left_at IS NULL`)
	s.ringEmptied = c.expand(`UPDATE ${ring} SET emptied = true WHERE leaf = $1::bigint`)
	s.ringRefilled = c.expand(`UPDATE ${ring} SET emptied = false, left_at = clock_timestamp() WHERE leaf = $1::bigint AND left_at IS NOT NULL`)

	for i := range s.behind {
		name := "outbox_" + strconv.Itoa(i)
		s.lockLeaf[i] = `LOCK TABLE ` + c.name(name) + ` IN ACCESS EXCLUSIVE MODE NOWAIT`
		s.truncateLeaf[i] = `TRUNCATE ` + c.name(name)

		// One row per lane that hasn't passed the leaf, with the first row that it hasn't. A replay takes numbers up to
		// until_seq of what had committed when it was made, so nothing commits late for it. Each probe is ordered by an index, so that no
		// estimate leads to a scan of the leaf; those by transaction compare (tx, seq), since with tx = x the order by seq alone would
		// do, and the index on it be walked in vain. Plan: per lane an Index Scan of outbox_N_seq, one of outbox_N_tx, and one
		// more of it per transaction that was running.
		s.behind[i] = strings.ReplaceAll(c.expand(`WITH reader AS (
    SELECT d.name, i AS lane, d.lanes, d.until_seq FROM ${destination} d CROSS JOIN generate_series(0, d.lanes - 1) AS i WHERE d.done_at IS NULL
    UNION ALL
    SELECT l.destination, l.lane, l.lanes, NULL FROM ${lease} l WHERE NOT EXISTS (SELECT FROM ${destination} d WHERE d.name = l.destination)
), place AS (
    SELECT r.*, coalesce(c.hot, 0) AS hot, coalesce(c.snap, '1:1:') AS snap, coalesce(c.next, '1') AS next, c.at
    FROM reader r LEFT JOIN LATERAL (
        SELECT * FROM ${checkpoint} c WHERE c.destination = r.name AND c.lane = r.lane ORDER BY epoch DESC, n DESC LIMIT 1) c ON true
), first AS (
    SELECT p.*, coalesce((
        SELECT seq FROM ${leaf} o WHERE o.seq > p.hot AND o.seq <= coalesce(p.until_seq, 9223372036854775807) AND (o.slot & 1023) % p.lanes = p.lane
        ORDER BY o.seq LIMIT 1
    ), CASE WHEN p.until_seq IS NULL THEN coalesce((
        SELECT seq FROM ${leaf} o WHERE o.tx >= pg_snapshot_xmax(p.snap) AND o.tx < greatest(p.next, pg_snapshot_xmax(pg_current_snapshot()))
            AND (o.slot & 1023) % p.lanes = p.lane
        ORDER BY o.tx, o.seq LIMIT 1
    ), (
        SELECT min(s.seq) FROM pg_snapshot_xip(p.snap) AS x CROSS JOIN LATERAL (
            SELECT seq FROM ${leaf} o WHERE (o.tx, o.seq) >= (x, 0::bigint) AND (o.tx, o.seq) <= (x, 9223372036854775807) AND (o.slot & 1023) % p.lanes = p.lane
            ORDER BY o.tx, o.seq LIMIT 1) s
    )) END) AS seq
    FROM place p
)
SELECT name, lane::bigint, lanes::bigint, seq, at FROM first WHERE seq IS NOT NULL
UNION ALL
SELECT '', 0, 0, 0, NULL WHERE NOT EXISTS (SELECT FROM reader)`), "${leaf}", c.name(name))

		s.lockers[i] = `SELECT coalesce(l.pid, 0)::bigint, coalesce(a.state, ''), coalesce(a.query, ''), a.xact_start,
    coalesce(a.xact_start < clock_timestamp() - interval '1s', true)
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.granted
    AND l.relation IN (SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class WHERE oid = ` + c.regclass(name) + `)
    AND l.pid IS DISTINCT FROM pg_backend_pid()
GROUP BY 1, 2, 3, 4, 5 ORDER BY a.xact_start`
	}
	return s
}
