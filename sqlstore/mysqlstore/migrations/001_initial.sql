-- The log. A row is deleted when its event has been published or parked.
--
-- Texts are bytes: no collation, no padding, no conversion. Times are UTC. slot is computed by the writer.
CREATE TABLE IF NOT EXISTS ${outbox} (
    seq            BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    time           DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    slot           SMALLINT       NOT NULL DEFAULT 0,
    id             VARBINARY(255) NOT NULL,
    type           VARBINARY(255) NOT NULL,
    version        VARBINARY(255) NOT NULL DEFAULT '1.0',
    source         VARBINARY(255) NOT NULL,
    `key`          VARBINARY(255) NOT NULL DEFAULT '', -- empty: no order
    correlation_id VARBINARY(255),                     -- NULL: the event's own id
    causation_id   VARBINARY(255),
    category       VARBINARY(16),                      -- domain, integration or system
    headers        MEDIUMBLOB,                         -- a JSON object of strings
    data           LONGBLOB       NOT NULL             -- JSON
) ENGINE = InnoDB;

-- Who publishes a lane. The epoch rises with every owner; whoever holds a lower one writes
-- nothing more. Up to settled, nothing is left to be read. writes makes every statement change the row, so that it is affected with every setting of the client.
CREATE TABLE IF NOT EXISTS ${lease} (
    lane       INT            NOT NULL PRIMARY KEY,
    lanes      INT            NOT NULL,
    owner      VARBINARY(255) NOT NULL,
    epoch      BIGINT         NOT NULL,
    expires_at DATETIME(6)    NOT NULL,
    settled    BIGINT         NOT NULL DEFAULT 0,
    writes     BIGINT         NOT NULL DEFAULT 0
) ENGINE = InnoDB;

-- Events that were taken out of the log. n is the order in which they were.
CREATE TABLE IF NOT EXISTS ${parked} (
    n              BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    destination    VARBINARY(255) NOT NULL,
    seq            BIGINT         NOT NULL,
    behind         BOOLEAN        NOT NULL, -- waits only for an earlier event of its key
    reason         BLOB           NOT NULL,
    parked_at      DATETIME(6)    NOT NULL,
    retry_at       DATETIME(6),             -- an operator asked for another try
    time           DATETIME(6)    NOT NULL,
    slot           SMALLINT       NOT NULL,
    id             VARBINARY(255) NOT NULL,
    type           VARBINARY(255) NOT NULL,
    version        VARBINARY(255) NOT NULL,
    source         VARBINARY(255) NOT NULL,
    `key`          VARBINARY(255) NOT NULL,
    correlation_id VARBINARY(255),
    causation_id   VARBINARY(255),
    category       VARBINARY(16),
    headers        MEDIUMBLOB,
    data           LONGBLOB       NOT NULL,
    KEY parked_key (destination, `key`, n),
    KEY parked_seq (destination, seq)
) ENGINE = InnoDB;

-- What a consumer has handled. copies counts how often it came again.
CREATE TABLE IF NOT EXISTS ${inbox} (
    consumer   VARBINARY(255) NOT NULL,
    event_id   VARBINARY(255) NOT NULL,
    handled_at DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    copies     BIGINT         NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, event_id)
) ENGINE = InnoDB;

-- Attempts at events that came again, of those that have neither been handled nor dead-lettered yet. Those that were
-- started and never finished took their process with them.
CREATE TABLE IF NOT EXISTS ${inbox_attempt} (
    consumer         VARBINARY(255) NOT NULL,
    event_id         VARBINARY(255) NOT NULL,
    started          BIGINT         NOT NULL,
    finished         BIGINT         NOT NULL DEFAULT 0,
    first_started_at DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    last_started_at  DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    last_error       BLOB, -- of the last attempt that finished
    PRIMARY KEY (consumer, event_id)
) ENGINE = InnoDB;

-- Rows to lock for the keys that hash to them: a fixed number, so that the table doesn't grow with the keys.
CREATE TABLE IF NOT EXISTS ${lock} (
    slot SMALLINT NOT NULL PRIMARY KEY
) ENGINE = InnoDB;

INSERT IGNORE INTO ${lock} (slot)
WITH d (n) AS (SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5
    UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9 UNION ALL SELECT 10 UNION ALL SELECT 11
    UNION ALL SELECT 12 UNION ALL SELECT 13 UNION ALL SELECT 14 UNION ALL SELECT 15)
SELECT a.n * 256 + b.n * 16 + c.n FROM d a, d b, d c;
