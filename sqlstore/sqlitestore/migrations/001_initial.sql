-- Times are microseconds since 1970, UTC.

-- The log: append-only. SQLite has one writer at a time, so events commit in the order of seq, and a reader needs to
-- remember no more than the last seq that it saw. AUTOINCREMENT keeps a number from being given out twice where the
-- newest rows were deleted.
CREATE TABLE ${outbox} (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    time           INTEGER NOT NULL,
    slot           INTEGER NOT NULL,
    id             TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    version        TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    key            TEXT,
    correlation_id TEXT, -- NULL: the event's own id
    causation_id   TEXT,
    category       TEXT,
    headers        TEXT, -- a JSON object of strings
    data           TEXT    NOT NULL -- JSON
) STRICT;

-- Who publishes a lane. The epoch rises with every owner; whoever holds a lower one writes nothing more.
CREATE TABLE ${lease} (
    destination TEXT    NOT NULL,
    lane        INTEGER NOT NULL,
    lanes       INTEGER NOT NULL,
    owner       TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (destination, lane)
) STRICT, WITHOUT ROWID;

-- How far a lane was published: everything up to seq, whose event had this id.
CREATE TABLE ${checkpoint} (
    destination TEXT    NOT NULL,
    lane        INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    id          TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (destination, lane)
) STRICT, WITHOUT ROWID;

-- Events that were taken out of the stream, with a copy of the event, which outlives the log.
CREATE TABLE ${parked} (
    destination    TEXT    NOT NULL,
    seq            INTEGER NOT NULL,
    key            TEXT    NOT NULL, -- '' without
    slot           INTEGER NOT NULL,
    behind         INTEGER NOT NULL, -- 1: waits only for an earlier event of its key
    reason         TEXT    NOT NULL,
    parked_at      INTEGER NOT NULL,
    retry_at       INTEGER,          -- an operator asked for another try
    time           INTEGER NOT NULL,
    id             TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    version        TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    correlation_id TEXT,
    causation_id   TEXT,
    category       TEXT,
    headers        TEXT,
    data           TEXT    NOT NULL,
    PRIMARY KEY (destination, key, seq)
) STRICT;

-- What holds a key back, and what an operator wants to be tried again.
CREATE INDEX ${p}parked_blocking ON ${parked} (destination, key, seq) WHERE behind = 0 AND retry_at IS NULL;
CREATE INDEX ${p}parked_retry ON ${parked} (destination, key, seq) WHERE retry_at IS NOT NULL;

-- What a consumer has handled.
CREATE TABLE ${inbox} (
    consumer   TEXT    NOT NULL,
    event_id   TEXT    NOT NULL,
    handled_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, event_id)
) STRICT, WITHOUT ROWID;

-- Attempts at events that came again, of those that have neither been handled nor dead-lettered yet. Those that were
-- started and never finished took their process with them.
CREATE TABLE ${inbox_attempt} (
    consumer         TEXT    NOT NULL,
    event_id         TEXT    NOT NULL,
    started          INTEGER NOT NULL,
    finished         INTEGER NOT NULL DEFAULT 0,
    first_started_at INTEGER NOT NULL,
    last_started_at  INTEGER NOT NULL,
    last_error       TEXT, -- of the last attempt that finished
    PRIMARY KEY (consumer, event_id)
) STRICT, WITHOUT ROWID;
