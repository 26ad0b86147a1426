-- What old events are told by: at this time, seq was the highest number in the log that had been given out.
CREATE TABLE ${mark} (
    seq INTEGER PRIMARY KEY,
    at  INTEGER NOT NULL
) STRICT;
