-- What operators did to parked events.
CREATE TABLE IF NOT EXISTS ${parked_action} (
    n           BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    action      VARBINARY(16)  NOT NULL, -- retry or discard
    `by`        VARBINARY(255) NOT NULL,
    at          DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    destination VARBINARY(255) NOT NULL,
    seq         BIGINT         NOT NULL,
    id          VARBINARY(255) NOT NULL, -- of the event
    type        VARBINARY(255) NOT NULL,
    `key`       VARBINARY(255) NOT NULL,
    reason      BLOB           NOT NULL  -- why it was parked
) ENGINE = InnoDB;
