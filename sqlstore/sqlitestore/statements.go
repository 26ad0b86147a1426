package sqlitestore

import "strings"

// statements are the store's SQL texts with the tables' names filled in. Parameters are plain question marks, which
// every driver binds alike.
//
// Where several statements make a transaction, the first one writes: a transaction of database/sql is a deferred one,
// and one that begins by reading fails at its first write, without waiting, if another connection wrote in between
// (SQLITE_BUSY_SNAPSHOT). One that begins by writing waits for the lock, up to busy_timeout.
type statements struct {
	appendHead, appendRow string
	writeLock             string
	record                string
	recordHead            string
	recordTail            string
	started, unfinished   string
	finished              string
	forget                string
	acquire, holder       string
	renew                 string
	release               string
	newest                string
	read                  string
	checkpoint            string
	park                  string
	parkedKeys            string
	released              string
	held                  string
	unpark, parkAnew      string
	hasParked             string
	parked                string
	retry                 string
	discard               string
	noteRetry             string
	noteDiscard           string
	parkedActions         string
	scheduleHead          string
	scheduleRow           string
	firstDue, move, moved string
	cancel                string
	scheduled             string
	revoke, noteRevoke    string
	cancellations         string
	markDue, unmark, mark string
	old, readers          string
	removeOld             string
	consumers             string
	inboxPage, pruneInbox string
	oldAttempts           string
	pruneAttempts         string
}

const eventColumns = `time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data`

// entryColumns are an event's columns in the order of row.dest.
const entryColumns = `seq, time, id, type, version, source, coalesce(key, ''), coalesce(correlation_id, id), ` +
	`coalesce(causation_id, ''), coalesce(category, ''), coalesce(headers, ''), data`

func newStatements(c Config) statements {
	return statements{
		appendHead: c.expand(`INSERT INTO ${outbox} (` + eventColumns + `) VALUES `),
		appendRow:  `(` + strings.Repeat(`?, `, eventWidth-1) + `?)`,

		// Changes nothing, and takes the file's write lock all the same.
		writeLock: c.expand(`UPDATE ${migration} SET version = version WHERE 0`),

		record: c.expand(`INSERT INTO ${inbox} (consumer, event_id, handled_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`),

		recordHead: c.expand(`INSERT INTO ${inbox} (consumer, event_id, handled_at) VALUES `),
		recordTail: ` ON CONFLICT DO NOTHING RETURNING event_id`,

		started: c.expand(`INSERT INTO ${inbox_attempt} AS a (consumer, event_id, started, first_started_at, last_started_at) VALUES (?, ?, 1, ?, ?)
ON CONFLICT (consumer, event_id) DO UPDATE SET started = a.started + 1, last_started_at = excluded.last_started_at
WHERE a.started - a.finished < ?`),

		unfinished: c.expand(`SELECT started - finished FROM ${inbox_attempt} WHERE consumer = ? AND event_id = ?`),

		finished: c.expand(`UPDATE ${inbox_attempt} SET finished = finished + 1, last_error = nullif(?, '')
WHERE consumer = ? AND event_id = ? AND finished < started`),

		forget: c.expand(`DELETE FROM ${inbox_attempt} WHERE consumer = ? AND event_id = ?`),

		acquire: c.expand(`INSERT INTO ${lease} AS l (destination, lane, lanes, owner, epoch, expires_at) VALUES (?, ?, ?, ?, 1, ?)
ON CONFLICT (destination, lane) DO UPDATE
SET owner = excluded.owner, lanes = excluded.lanes, epoch = l.epoch + 1, expires_at = excluded.expires_at
WHERE l.owner = excluded.owner OR l.owner = '' OR l.expires_at < ?`),

		holder: c.expand(`SELECT owner, epoch, expires_at FROM ${lease} WHERE destination = ? AND lane = ?`),

		renew: c.expand(`UPDATE ${lease} SET expires_at = ? WHERE destination = ? AND lane = ? AND epoch = ? AND owner = ?`),

		release: c.expand(`UPDATE ${lease} SET owner = '', expires_at = ? WHERE destination = ? AND lane = ? AND epoch = ? AND owner = ?`),

		newest: c.expand(`SELECT epoch, seq, id FROM ${checkpoint} WHERE destination = ? AND lane = ?`),

		// One statement, so that all of it is of one snapshot. The first row is about the log itself: the highest
		// number that was given out, and which event the cursor's number belongs to. Plan: three probes of primary
		// keys, then SEARCH of the outbox by rowid, as many rows as are returned.
		read: c.expand(`SELECT 0 AS arm, max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = '${outbox}'), 0), coalesce((SELECT max(seq) FROM ${outbox}), 0)) AS seq,
       0 AS time, coalesce((SELECT id FROM ${outbox} WHERE seq = ?), '') AS id, '', '', '', '', '', '', '', '', ''
UNION ALL
SELECT * FROM (SELECT 1, ` + entryColumns + ` FROM ${outbox} WHERE seq > ? ORDER BY seq LIMIT ?)`),

		// The epoch is guarded together with the owner, since a file that was restored from an older copy gives out
		// epochs twice.
		checkpoint: c.expand(`INSERT INTO ${checkpoint} (destination, lane, epoch, seq, id, at)
SELECT destination, lane, epoch, ?, ?, ? FROM ${lease} WHERE destination = ? AND lane = ? AND epoch = ? AND owner = ?
ON CONFLICT (destination, lane) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, id = excluded.id, at = excluded.at`),

		park: c.expand(`INSERT INTO ${parked} (destination, key, behind, reason, parked_at, seq, time, slot, id, type, version, source, correlation_id, causation_id, category, headers, data)
SELECT ?, coalesce(key, ''), ?, ?, ?, seq, time, slot, id, type, version, source, correlation_id, causation_id, category, headers, data
FROM ${outbox} WHERE seq = ? ON CONFLICT DO NOTHING`),

		// Walks the keys by index probes.
		parkedKeys: c.expand(`WITH RECURSIVE ` + parkedKeys + ` SELECT key FROM keys WHERE key IS NOT NULL`),

		// Of each key, the events before the first one that stays parked, and those without a key that an operator
		// wants to be tried. Plan: per key a probe of the primary key and one of parked_blocking, then a range of the
		// primary key; SEARCH of parked_retry. The events themselves are fetched once they are chosen.
		released: c.expand(`WITH RECURSIVE ` + parkedKeys + `, free (key, below) AS (
    SELECT key, coalesce((SELECT min(b.seq) FROM ${parked} b WHERE b.destination = ? AND b.key = keys.key AND b.behind = 0 AND b.retry_at IS NULL), 9223372036854775807)
    FROM keys WHERE key IS NOT NULL
), candidates (number, row) AS (
    SELECT p.seq, p.rowid FROM free CROSS JOIN ${parked} p ON p.destination = ? AND p.key = free.key AND p.seq < free.below
    UNION ALL
    SELECT seq, rowid FROM ${parked} WHERE destination = ? AND key = '' AND retry_at IS NOT NULL
    ORDER BY 1 LIMIT ?
)
SELECT ` + entryColumns + ` FROM candidates CROSS JOIN ${parked} ON ${parked}.rowid = row ORDER BY number`),

		held: c.expand(`UPDATE ${lease} SET epoch = epoch WHERE destination = ? AND lane = ? AND epoch = ? AND owner = ?`),

		unpark: c.expand(`DELETE FROM ${parked} WHERE destination = ? AND key = ? AND seq = ?`),

		parkAnew: c.expand(`UPDATE ${parked} SET behind = ?, reason = ?, retry_at = NULL, parked_at = ? WHERE destination = ? AND key = ? AND seq = ?`),

		hasParked: c.expand(`SELECT EXISTS (SELECT 1 FROM ${parked} WHERE destination = ? AND key = ?)`),

		parked: c.expand(`SELECT ` + entryColumns + `, destination, behind, reason, parked_at, retry_at IS NOT NULL
FROM ${parked} WHERE ` + parkedFilter + ` ORDER BY seq LIMIT ?`),

		retry: c.expand(`UPDATE ${parked} SET retry_at = ? WHERE ` + parkedFilter + ` AND retry_at IS NULL`),

		discard: c.expand(`DELETE FROM ${parked} WHERE ` + parkedFilter),

		// Before the parked events change: it is the first statement, and it writes.
		noteRetry:   c.expand(noteParkedAction + ` AND retry_at IS NULL ORDER BY seq`),
		noteDiscard: c.expand(noteParkedAction + ` ORDER BY seq`),

		parkedActions: c.expand(`SELECT action, by, at, destination, seq, event_id, type, key, reason
FROM (SELECT *, event_id AS id FROM ${parked_action}) WHERE ` + parkedFilter + ` ORDER BY n DESC LIMIT ?`),

		scheduleHead: c.expand(`INSERT INTO ${scheduled} (not_before, written_at, ` + eventColumns + `) VALUES `),
		scheduleRow:  `(` + strings.Repeat(`?, `, eventWidth+1) + `?)`,

		// Plan: SEARCH of scheduled_due, one row.
		firstDue: c.expand(`SELECT min(not_before) FROM ${scheduled}`),

		// There is one writer at a time: what the second statement deletes is what the first has moved. Plan: SEARCH of
		// scheduled_due, which ends at the limit.
		move:  c.expand(`INSERT INTO ${outbox} (` + eventColumns + `) SELECT ` + eventColumns + ` FROM ${scheduled} WHERE not_before <= ? ORDER BY not_before, n LIMIT ?`),
		moved: c.expand(`DELETE FROM ${scheduled} WHERE n IN (SELECT n FROM ${scheduled} WHERE not_before <= ? ORDER BY not_before, n LIMIT ?)`),

		// Plan: SEARCH of scheduled_id, id by id.
		cancel: c.expand(`DELETE FROM ${scheduled} WHERE id IN (SELECT value FROM json_each(?))`),

		scheduled: c.expand(`SELECT ` + scheduledColumns + `, not_before, written_at FROM ${scheduled} WHERE ` + scheduledFilter + ` ORDER BY not_before, n LIMIT ?`),

		revoke: c.expand(`DELETE FROM ${scheduled} WHERE ` + scheduledFilter),

		noteRevoke: c.expand(`INSERT INTO ${cancellation} (by, at, event_id, type, key, source, not_before)
SELECT ?, ?, id, type, coalesce(key, ''), source, not_before FROM ${scheduled} WHERE ` + scheduledFilter + ` ORDER BY not_before, n`),

		cancellations: c.expand(`SELECT by, at, event_id, type, key, source, not_before
FROM (SELECT *, event_id AS id FROM ${cancellation}) WHERE ` + scheduledFilter + ` ORDER BY n DESC LIMIT ?`),

		// Plans of this and the next four: probes of primary keys, and a SCAN of the marks, which are few.
		markDue: c.expand(`SELECT EXISTS (SELECT 1 FROM ${mark} WHERE at > ? OR seq > drawn) OR drawn > 0 AND NOT EXISTS (SELECT 1 FROM ${mark} WHERE at >= ? OR seq = drawn)
FROM (SELECT ` + drawn + ` AS drawn)`),

		// Marks of a clock, or of a log, that was set back since; and those of events that are gone, but for the last.
		unmark: c.expand(`DELETE FROM ${mark} WHERE at > ? OR seq > ` + drawn + `
    OR seq < (SELECT max(seq) FROM ${mark}) AND seq < coalesce((SELECT min(seq) FROM ${outbox}), 9223372036854775807)`),

		mark: c.expand(`INSERT INTO ${mark} (at, seq) SELECT ?, ` + drawn),

		old: c.expand(`SELECT coalesce((SELECT max(seq) FROM ${mark} WHERE at < ?), 0), coalesce((SELECT min(seq) FROM ${outbox}), 0), ` + drawn),

		readers: c.expand(`SELECT d.destination, d.lane, coalesce(c.seq, 0), coalesce(c.id, ''), coalesce(o.id, ''), c.at
FROM (SELECT destination, lane FROM ${lease} UNION SELECT destination, lane FROM ${checkpoint}) d
LEFT JOIN ${checkpoint} c ON c.destination = d.destination AND c.lane = d.lane LEFT JOIN ${outbox} o ON o.seq = c.seq ORDER BY 1, 2`),

		// Plan: SEARCH of the outbox by rowid, as many rows as go.
		removeOld: c.expand(`DELETE FROM ${outbox} WHERE seq IN (SELECT seq FROM ${outbox} WHERE seq <= ? ORDER BY seq LIMIT ?)`),

		// Walks the consumers by probes of the primary key.
		consumers: c.expand(`WITH RECURSIVE c (name) AS (
    SELECT min(consumer) FROM ${inbox}
    UNION ALL
    SELECT (SELECT min(i.consumer) FROM ${inbox} i WHERE i.consumer > c.name) FROM c WHERE c.name IS NOT NULL
) SELECT name FROM c WHERE name IS NOT NULL`),

		// Plans: SEARCH of the inbox by its primary key, as many rows as a page has.
		inboxPage: c.expand(`SELECT coalesce(max(event_id), ''), count(*), coalesce(max(handled_at < ?), 0)
FROM (SELECT event_id, handled_at FROM ${inbox} WHERE consumer = ? AND event_id >= ? ORDER BY event_id LIMIT ?)`),

		pruneInbox: c.expand(`DELETE FROM ${inbox} WHERE consumer = ? AND event_id IN
    (SELECT event_id FROM ${inbox} WHERE consumer = ? AND event_id >= ? AND event_id <= ? AND handled_at < ? LIMIT ?)`),

		// Plan: SCAN of the attempts, which are few.
		pruneAttempts: c.expand(`DELETE FROM ${inbox_attempt} WHERE (consumer, event_id) IN (SELECT consumer, event_id FROM ${inbox_attempt} WHERE last_started_at < ? LIMIT ?)`),
		oldAttempts:   c.expand(`SELECT EXISTS (SELECT 1 FROM ${inbox_attempt} WHERE last_started_at < ?)`),
	}
}

// parkedKeys is a table expression of the keys that have parked events, and a NULL. Its parameters are the destination,
// twice.
const parkedKeys = `keys (key) AS (
    SELECT min(key) FROM ${parked} WHERE destination = ? AND key > ''
    UNION ALL
    SELECT (SELECT min(p.key) FROM ${parked} p WHERE p.destination = ? AND p.key > keys.key) FROM keys WHERE keys.key IS NOT NULL
)`

// parkedFilter selects parked events by destination, key (twice), type (twice), a JSON array of ids (twice) and a part of
// the reason, where an empty value selects all.
const parkedFilter = `destination = ? AND (? = '' OR key = ?) AND (? = '' OR type = ?) AND (? = '[]' OR id IN (SELECT value FROM json_each(?))) AND instr(reason, ?) > 0`

// noteParkedAction records what is about to happen to the parked events that follow.
const noteParkedAction = `INSERT INTO ${parked_action} (action, by, at, destination, seq, event_id, type, key, reason)
SELECT ?, ?, ?, destination, seq, id, type, key, reason FROM ${parked} WHERE ` + parkedFilter

// drawn is the highest number of the log that was given out.
const drawn = `max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = '${outbox}'), 0), coalesce((SELECT max(seq) FROM ${outbox}), 0))`

// scheduledColumns are a delayed event's columns in the order of row.dest.
var scheduledColumns = `n` + strings.TrimPrefix(entryColumns, `seq`)

// scheduledFilter selects delayed events by key (twice), type (twice), source (twice), a JSON array of ids (twice) and a
// range of not_before, where an empty value selects all.
const scheduledFilter = `(? = '' OR key = ?) AND (? = '' OR type = ?) AND (? = '' OR source = ?) ` +
	`AND (? = '[]' OR id IN (SELECT value FROM json_each(?))) AND not_before >= ? AND not_before < ?`
