-- What operators did to parked events. Written in the statement that does it.
CREATE TABLE ${parked_action} (
    n           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    action      text        NOT NULL, -- retry or discard
    by          text        NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    destination text        NOT NULL,
    seq         bigint      NOT NULL,
    event_id    text        NOT NULL,
    type        text        NOT NULL,
    key         text        NOT NULL, -- '' without
    reason      text        NOT NULL  -- why it was parked
);
