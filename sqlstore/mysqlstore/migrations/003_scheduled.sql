-- Delayed events, until they are due: then they move into the log, in the order of (not_before, n).
CREATE TABLE IF NOT EXISTS ${scheduled} (
    n              BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    not_before     DATETIME(6)    NOT NULL,
    written_at     DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    time           DATETIME(6)    NOT NULL,
    slot           SMALLINT       NOT NULL,
    id             VARBINARY(255) NOT NULL,
    type           VARBINARY(255) NOT NULL,
    version        VARBINARY(255) NOT NULL,
    source         VARBINARY(255) NOT NULL,
    `key`          VARBINARY(255) NOT NULL, -- empty: no order
    correlation_id VARBINARY(255),          -- NULL: the event's own id
    causation_id   VARBINARY(255),
    category       VARBINARY(16),
    headers        MEDIUMBLOB,
    data           LONGBLOB       NOT NULL,
    KEY scheduled_due (not_before, n),
    KEY scheduled_id (id)
) ENGINE = InnoDB;

-- Delayed events that operators took back.
CREATE TABLE IF NOT EXISTS ${cancellation} (
    n          BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    `by`       VARBINARY(255) NOT NULL,
    at         DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    id         VARBINARY(255) NOT NULL, -- of the event
    type       VARBINARY(255) NOT NULL,
    `key`      VARBINARY(255) NOT NULL,
    source     VARBINARY(255) NOT NULL,
    not_before DATETIME(6)    NOT NULL
) ENGINE = InnoDB;

-- The row that whoever moves events locks: beyond those of the keys.
INSERT IGNORE INTO ${lock} (slot) VALUES (4096);
