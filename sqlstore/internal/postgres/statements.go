package postgres

import (
	"strconv"

	"github.com/surepost/surepost/relay"
)

// statements are the engine's SQL texts with the tables' names filled in. Every statement stands by itself: none
// needs a session setting, a prepared statement of its own or an open transaction, so that poolers in transaction
// mode don't matter.
type statements struct {
	append    string
	appendOne string

	appendAsking string

	lockKeys   string
	written    string
	record     string
	recordAll  string
	started    string
	finished   string
	forget     string
	acquire    string
	found      string
	holder     string
	renew      string
	release    string
	here       string
	newest     string
	reused     string
	checkpoint string
	trim       string
	discarded  string
	parkedKeys string
	released   string
	unpark     string
	clearKeys  string
	parked     string
	retry      string
	discard    string

	parkedActions string
	schedule      string
	cancel        string
	scheduled     string
	revoke        string
	cancellations string

	destinationStatements

	join, namesake, members, leave                          string
	lockLanes, fence, places, forgetPlaces, place, setLanes string
	retainStatements
}

// eventTime is NULL for a time that RFC 3339 can't write, such as infinity: nobody writes one but by hand, and one odd row
// must not hold up the log.
const eventTime = `CASE WHEN time >= '0001-01-01 00:00+00' AND time < '9999-12-31 00:00+00' THEN time END`

const eventColumns = `time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data`

// unnestEvents are rows of eventColumns, in the arrays' order.
const unnestEvents = `unnest($1::timestamptz[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::json[], $12::json[])`

// logColumns are a row of the log as row.dest takes it.
const logColumns = `seq, ` + eventTime + `, id, type, version, source, coalesce(key, ''), coalesce(correlation_id, id), coalesce(causation_id, ''),
       coalesce(category, ''), coalesce(headers::text, ''), data::text`

func newStatements(c Config) statements {
	return statements{
		destinationStatements: newDestinationStatements(c),
		retainStatements:      newRetainStatements(c),

		// One row per element. tx and seq are left to their defaults, in that order. The leaf is looked up where the caller
		// doesn't know it, once. Plan: Insert ← InitPlan, Function Scan on unnest.
		append: c.expand(`INSERT INTO ${outbox} (` + eventColumns + `, ring)
SELECT *, coalesce($13::smallint, (SELECT ${ring}())) FROM ` + unnestEvents),

		// The same, and it tells the leaf. Not by RETURNING, for which producers would need the right to read the log. Plan: CTE
		// Scan; Insert ← InitPlan, Function Scan on unnest.
		appendAsking: c.expand(`WITH asked AS MATERIALIZED (SELECT ${ring}() AS leaf), written AS (
    INSERT INTO ${outbox} (` + eventColumns + `, ring) SELECT *, (SELECT leaf FROM asked) FROM ` + unnestEvents + `
)
SELECT leaf FROM asked`),

		// The casts are for clients that send every parameter as text. Plan: Insert ← Result.
		appendOne: c.expand(`INSERT INTO ${outbox} (` + eventColumns + `, ring)
VALUES ($1::timestamptz, $2::smallint, $3::text, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text, $10::text, $11::json, $12::json,
    coalesce($13::smallint, ${ring}()))`),

		// In the order of the hashes, so that two transactions can't wait for each other. 0x73757265 is "sure": a
		// class of locks of our own.
		lockKeys: `SELECT count(pg_advisory_xact_lock(1937076837, h)) FROM (SELECT DISTINCT hashtext(k) AS h FROM unnest($1::text[]) AS k ORDER BY h) hashes`,

		// A savepoint's rows carry the transaction's id, not its own. Plan: Index Scan of outbox_tx; Seq Scan of the schedule,
		// which only a test waits for.
		written: c.expand(`SELECT * FROM (SELECT ` + logColumns + `, NULL::timestamptz FROM ${outbox} WHERE tx = pg_current_xact_id_if_assigned() ORDER BY seq) logged
UNION ALL
SELECT * FROM (SELECT ` + scheduledColumns + `, not_before FROM ${scheduled} WHERE tx = pg_current_xact_id_if_assigned() ORDER BY n) later`),

		// A concurrent insert of the same id is waited for. Plan: Insert; the conflict is one of the leaf's primary key.
		record: c.expand(`INSERT INTO ${inbox} (consumer, event_id, leaf) VALUES ($1, $2, $3::int) ON CONFLICT DO NOTHING`),

		// In the order of the ids, so that two transactions can't wait for each other: each holds only ids below the one
		// that it waits for. Plan: Insert ← Sort ← Function Scan on unnest.
		recordAll: c.expand(`INSERT INTO ${inbox} (consumer, event_id, leaf)
SELECT $1, id, leaf FROM unnest($2::text[], $3::int[]) AS record (id, leaf) ORDER BY id COLLATE "C" ON CONFLICT DO NOTHING RETURNING event_id`),

		// At most one row: how many were unfinished before, and whether the attempt was noted. Where it wasn't, the number
		// is of the statement's snapshot, which may be older than the row that was in the way. Plan: Insert, conflict arbiter:
		// the primary key; one probe of it where nothing was noted.
		started: c.expand(`WITH noted AS (
    INSERT INTO ${inbox_attempt} AS a (consumer, event_id, started) VALUES ($1, $2, 1)
    ON CONFLICT (consumer, event_id) DO UPDATE SET started = a.started + 1, last_started_at = clock_timestamp()
    WHERE a.started - a.finished < $3::bigint
    RETURNING a.started - a.finished - 1 AS unfinished
)
SELECT unfinished, true FROM noted
UNION ALL
SELECT started - finished, false FROM ${inbox_attempt} WHERE consumer = $1 AND event_id = $2 AND NOT EXISTS (SELECT FROM noted)`),

		finished: c.expand(`UPDATE ${inbox_attempt} SET finished = finished + 1, last_error = nullif($3, '')
WHERE consumer = $1 AND event_id = $2 AND finished < started`),

		forget: c.expand(`DELETE FROM ${inbox_attempt} WHERE consumer = $1 AND event_id = $2`),

		// The lock on the destination's row makes it wait for a change of the number of lanes, and see it; not for long, since
		// leases are renewed on the same connection. (The condition is looked at before the lock is taken: the plan is LockRows
		// ← Index Scan.) Plan: Insert, conflict arbiter: the primary key.
		acquire: c.expand(`WITH shared AS (
    SELECT lanes FROM ${destination} WHERE name = $1 AND set_config('lock_timeout', greatest($5::bigint / 10, 1)::text, true) <> '' FOR SHARE
)
INSERT INTO ${lease} AS l (destination, lane, lanes, owner, epoch, expires_at)
SELECT $1, $2::int, lanes, $4, 1, clock_timestamp() + make_interval(secs => $5::bigint / 1000.0) FROM shared WHERE lanes = $3::int
ON CONFLICT (destination, lane) DO UPDATE
SET owner = excluded.owner, lanes = excluded.lanes, epoch = l.epoch + 1, expires_at = excluded.expires_at
WHERE l.owner = excluded.owner OR l.owner = '' OR l.expires_at < clock_timestamp()
RETURNING epoch`),

		found: c.expand(`INSERT INTO ${destination} (name, lanes) VALUES ($1, $2::int) ON CONFLICT DO NOTHING`),

		holder: c.expand(`SELECT d.lanes, coalesce(l.owner, ''), coalesce((extract(epoch FROM l.expires_at - clock_timestamp()) * 1000)::bigint, 0)
FROM ${destination} d LEFT JOIN ${lease} l ON l.destination = d.name AND l.lane = $2::int WHERE d.name = $1`),

		renew: c.expand(`UPDATE ${lease} SET expires_at = clock_timestamp() + make_interval(secs => $4::bigint / 1000.0)
WHERE destination = $1 AND lane = $2::int AND epoch = $3::bigint AND owner = $5`),

		release: c.expand(`UPDATE ${lease} SET owner = '', expires_at = clock_timestamp()
WHERE destination = $1 AND lane = $2::int AND epoch = $3::bigint AND owner = $4`),

		here: c.expand(`SELECT ` + serverIdentity + `, ` + nextID + `, EXISTS (
    SELECT FROM ${lease} WHERE destination = $1 AND lane = $2::int AND epoch = $3::bigint AND owner = $4 AND lanes = $5::int),
       (SELECT ` + drawn + ` FROM ${sequence} s)`),

		// Plan: Index Scan Backward on the primary key, one row.
		newest: c.expand(`SELECT epoch, n, hot, snap::text, next::text, coalesce(pin_snap::text, ''), coalesce(pin_next::text, '0'), coalesce(pin_after, 0)
FROM ${checkpoint} WHERE destination = $1 AND lane = $2::int ORDER BY epoch DESC, n DESC LIMIT 1`),

		// Rows up to hot have transaction ids below next. Newer ones were written after the sequence had been set back; but
		// ids that this cluster hasn't come to are those of an older one, whose dump was restored.
		// Plan: Index Scan Backward on outbox_seq, a hundred rows.
		reused: c.expand(`SELECT coalesce(bool_or(tx >= $2::text::xid8 AND tx < $3::text::xid8), false), (SELECT ` + drawn + ` FROM ${sequence} s)
FROM (SELECT tx FROM ${outbox} WHERE seq <= $1::bigint ORDER BY seq DESC LIMIT 100) newest`),

		// The epoch is guarded together with the owner, since a failover that lost the tail gives out epochs twice;
		// and the server is the one that the position was read from, since it means nothing on another.
		//
		// Position and parked events in one statement, under a lock on the lease's row: a relay that takes over waits
		// for it, and one that lost its lease finds no row and writes nothing. The commit isn't flushed: if a crash
		// loses it, the older checkpoint before it is as true, and events are only published again.
		//
		// What is parked already stays as it is, and what was discarded stays so, even if that happens at the same time
		// (discarded.go): by one snapshot, and not by the conflict alone.
		checkpoint: c.expand(`WITH held AS (
    SELECT epoch, set_config('synchronous_commit', 'off', true) FROM ${lease}
    WHERE destination = $1 AND lane = $2::int AND epoch = $3::bigint AND owner = $14 AND ` + serverIdentity + ` = $15 FOR SHARE
), park AS (
    INSERT INTO ${parked} (destination, seq, key, behind, reason, time, slot, id, type, version, source, correlation_id, causation_id, category, headers, data)
    SELECT $1, o.seq, coalesce(o.key, ''), p.behind, p.reason, o.time, o.slot, o.id, o.type, o.version, o.source, o.correlation_id, o.causation_id, o.category, o.headers, o.data
    FROM held, unnest($11::bigint[], $12::boolean[], $13::text[]) AS p (seq, behind, reason) JOIN ${outbox} o USING (seq)
    WHERE NOT EXISTS (SELECT FROM ${parked} was WHERE was.destination = $1 AND was.key = coalesce(o.key, '') AND was.seq = o.seq)
      AND NOT EXISTS (SELECT ` + discardedEvents + ` AND a.seq = o.seq AND a.event_id = o.id)
    ON CONFLICT DO NOTHING
)
INSERT INTO ${checkpoint} (destination, lane, epoch, n, hot, snap, next, pin_snap, pin_next, pin_after)
SELECT $1, $2::int, $3::bigint, $4::bigint, $5::bigint, $6::text::pg_snapshot, $7::text::xid8,
       nullif($8::text, '')::pg_snapshot, nullif($9::text, '')::xid8, nullif($10::bigint, 0)
FROM held`),

		// Old checkpoints serve nobody. Dead rows at the far end of the index cost the reader of the newest nothing.
		trim: c.expand(`DELETE FROM ${checkpoint} WHERE destination = $1 AND lane = $2::int AND (epoch, n) < ($3::bigint, $4::bigint)`),

		// A page of fresh events is a short range of numbers, in which one probe mostly finds nothing; stragglers may be far
		// apart.
		discarded: c.expand(`SELECT a.seq, a.event_id ` + discardedEvents + ` AND a.seq BETWEEN $3::bigint AND $4::bigint
UNION ALL
SELECT a.seq, a.event_id ` + discardedEvents + ` AND a.seq = ANY ($2::bigint[])`),

		parkedKeys: c.expand(`SELECT DISTINCT key FROM ${parked} WHERE destination = $1 AND key <> '' AND (slot & 1023) % $2::int = $3::int`),

		// Walks the keys by index probes, takes the first rows of each, and keeps those before which nothing stays
		// parked.
		released: c.expand(`WITH RECURSIVE keys AS (
    (SELECT key FROM ${parked} WHERE destination = $1 AND key > '' ORDER BY key LIMIT 1)
    UNION ALL
    SELECT (SELECT p.key FROM ${parked} p WHERE p.destination = $1 AND p.key > keys.key ORDER BY p.key LIMIT 1) FROM keys WHERE keys.key IS NOT NULL
), candidates AS (
    SELECT f.* FROM keys CROSS JOIN LATERAL (
        SELECT p.*, bool_and(p.behind OR p.retry_at IS NOT NULL) OVER (ORDER BY p.seq) AS free
        FROM (SELECT * FROM ${parked} p WHERE p.destination = $1 AND p.key = keys.key ORDER BY p.seq LIMIT 100) p
    ) f WHERE keys.key IS NOT NULL
    UNION ALL
    (SELECT p.*, true FROM ${parked} p WHERE p.destination = $1 AND p.key = '' AND p.retry_at IS NOT NULL ORDER BY p.seq LIMIT 1000)
)
SELECT seq, ` + eventTime + `, id, type, version, source, key, coalesce(correlation_id, id), coalesce(causation_id, ''), coalesce(category, ''), coalesce(headers::text, ''), data::text
FROM candidates WHERE free AND (slot & 1023) % $2::int = $3::int ORDER BY seq LIMIT $4::int`),

		// What was published goes; what failed again is parked anew with its new reason. Both only under the lease's
		// epoch.
		unpark: c.expand(`WITH held AS (
    SELECT epoch FROM ${lease}
    WHERE destination = $1 AND lane = $2::int AND epoch = $3::bigint AND owner = $10 AND ` + serverIdentity + ` = $11 FOR SHARE
), gone AS (
    DELETE FROM ${parked} p USING held WHERE p.destination = $1 AND (p.key, p.seq) IN (SELECT * FROM unnest($4::text[], $5::bigint[]))
), again AS (
    UPDATE ${parked} p SET behind = a.behind, reason = a.reason, retry_at = NULL, parked_at = clock_timestamp()
    FROM held, unnest($6::text[], $7::bigint[], $8::boolean[], $9::text[]) AS a (key, seq, behind, reason)
    WHERE p.destination = $1 AND p.key = a.key AND p.seq = a.seq
)
SELECT count(*) FROM held`),

		clearKeys: c.expand(`SELECT k FROM unnest($2::text[]) AS k WHERE NOT EXISTS (SELECT FROM ${parked} p WHERE p.destination = $1 AND p.key = k)`),

		parked: c.expand(`SELECT destination, seq, ` + eventTime + `, id, type, version, source, key, coalesce(correlation_id, id), coalesce(causation_id, ''), coalesce(category, ''),
       coalesce(headers::text, ''), data::text, behind, reason, parked_at, retry_at IS NOT NULL
FROM ${parked} WHERE ` + parkedFilter + ` ORDER BY destination, seq LIMIT $6::int`),

		retry: c.expand(`WITH changed AS (
    UPDATE ${parked} SET retry_at = clock_timestamp() WHERE ` + parkedFilter + ` AND retry_at IS NULL RETURNING *
)` + noteParkedAction),

		discard: c.expand(`WITH changed AS (DELETE FROM ${parked} WHERE ` + parkedFilter + ` RETURNING *)` + noteParkedAction),

		parkedActions: c.expand(parkedActionsStatement),
		schedule:      c.expand(scheduleStatement),
		cancel:        c.expand(cancelStatement),
		scheduled:     c.expand(scheduledStatement),
		revoke:        c.expand(revokeStatement),
		cancellations: c.expand(cancellationsStatement),

		// No row if another instance of the owner is alive. Relays that were gone for long leave with the next sign of life.
		join: c.expand(`WITH gone AS (
    DELETE FROM ${relay} WHERE destination = $1 AND owner <> $2 AND expires_at < clock_timestamp() - interval '10 minutes'
)
INSERT INTO ${relay} AS r (destination, owner, instance, expires_at)
VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4::bigint / 1000.0))
ON CONFLICT (destination, owner) DO UPDATE
SET instance = excluded.instance, expires_at = excluded.expires_at, since = CASE WHEN r.instance = excluded.instance THEN r.since ELSE excluded.since END
WHERE r.instance = excluded.instance OR r.expires_at < clock_timestamp()`),

		namesake: c.expand(`SELECT instance, expires_at, (extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint
FROM ${relay} WHERE destination = $1 AND owner = $2`),

		// No row if there is no such destination. Leases of lanes that were done away with don't count. Plan: Index Scans
		// of the primary keys.
		members: c.expand(`SELECT 0, lanes, 0, '', 0::bigint, clock_timestamp(), false FROM ${destination} WHERE name = $1
UNION ALL (
SELECT 1, d.lanes, 0, r.owner, 0, r.expires_at, false
FROM ${destination} d JOIN ${relay} r ON r.destination = d.name WHERE d.name = $1 AND r.expires_at > clock_timestamp() ORDER BY r.owner COLLATE "C")
UNION ALL (
SELECT 2, d.lanes, l.lane, l.owner, l.epoch, l.expires_at, l.expires_at < clock_timestamp()
FROM ${destination} d JOIN ${lease} l ON l.destination = d.name AND l.lane < d.lanes WHERE d.name = $1 ORDER BY l.lane)`),

		leave: c.expand(`DELETE FROM ${relay} WHERE destination = $1 AND owner = $2 AND instance = $3`),

		lockLanes: c.expand(`SELECT lanes FROM ${destination} WHERE name = $1 FOR UPDATE`),

		// Every lane of old and new gets an epoch that is higher than any that was given out or written: who holds the lane
		// writes nothing more, and what is written for the new lane is the newest.
		fence: c.expand(`INSERT INTO ${lease} AS l (destination, lane, lanes, owner, epoch, expires_at)
SELECT $1, i, $3::int, '', 1 + coalesce((SELECT max(epoch) FROM ${checkpoint} p WHERE p.destination = $1 AND p.lane = i), 0), clock_timestamp()
FROM generate_series(0, $2::int - 1) i
ON CONFLICT (destination, lane) DO UPDATE
SET owner = '', lanes = excluded.lanes, epoch = greatest(l.epoch + 1, excluded.epoch), expires_at = excluded.expires_at`),

		// A row per lane that has a checkpoint: its newest. The last column is true for a cursor of a cluster that had given
		// out more ids than this one, where a dump of it was restored: a checkpoint that was written here is of a transaction
		// that got its id when next had been read, and that has completed.
		places: c.expand(`SELECT p.hot, p.snap::text, p.next::text, p.next > pg_snapshot_xmax(pg_current_snapshot())
FROM generate_series(0, $2::int - 1) i CROSS JOIN LATERAL (
    SELECT * FROM ${checkpoint} WHERE destination = $1 AND lane = i ORDER BY epoch DESC, n DESC LIMIT 1) p`),

		forgetPlaces: c.expand(`DELETE FROM ${checkpoint} WHERE destination = $1`),

		place: c.expand(`INSERT INTO ${checkpoint} (destination, lane, epoch, n, hot, snap, next)
SELECT destination, lane, epoch, 0, $3::bigint, $4::text::pg_snapshot, $5::text::xid8 FROM ${lease} WHERE destination = $1 AND lane < $2::int`),

		setLanes: c.expand(`UPDATE ${destination} SET lanes = $2::int WHERE name = $1`),
	}
}

// intoLog inserts rows of eventColumns into the log, which draws their numbers in the order of the rows.
const intoLog = `INSERT INTO ${outbox} (` + eventColumns + `)
SELECT ` + eventColumns + ` FROM `

// drawn is the last number that the sequence has given out: while is_called is false, last_value is the next one, which
// nobody has drawn.
const drawn = `CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END`

// nextID is the next transaction id to be assigned. It belongs into a select list: see readStatement.
const nextID = `(pg_snapshot_xmax(pg_current_snapshot())::text::bigint + age(pg_snapshot_xmax(pg_current_snapshot())::xid))::text`

// serverIdentity changes when a standby is promoted (the timeline) and when the server restarts. On a standby it is
// an error.
const serverIdentity = `left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || ' ' || extract(epoch FROM pg_postmaster_start_time())`

// parkedFilter selects parked events by destination, key, type, ids and a part of the reason, where an empty value selects all.
const parkedFilter = `destination = $1 AND ($2 = '' OR key = $2) AND ($3 = '' OR type = $3) AND (cardinality($4::text[]) = 0 OR id = ANY ($4::text[])) ` +
	`AND strpos(reason, $5) > 0`

// readStatement returns the statement of one read: a first row about the read itself, then stragglers, then fresh
// rows. It is one statement because all of it must be of one snapshot, and one round trip because it is the relay's
// idle cost.
//
// The limit is a literal, since with a parameter a generic plan would assume a tenth of the table. Plans, over the log's four
// leaves: Nested Loop over Merge Appends of probes of outbox_N_tx; where ranged, an Append of Index Scans of outbox_N_tx; a Merge Append of
// Index Scans of outbox_N_seq.
//
// Single transactions are looked for by comparing (tx, seq), and a range of them by seq + 0, so that the index on seq is of
// no use: where one transaction has written most of the log, the statistics say that any will do, and the planner walks all
// of it in order of seq. A range is rare, and its estimate grows with the log, up to where PostgreSQL would compile the statement
// for seconds: without one, the literal false takes it out of the plan.
//
// Transactions that this snapshot can't see either are not probed: all their rows would be scanned to find that none is
// visible, and in a log that was restored into a younger cluster an id may belong to two transactions. There, the ids that
// the cluster hasn't come to are those of the old one, and to no snapshot visible: their rows are, if they were dumped.
//
// One of several lanes filters by slot; & 1023 because a row that somebody inserted by hand may have any. Since the filter
// may let nothing through for long, fresh rows are looked for among the next laneScan numbers only, counted from the
// first row that is there: the first row returned says how far that was. What stragglers cost is bounded by the rows of
// the transactions that were running.
//
// $1 hot, $2 single transactions, $3 and $4 a range of them, $5 the last straggler handed out, $6 the pinned snapshot
// or an empty string, $7 the first transaction id that this cluster hasn't given out, where the cursor is another's.
//
// In the first row, in the order of evaluation that the cursor's proof needs: the snapshot, which the statement has
// had from its beginning; the last number drawn, which is read when the scan fetches the sequence's tuple; next, which
// is evaluated on that tuple. Keep age() out of every WHERE: the planner evaluates stable functions there to estimate,
// and age() remembers its first answer for the rest of the transaction, from before the snapshot.
func (c Config) readStatement(lane relay.Lane, limit int, ranged bool) string {
	n := strconv.Itoa(limit)
	with, bound, mine, near := ``, `''`, ``, ``
	if lane.Of > 1 {
		with = `WITH near AS MATERIALIZED (
    SELECT seq + ` + strconv.Itoa(laneScan-1) + ` AS bound FROM ${outbox} WHERE $6::text = '' AND seq > $1::bigint ORDER BY seq LIMIT 1
)
`
		bound = `coalesce((SELECT bound::text FROM near), '')`
		mine = ` AND (slot & 1023) % ` + strconv.Itoa(lane.Of) + ` = ` + strconv.Itoa(lane.Index)
		near = ` AND seq <= (SELECT bound FROM near)`
	}
	return c.expand(with + `SELECT 0 AS arm, ` + drawn + ` AS seq, NULL::timestamptz AS time, pg_current_snapshot()::text AS id,
       ` + nextID + ` AS type,
       ` + serverIdentity + ` AS version,
       ` + bound + ` AS source, '' AS key, '' AS correlation_id, '' AS causation_id, '' AS category, '' AS headers, '' AS data
FROM ${sequence} s
UNION ALL (
SELECT 1, ` + logColumns + ` FROM (
    SELECT o.* FROM unnest($2::text[]) AS x (tx) CROSS JOIN LATERAL (
        SELECT * FROM ${outbox} o WHERE (o.tx, o.seq) > (x.tx::xid8, $5::bigint) AND (o.tx, o.seq) <= (x.tx::xid8, $1::bigint)` + mine + ` ORDER BY o.tx, o.seq LIMIT ` + n + `) o
    WHERE pg_visible_in_snapshot(x.tx::xid8, pg_current_snapshot()) OR x.tx::xid8 >= $7::text::xid8
    UNION ALL
    SELECT * FROM ${outbox} o WHERE ` + strconv.FormatBool(ranged) + ` AND o.tx >= $3::text::xid8 AND o.tx < $4::text::xid8
        AND (pg_visible_in_snapshot(o.tx, pg_current_snapshot()) OR o.tx >= $7::text::xid8)
        AND o.seq + 0 > $5::bigint AND o.seq + 0 <= $1::bigint` + mine + `
    OFFSET 0) stragglers
WHERE $6::text = '' OR pg_visible_in_snapshot(tx, $6::text::pg_snapshot) OR tx >= $7::text::xid8
ORDER BY seq LIMIT ` + n + `)
UNION ALL (
SELECT 2, ` + logColumns + ` FROM ${outbox} WHERE $6::text = '' AND seq > $1::bigint` + near + mine + ` ORDER BY seq LIMIT ` + n + `)`)
}

// laneScan is how many rows one read of one of several lanes looks at for fresh ones: an idle lane moves past the others'
// backlog in some ten milliseconds a read.
const laneScan = 20_000
