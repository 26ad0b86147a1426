-- Who reads the log: each destination has a cursor per lane, and holds back the retention until it has passed what is there.
CREATE TABLE ${destination} (
    name       text PRIMARY KEY,
    lanes      integer     NOT NULL DEFAULT 1 CHECK (lanes BETWEEN 1 AND 1024), -- lane i has the slots with (slot & 1023) % lanes = i
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- A replay: what it takes of the log, and behind which number it ends. NULL for an ordinary destination.
    filter     json,
    until_seq  bigint,
    created_by text,
    done_at    timestamptz,
    until_snap pg_snapshot -- what was committed when it was created
);
INSERT INTO ${destination} (name) SELECT destination FROM ${lease} UNION SELECT destination FROM ${checkpoint};

-- Which relays are alive, to share out the lanes. An instance is a process: two with one owner's name are told apart by it.
CREATE TABLE ${relay} (
    destination text        NOT NULL,
    owner       text        NOT NULL,
    instance    text        NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (destination, owner)
) WITH (fillfactor = 50);

COMMENT ON TABLE ${lease} IS 'Only lanes below the destination''s number count. Others stay for their epochs, which must not be given out twice.';
