package mysqlstore

// statements are the store's SQL texts with the tables' names filled in, but for those that are put together from lists.
// None needs a setting of the session: isolation levels are set for each transaction, and times are UTC_TIMESTAMP,
// which doesn't depend on time_zone.
type statements struct {
	append      string
	lockSlot    string
	record      string
	recorded    string
	recordedNew string
	begun       string
	unfinished  string
	started     string
	finished    string
	forget      string
	laneThere   string
	holder      string
	acquire     string
	renew       string
	release     string
	fence       string
	seen        string
	probe       string
	fresh       string
	rows        string
	stillThere  string
	remove      string
	park        string
	parkedKeys  string
	heads       string
	keyed       string
	keyless     string
	again       string
	unparked    string
	keysParked  string
	parked      string
	retry       string
	discard     string

	parkedChosen   string
	noteParked     string
	parkedActions  string
	scheduleRows   string
	mover          string
	nextDue        string
	due            string
	dueBefore      string
	chosenByID     string
	chosen         string
	removeDelayed  string
	noteCancelled  string
	scheduled      string
	cancellations  string
	writtenDelayed string

	oldAttempts   string
	pruneAttempts string
	consumers     string
	inboxPage     string
	oldRecords    string
	pruneInbox    string
}

// eventColumns are an event's columns, in the order of eventRow.
const eventColumns = "time, slot, id, type, version, source, `key`, correlation_id, causation_id, category, headers, data"

// readColumns are what row scans. The time is read as text, so that the DSN's parseTime and loc don't matter.
const readColumns = "seq, CAST(time AS CHAR), id, type, version, source, `key`, correlation_id, causation_id, category, headers, data"

// delayedColumns are those of a delayed event.
const delayedColumns = "n, CAST(time AS CHAR), id, type, version, source, `key`, correlation_id, causation_id, category, headers, data"

const inMicroseconds = "UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND"

// ago is a time so many microseconds ago.
const ago = "UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND"

func newStatements(c Config) statements {
	return statements{
		// Followed by one (?, …) for each event.
		append: c.expand("INSERT INTO ${outbox} (" + eventColumns + ") VALUES "),

		lockSlot: c.expand("SELECT slot FROM ${lock} WHERE slot = ? FOR UPDATE"),

		// One row is affected where the id is new, and two where it was known. The update changes the row, which makes
		// that so whether the client counts changed rows or found ones (clientFoundRows).
		//
		// A concurrent insert of the same id is waited for. ON DUPLICATE KEY UPDATE waits with an exclusive lock, so
		// that of several waiters one goes on at a time where the first commits; INSERT IGNORE's shared locks would
		// make them deadlock. Where the first rolls back InnoDB may still end all waiters but one as deadlocked (MySQL
		// 8.0 manual, §17.7.3, "Locks Set by Different SQL Statements in InnoDB"): Transact tries those again.
		//
		// Followed by one (?, ?) for each id, then recordedAgain.
		record: c.expand("INSERT INTO ${inbox} (consumer, event_id) VALUES "),

		// Plan: ranges of the primary key.
		recordedNew: c.expand("SELECT event_id FROM ${inbox} WHERE consumer = ? AND copies = 0 AND event_id IN "),

		recorded: c.expand("SELECT COUNT(*) FROM ${inbox} WHERE consumer = ? AND event_id = ?"),

		begun: c.expand("INSERT INTO ${inbox_attempt} (consumer, event_id, started) VALUES (?, ?, 0) ON DUPLICATE KEY UPDATE started = started"),

		unfinished: c.expand("SELECT started - finished FROM ${inbox_attempt} WHERE consumer = ? AND event_id = ? FOR UPDATE"),

		started: c.expand("UPDATE ${inbox_attempt} SET started = started + 1, last_started_at = UTC_TIMESTAMP(6) WHERE consumer = ? AND event_id = ?"),

		finished: c.expand("UPDATE ${inbox_attempt} SET finished = finished + 1, last_error = ? WHERE consumer = ? AND event_id = ? AND finished < started"),

		forget: c.expand("DELETE FROM ${inbox_attempt} WHERE consumer = ? AND event_id = ?"),

		laneThere: c.expand("INSERT IGNORE INTO ${lease} (lane, lanes, owner, epoch, expires_at) VALUES (?, ?, '', 0, UTC_TIMESTAMP(6))"),

		holder: c.expand("SELECT owner, epoch, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at), settled FROM ${lease} WHERE lane = ? FOR UPDATE"),

		acquire: c.expand("UPDATE ${lease} SET owner = ?, lanes = ?, epoch = epoch + 1, writes = writes + 1, expires_at = " + inMicroseconds + " WHERE lane = ?"),

		renew: c.expand("UPDATE ${lease} SET writes = writes + 1, expires_at = " + inMicroseconds + " WHERE " + ownLease),

		release: c.expand("UPDATE ${lease} SET writes = writes + 1, owner = '', expires_at = UTC_TIMESTAMP(6) WHERE " + ownLease),

		// Guards a transaction by the lease. It writes, where a locking read would do on a single server, because a
		// cluster certifies transactions by what they write.
		fence: c.expand("UPDATE ${lease} SET writes = writes + 1, settled = GREATEST(settled, ?) WHERE " + ownLease),

		// Both followed by spans. Plan: ranges of the primary key; without FORCE INDEX it may be a scan of a table that
		// is small in rows and large in ones that aren't purged.
		seen:  c.expand("SELECT seq, `key` FROM ${outbox} FORCE INDEX (PRIMARY) WHERE "),
		probe: c.expand("SELECT seq FROM ${outbox} FORCE INDEX (PRIMARY) WHERE "),

		// Followed by a number and a limit. Plan: a range of the primary key, in its order.
		fresh: c.expand("SELECT " + readColumns + " FROM ${outbox} FORCE INDEX (PRIMARY) WHERE seq > "),

		// Followed by a list of numbers. Plan: ranges of the primary key.
		rows: c.expand("SELECT " + readColumns + " FROM ${outbox} FORCE INDEX (PRIMARY) WHERE seq IN "),

		// Followed by a list of numbers and one of ids. Plan: ranges of the primary key.
		stillThere: c.expand("SELECT seq FROM ${outbox} FORCE INDEX (PRIMARY) WHERE seq IN "),

		// The numbers are a JSON array; followed by a list of ids. A join, because a DELETE whose condition is a list of
		// numbers may be done by a scan of the table, which waits for the rows of transactions that are open. Plan: the
		// primary key, number by number.
		remove: c.expand("DELETE o FROM JSON_TABLE(?, '$[*]' COLUMNS (seq BIGINT PATH '$')) k " +
			"STRAIGHT_JOIN ${outbox} o FORCE INDEX (PRIMARY) ON o.seq = k.seq WHERE o.id IN "),

		// Followed by one (?, …) for each event.
		park: c.expand("INSERT INTO ${parked} (destination, seq, behind, reason, parked_at, " + eventColumns + ") VALUES "),

		// Plan: index parked_key, group by group.
		parkedKeys: c.expand("SELECT DISTINCT `key` FROM ${parked} WHERE destination = ? AND `key` > ''"),

		// The keys whose first event may go. Plan: index parked_key, group by group, and the primary key.
		heads: c.expand("SELECT p.`key` FROM (SELECT MIN(n) AS n FROM ${parked} WHERE destination = ? AND `key` > '' GROUP BY `key`) first " +
			"JOIN ${parked} p ON p.n = first.n WHERE p.behind OR p.retry_at IS NOT NULL ORDER BY p.n LIMIT "),

		// Plan: a range of index parked_key, in its order.
		keyed: c.expand("SELECT n, behind OR retry_at IS NOT NULL, " + readColumns + " FROM ${parked} WHERE destination = ? AND `key` = ? ORDER BY n LIMIT "),

		keyless: c.expand("SELECT n, TRUE, " + readColumns + " FROM ${parked} WHERE destination = ? AND `key` = '' AND retry_at IS NOT NULL ORDER BY n LIMIT "),

		again: c.expand("UPDATE ${parked} SET behind = ?, reason = ?, retry_at = NULL, parked_at = UTC_TIMESTAMP(6) WHERE destination = ? AND seq = ? AND id = ?"),

		// Followed by a list of numbers and one of ids. Plan: ranges of index parked_seq.
		unparked: c.expand("DELETE FROM ${parked} WHERE destination = ? AND seq IN "),

		// Followed by a list of keys. Plan: index parked_key, group by group.
		keysParked: c.expand("SELECT DISTINCT `key` FROM ${parked} WHERE destination = ? AND `key` IN "),

		parked: c.expand("SELECT destination, behind, reason, CAST(parked_at AS CHAR), retry_at IS NOT NULL, " + readColumns + " FROM ${parked} WHERE "),

		// Followed by a list of numbers. Plan: ranges of the primary key.
		retry:   c.expand("UPDATE ${parked} SET retry_at = UTC_TIMESTAMP(6) WHERE n IN "),
		discard: c.expand("DELETE FROM ${parked} WHERE n IN "),

		// Followed by a filter: the rows to be changed, locked. So that the record is of what is changed.
		parkedChosen: c.expand("SELECT n FROM ${parked} WHERE "),

		// Followed by a list of numbers.
		noteParked: c.expand("INSERT INTO ${parked_action} (action, `by`, destination, seq, id, type, `key`, reason) " +
			"SELECT ?, ?, destination, seq, id, type, `key`, reason FROM ${parked} FORCE INDEX (PRIMARY) WHERE n IN "),

		parkedActions: c.expand("SELECT action, `by`, CAST(at AS CHAR), destination, seq, id, type, `key`, reason FROM ${parked_action} WHERE "),

		// Followed by one (?, …) for each event.
		scheduleRows: c.expand("INSERT INTO ${scheduled} (not_before, " + eventColumns + ") VALUES "),

		mover: c.expand("SELECT slot FROM ${lock} WHERE slot = 4096 FOR UPDATE SKIP LOCKED"),

		// Plan: index scheduled_due, its first entry.
		nextDue: c.expand("SELECT TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), MIN(not_before)) FROM ${scheduled}"),

		// Followed by a limit and skipLocked. Plan: a range of index scheduled_due, in its order, which ends at the limit.
		due: c.expand("SELECT CAST(not_before AS CHAR), " + delayedColumns + " FROM ${scheduled} FORCE INDEX (scheduled_due) " +
			"WHERE not_before <= UTC_TIMESTAMP(6) ORDER BY not_before, n LIMIT "),

		// The delayed events before one, with the same time twice. Plan: two ranges of index scheduled_due.
		dueBefore: c.expand("SELECT n, CAST(not_before AS CHAR), `key` FROM ${scheduled} FORCE INDEX (scheduled_due) WHERE not_before < ? " +
			"UNION ALL SELECT n, CAST(not_before AS CHAR), `key` FROM ${scheduled} FORCE INDEX (scheduled_due) WHERE not_before = ? AND n < ?"),

		// Followed by a list of ids. Plan: ranges of index scheduled_id.
		chosenByID: c.expand("SELECT n FROM ${scheduled} FORCE INDEX (scheduled_id) WHERE id IN "),

		// Followed by a filter.
		chosen: c.expand("SELECT n FROM ${scheduled} WHERE "),

		// The numbers are a JSON array. Plan: the primary key, number by number: see remove.
		removeDelayed: c.expand("DELETE s FROM JSON_TABLE(?, '$[*]' COLUMNS (n BIGINT PATH '$')) k " +
			"STRAIGHT_JOIN ${scheduled} s FORCE INDEX (PRIMARY) ON s.n = k.n"),

		// Followed by a list of numbers.
		noteCancelled: c.expand("INSERT INTO ${cancellation} (`by`, id, type, `key`, source, not_before) " +
			"SELECT ?, id, type, `key`, source, not_before FROM ${scheduled} FORCE INDEX (PRIMARY) WHERE n IN "),

		// Both followed by a filter.
		scheduled:     c.expand("SELECT CAST(not_before AS CHAR), CAST(written_at AS CHAR), " + delayedColumns + " FROM ${scheduled} WHERE "),
		cancellations: c.expand("SELECT `by`, CAST(at AS CHAR), id, type, `key`, source, CAST(not_before AS CHAR) FROM ${cancellation} WHERE "),

		// Followed by a list of numbers.
		writtenDelayed: c.expand("SELECT CAST(not_before AS CHAR), " + delayedColumns + " FROM ${scheduled} FORCE INDEX (PRIMARY) WHERE n IN "),

		// Plan: a scan of the attempts, which are few.
		oldAttempts: c.expand("SELECT consumer, event_id FROM ${inbox_attempt} WHERE last_started_at < " + ago + " LIMIT ?" + skipLocked),
		// A JSON array of hexadecimal pairs. Plan: the primary key, pair by pair: see remove.
		pruneAttempts: c.expand("DELETE a FROM JSON_TABLE(?, '$[*]' COLUMNS (consumer VARCHAR(510) PATH '$[0]', id VARCHAR(510) PATH '$[1]')) k " +
			"STRAIGHT_JOIN ${inbox_attempt} a FORCE INDEX (PRIMARY) ON a.consumer = UNHEX(k.consumer) AND a.event_id = UNHEX(k.id)"),

		// Plan: the primary key, group by group.
		consumers: c.expand("SELECT DISTINCT consumer FROM ${inbox}"),

		// Plans: a range of the primary key, in its order, which ends at the limit; the same, locked; the primary key, id by
		// id: see remove.
		inboxPage: c.expand("SELECT COALESCE(MAX(event_id), ''), COUNT(*), CAST(COALESCE(SUM(handled_at < " + ago + "), 0) AS SIGNED) FROM " +
			"(SELECT event_id, handled_at FROM ${inbox} FORCE INDEX (PRIMARY) WHERE consumer = ? AND event_id >= ? ORDER BY event_id LIMIT ?) p"),
		oldRecords: c.expand("SELECT event_id FROM ${inbox} FORCE INDEX (PRIMARY) WHERE consumer = ? AND event_id >= ? AND event_id <= ? AND handled_at < " + ago +
			" LIMIT ?" + skipLocked),
		// The ids are a JSON array of hexadecimal texts.
		pruneInbox: c.expand("DELETE i FROM JSON_TABLE(?, '$[*]' COLUMNS (id VARCHAR(510) PATH '$')) k " +
			"STRAIGHT_JOIN ${inbox} i FORCE INDEX (PRIMARY) ON i.consumer = ? AND i.event_id = UNHEX(k.id)"),
	}
}

// recordedAgain ends a record statement.
const recordedAgain = " ON DUPLICATE KEY UPDATE copies = copies + 1"

// ownLease compares owner and epoch: after a failover that lost the tail, an epoch may be given out twice.
const ownLease = "lane = ? AND epoch = ? AND owner = ?"

// skipLocked takes the rows that nobody else has, and locks them.
const skipLocked = " FOR UPDATE SKIP LOCKED"
