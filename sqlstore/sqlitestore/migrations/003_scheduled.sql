-- Delayed events, until they are due: then they move into the log, in the order of (not_before, n).
CREATE TABLE ${scheduled} (
    n              INTEGER PRIMARY KEY AUTOINCREMENT,
    not_before     INTEGER NOT NULL,
    written_at     INTEGER NOT NULL,
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
    headers        TEXT,
    data           TEXT    NOT NULL
) STRICT;
CREATE INDEX ${p}scheduled_due ON ${scheduled} (not_before, n);
CREATE INDEX ${p}scheduled_id ON ${scheduled} (id);

-- Delayed events that operators took back.
CREATE TABLE ${cancellation} (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    by         TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    event_id   TEXT    NOT NULL,
    type       TEXT    NOT NULL,
    key        TEXT    NOT NULL, -- '' without
    source     TEXT    NOT NULL,
    not_before INTEGER NOT NULL
) STRICT;
