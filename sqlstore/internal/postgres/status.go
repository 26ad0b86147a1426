package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/surepost/surepost/relay"
)

// OutboxStatus returns how the outbox stands. It takes no lock that anybody could wait for, gives up on one that it
// would have to wait for itself, and needs no more than the relay's privileges, and SELECT on the inbox's tables for
// their size.
//
// What it costs is bounded: for each lane some index probes, and where the lane isn't up to date the window of rows
// behind its cursor; the parked events are counted up to parkedCounted.
func (e *Engine) OutboxStatus(ctx context.Context) (status relay.OutboxStatus, err error) {
	conn, err := e.Dial(ctx)
	if err != nil {
		return status, err
	}
	defer conn.Close(ctx)
	err = conn.Transact(ctx, func(q Querier) error {
		if err := bounded(ctx, q); err != nil {
			return err
		}
		status = relay.OutboxStatus{}
		return e.readStatus(ctx, q, &status)
	})
	return status, e.explain("read how the outbox stands", err)
}

// bounded makes the transaction's statements give up rather than wait: an operator asks when something hangs. The settings
// end with the transaction, so a pooler in transaction mode doesn't matter. To compile one of these statements takes longer
// than to run it.
func bounded(ctx context.Context, q Querier) error {
	_, err := queryRow(ctx, q, `SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '10s', true), set_config('jit', 'off', true)`,
		nil, new(string), new(string), new(string))
	return err
}

func (e *Engine) readStatus(ctx context.Context, q Querier, status *relay.OutboxStatus) error {
	destinations, err := e.statusDestinations(ctx, q)
	if err != nil {
		return err
	}
	places, drawn, err := e.places(ctx, q, destinations)
	if err != nil {
		return err
	}
	for i := range destinations {
		d := &destinations[i]
		for lane := range d.Lanes {
			at := relay.Lane{Destination: d.Name, Index: lane}
			place := places[at]
			place.Lane.Of = d.Lanes
			if d.Replay == nil || d.Replay.DoneAt.IsZero() { // one that is done isn't behind
				if err := e.backlog(ctx, q, place, min(drawn, d.untilSeq)); err != nil {
					return err
				}
			}
			d.LanesStatus = append(d.LanesStatus, place.LaneStatus)
		}
		if err := e.statusParked(ctx, q, &d.DestinationStatus); err != nil {
			return err
		}
	}
	if err := e.statusRelays(ctx, q, destinations); err != nil {
		return err
	}
	for _, d := range destinations {
		status.Destinations = append(status.Destinations, d.DestinationStatus)
	}
	return e.statusTables(ctx, q, status)
}

// statusDestination is a destination's status and what it takes to work it out.
type statusDestination struct {
	relay.DestinationStatus
	untilSeq int64 // a replay's end
}

// statusDestinations lists the destinations, those that are only known by what they have left in other tables, and the
// default one where nobody has read the log yet.
func (e *Engine) statusDestinations(ctx context.Context, q Querier) (list []statusDestination, err error) {
	rows, err := q.Query(ctx, e.config.expand(`SELECT name, lanes, created_at, coalesce(until_seq, 9223372036854775807), filter IS NOT NULL, coalesce(filter::text, '{}'), coalesce(created_by, ''), done_at
FROM ${destination}
UNION ALL
SELECT name, 1, NULL, 9223372036854775807, false, '{}', '', NULL
FROM (SELECT destination AS name FROM ${lease} UNION SELECT $1::text WHERE NOT EXISTS (SELECT FROM ${destination})) known
WHERE NOT EXISTS (SELECT FROM ${destination} d WHERE d.name = known.name)
ORDER BY 1`), relay.DefaultDestination)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d statusDestination
		var lanes int64
		var isReplay bool
		var filter, by string
		var created, done *time.Time
		if err := rows.Scan(&d.Name, &lanes, &created, &d.untilSeq, &isReplay, &filter, &by, &done); err != nil {
			return nil, err
		}
		d.Lanes, d.CreatedAt = int(lanes), timeOrZero(created)
		if isReplay {
			d.Replay = &relay.Replay{CreatedBy: by, DoneAt: timeOrZero(done)}
			if d.Replay.Filter, err = decodeFilter(filter); err != nil {
				return nil, fmt.Errorf("replay %q: %w", d.Name, err)
			}
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

func timeOrZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// lanePlace is a lane's lease and cursor.
type lanePlace struct {
	relay.LaneStatus
	at  cursor
	own uint64 // the next transaction id of this cluster
}

// places returns the lanes' leases and newest checkpoints, by destination and index, and the last number drawn, which was
// read after them. Plan: for each lane, a row of the leases' primary key, and one of the checkpoints', backward.
func (e *Engine) places(ctx context.Context, q Querier, of []statusDestination) (places map[relay.Lane]*lanePlace, drawnLast int64, err error) {
	var lanes []relay.Lane
	for _, d := range of {
		for i := range d.Lanes {
			lanes = append(lanes, relay.Lane{Destination: d.Name, Index: i})
		}
	}
	rows, err := q.Query(ctx, e.config.expand(`SELECT w.destination, w.lane, coalesce(l.owner, ''), coalesce(l.epoch, 0), (extract(epoch FROM coalesce(l.expires_at - clock_timestamp(), '0')) * 1000)::bigint,
       c.at, coalesce(c.hot, 0), coalesce(c.snap::text, ''), coalesce(c.next::text, '0'), coalesce(c.pin_snap::text, ''), coalesce(c.pin_next::text, '0'),
       coalesce(c.pin_after, 0), `+nextID+`
FROM unnest($1::text[], $2::int[]) AS w (destination, lane)
LEFT JOIN ${lease} l ON l.destination = w.destination AND l.lane = w.lane
LEFT JOIN LATERAL (
    SELECT * FROM ${checkpoint} c WHERE c.destination = w.destination AND c.lane = w.lane ORDER BY epoch DESC, n DESC LIMIT 1
) c ON true`), textArray(len(lanes), func(i int) string { return lanes[i].Destination }),
		textArray(len(lanes), func(i int) string { return strconv.Itoa(lanes[i].Index) }))
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	places = map[relay.Lane]*lanePlace{}
	for rows.Next() {
		var (
			p                            = &lanePlace{at: origin()}
			lane, expires, hot, pinAfter int64
			at                           *time.Time
			snap, next, pinSnap, pinNext string
			own                          string
		)
		if err := rows.Scan(&p.Lane.Destination, &lane, &p.Owner, &p.Epoch, &expires, &at, &hot, &snap, &next, &pinSnap, &pinNext, &pinAfter, &own); err != nil {
			return nil, 0, err
		}
		if p.Owner != "" {
			p.Expires = time.Duration(expires) * time.Millisecond
		}
		p.CheckpointAt = timeOrZero(at)
		if snap != "" {
			if p.at, err = checkpointCursor(hot, snap, next, pinSnap, pinNext, pinAfter); err != nil {
				return nil, 0, err
			}
		}
		if p.own, err = strconv.ParseUint(own, 10, 64); err != nil {
			return nil, 0, fmt.Errorf("the next transaction id: %w", err)
		}
		p.Lane.Index = int(lane)
		places[p.Lane] = p
	}
	if err := rows.Err(); err != nil {
		return nil, 0, err
	}
	rows.Close()
	_, err = queryRow(ctx, q, e.config.expand(`SELECT `+drawn+` FROM ${sequence} s`), nil, &drawnLast)
	return places, drawnLast, err
}

// checkpointCursor returns the cursor of a row of the checkpoints.
func checkpointCursor(hot int64, snap, next, pinSnap, pinNext string, pinAfter int64) (c cursor, err error) {
	c.hot = hot
	if c.snap, err = parseSnapshot(snap); err != nil {
		return cursor{}, err
	}
	if c.next, err = strconv.ParseUint(next, 10, 64); err != nil {
		return cursor{}, fmt.Errorf("sqlstore: checkpoint: %w", err)
	}
	if pinSnap != "" {
		c.pin = &pin{after: pinAfter}
		if c.pin.snap, err = parseSnapshot(pinSnap); err != nil {
			return cursor{}, err
		}
		if c.pin.next, err = strconv.ParseUint(pinNext, 10, 64); err != nil {
			return cursor{}, fmt.Errorf("sqlstore: checkpoint: %w", err)
		}
	}
	return c, nil
}

// backlogWindow is how many rows of the log a lane's backlog is counted in: of all lanes together about as many as of 16 alone.
func backlogWindow(lanes int) int { return max(10_000*min(lanes, 16)/lanes, 1) }

// backlog counts what the lane's cursor hasn't passed up to the number until: stragglers and fresh rows, as the lane's next
// reads would return them. Beyond the window, the numbers that are left are shared out among the lanes.
func (e *Engine) backlog(ctx context.Context, q Querier, lane *lanePlace, until int64) error {
	c := lane.at
	single, from, to := c.probes()
	var after int64
	var pinned string
	foreign, passed := c.foreign(lane.own), native
	if c.pin != nil {
		after, pinned = c.pin.after, c.pin.snap.String()
		if c.pin.next <= lane.own { // a read of this cluster has seen all that is foreign, which its snapshot doesn't say
			passed = foreign
		}
	}
	var (
		counted, last, scanned int64
		oldest, lastTime       *time.Time
	)
	limit := backlogWindow(lane.Lane.Of)
	_, err := queryRow(ctx, q, e.config.backlogStatement(limit), []any{
		c.hot, intArray(single), strconv.FormatUint(from, 10), strconv.FormatUint(to, 10), after, pinned,
		int64(lane.Lane.Of), int64(lane.Lane.Index), until, strconv.FormatUint(foreign, 10), strconv.FormatUint(passed, 10),
	}, &counted, &oldest, &scanned, &last, &lastTime)
	if err != nil {
		return fmt.Errorf("count what lane %s has yet to pass: %w", lane.Lane, err)
	}
	lane.Backlog, lane.OldestUnpublished = counted, timeOrZero(oldest)
	if scanned >= int64(limit) && until > last {
		lane.Backlog += (until - last) / int64(lane.Lane.Of)
		if oldest == nil { // the lane's first is beyond the window
			lane.OldestUnpublished = timeOrZero(lastTime)
		}
	}
	return nil
}

// backlogStatement counts the rows that a cursor hasn't passed. Its arms are the ones of readStatement, which says why they
// are as they are; each looks at no more rows than the limit. Plans: probes of outbox_tx, Index Scan of outbox_seq.
//
// $1 hot, $2 single transactions, $3 and $4 a range of them, $5 the last straggler handed out, $6 the pinned snapshot or an
// empty string, $7 lanes, $8 the lane's index, $9 the last number that counts, $10 the first transaction id that this cluster hasn't
// given out, where the cursor is another's, $11 the same, if the pinned snapshot is this cluster's.
func (c Config) backlogStatement(limit int) string {
	n := strconv.Itoa(limit)
	const left = `($6::text = '' OR o.seq > $5::bigint OR NOT (pg_visible_in_snapshot(o.tx, nullif($6::text, '')::pg_snapshot) OR o.tx >= $11::text::xid8))`
	return c.expand(`WITH stragglers AS (
    SELECT o.slot, o.time FROM unnest($2::text[]) AS x (tx) CROSS JOIN LATERAL (
        SELECT tx, seq, slot, ` + eventTime + ` AS time FROM ${outbox} o
        WHERE o.tx = x.tx::xid8 AND o.seq <= $1::bigint AND ` + left + `
        ORDER BY o.tx, o.seq LIMIT ` + n + `) o
    WHERE (pg_visible_in_snapshot(x.tx::xid8, pg_current_snapshot()) OR x.tx::xid8 >= $10::text::xid8) AND o.seq <= $9::bigint
    UNION ALL
    (SELECT slot, ` + eventTime + ` FROM ${outbox} o
     WHERE o.tx >= $3::text::xid8 AND o.tx < $4::text::xid8 AND (pg_visible_in_snapshot(o.tx, pg_current_snapshot()) OR o.tx >= $10::text::xid8)
         AND o.seq <= $1::bigint AND o.seq <= $9::bigint AND ` + left + `
     ORDER BY o.tx, o.seq LIMIT ` + n + `)
), fresh AS (
    SELECT seq, slot, ` + eventTime + ` AS time FROM ${outbox} WHERE seq > $1::bigint AND seq <= $9::bigint ORDER BY seq LIMIT ` + n + `
), of_lane AS (
    SELECT time FROM stragglers WHERE (slot & 1023) % $7::int = $8::int
    UNION ALL
    SELECT time FROM fresh WHERE (slot & 1023) % $7::int = $8::int
)
SELECT (SELECT count(*) FROM of_lane), (SELECT min(time) FROM of_lane), (SELECT count(*) FROM fresh), (SELECT coalesce(max(seq), $1::bigint) FROM fresh), (SELECT max(time) FROM fresh)`)
}

// parkedCounted is up to how many parked events of a destination are counted.
const parkedCounted = 100_000

// statusParked counts the destination's parked events, by the primary key.
func (e *Engine) statusParked(ctx context.Context, q Querier, d *relay.DestinationStatus) error {
	var at *time.Time
	_, err := queryRow(ctx, q, e.config.expand(`SELECT count(*), count(DISTINCT key) FILTER (WHERE key <> '' AND NOT behind AND retry_at IS NULL), min(parked_at)
FROM (SELECT key, behind, retry_at, parked_at FROM ${parked} WHERE destination = $1 LIMIT `+strconv.Itoa(parkedCounted)+`) p`),
		[]any{d.Name}, &d.Parked, &d.ParkedKeys, &at)
	d.ParkedAt = timeOrZero(at)
	return err
}

// statusRelays adds the relays that are alive to their destinations.
func (e *Engine) statusRelays(ctx context.Context, q Querier, destinations []statusDestination) error {
	rows, err := q.Query(ctx, e.config.expand(`SELECT destination, owner, since, (extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint
FROM ${relay} WHERE expires_at > clock_timestamp() ORDER BY destination, owner`))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var r relay.RelayStatus
		var expires int64
		if err := rows.Scan(&name, &r.Owner, &r.Since, &expires); err != nil {
			return err
		}
		r.Since, r.Expires = r.Since.UTC(), time.Duration(expires)*time.Millisecond
		for i := range destinations {
			if destinations[i].Name == name {
				destinations[i].Relays = append(destinations[i].Relays, r)
			}
		}
	}
	return rows.Err()
}

// statusTables adds what is known of the tables as a whole: sizes, the oldest event and the schedule.
func (e *Engine) statusTables(ctx context.Context, q Querier, status *relay.OutboxStatus) error {
	// A partitioned table has no storage of its own: it is that of its partitions.
	const bytes = `(SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE oid = to_regclass($1) OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass($1)))`
	for table, size := range map[string]*int64{"outbox": &status.LogBytes, "inbox": &status.InboxBytes} {
		if _, err := queryRow(ctx, q, `SELECT coalesce(`+bytes+`, 0)`, []any{e.config.name(table)}, size); err != nil {
			return err
		}
	}
	var oldest *time.Time
	if _, err := queryRow(ctx, q, e.config.expand(`SELECT `+eventTime+` FROM ${outbox} ORDER BY seq LIMIT 1`), nil, &oldest); err != nil {
		return err
	}
	status.OldestEvent = timeOrZero(oldest)
	return e.statusSchedule(ctx, q, status)
}

// scheduledCounted is up to how many scheduled events are counted.
const scheduledCounted = 100_000

// statusSchedule counts the events that aren't in the log yet. Plan: the primary key, which begins with not_before.
func (e *Engine) statusSchedule(ctx context.Context, q Querier, status *relay.OutboxStatus) error {
	var due *time.Time
	_, err := queryRow(ctx, q, e.config.expand(`SELECT (SELECT count(*) FROM (SELECT FROM ${scheduled} LIMIT `+strconv.Itoa(scheduledCounted)+`) s),
       (SELECT not_before FROM ${scheduled} ORDER BY not_before LIMIT 1)`), nil, &status.Scheduled, &due)
	status.ScheduledDue = timeOrZero(due)
	return err
}
