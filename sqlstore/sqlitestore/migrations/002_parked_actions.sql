-- What operators did to parked events.
CREATE TABLE ${parked_action} (
    n           INTEGER PRIMARY KEY AUTOINCREMENT,
    action      TEXT    NOT NULL, -- retry or discard
    by          TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    destination TEXT    NOT NULL,
    seq         INTEGER NOT NULL,
    event_id    TEXT    NOT NULL,
    type        TEXT    NOT NULL,
    key         TEXT    NOT NULL, -- '' without
    reason      TEXT    NOT NULL  -- why it was parked
) STRICT;
