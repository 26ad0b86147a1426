-- Attempts at events that came again, of those that have neither been handled nor dead-lettered yet. Those that were started and
-- never finished took their process with them.
CREATE TABLE ${inbox_attempt} (
    consumer         text COLLATE "C" NOT NULL,
    event_id         text COLLATE "C" NOT NULL,
    started          bigint      NOT NULL,
    finished         bigint      NOT NULL DEFAULT 0,
    first_started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_error       text, -- of the last attempt that finished
    PRIMARY KEY (consumer, event_id)
) WITH (fillfactor = 50);
