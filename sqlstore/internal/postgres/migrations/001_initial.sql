-- The log: append-only, no UPDATE and no DELETE per event.
--
-- tx is the first column and seq the second on purpose: defaults are evaluated in column order, so a row has its transaction id
-- before it draws its number. The relay's cut rests on that, on the sequence's CACHE 1, and on nobody else setting the two.
CREATE TABLE ${outbox} (
    tx             xid8        NOT NULL DEFAULT pg_current_xact_id(),
    seq            bigint      NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME ${sequence} CACHE 1),
    time           timestamptz NOT NULL CHECK (time >= '0001-01-01 00:00+00' AND time < '9999-12-31 00:00+00'), -- what RFC 3339 can write
    slot           smallint    NOT NULL CHECK (slot BETWEEN 0 AND 1023),
    id             text        NOT NULL CHECK (octet_length(id) BETWEEN 1 AND 255),
    type           text        NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 255),
    version        text        NOT NULL CHECK (octet_length(version) BETWEEN 1 AND 255),
    source         text        NOT NULL CHECK (octet_length(source) BETWEEN 1 AND 255),
    key            text        CHECK (octet_length(key) BETWEEN 1 AND 255),
    correlation_id text        CHECK (octet_length(correlation_id) BETWEEN 1 AND 255), -- NULL: the event's own id
    causation_id   text        CHECK (octet_length(causation_id) BETWEEN 1 AND 255),
    category       text        CHECK (category IN ('domain', 'integration', 'system')),
    headers        json        CHECK (json_typeof(headers) = 'object'), -- of strings
    data           json        NOT NULL
) WITH (toast_tuple_target = 8160); -- keeps data of up to 8 KB in line: no second insert and no second index

CREATE INDEX ${p}outbox_seq ON ${outbox} (seq);
CREATE INDEX ${p}outbox_tx ON ${outbox} (tx, seq);

-- Who publishes a lane. The epoch rises with every owner; whoever holds a lower one writes nothing more.
CREATE TABLE ${lease} (
    destination text        NOT NULL,
    lane        integer     NOT NULL,
    lanes       integer     NOT NULL,
    owner       text        NOT NULL,
    epoch       bigint      NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (destination, lane)
) WITH (fillfactor = 50);

-- How far a lane was published. Inserted, never updated: an updated row's version chain would grow for as long as anybody in
-- the database holds a snapshot. The newest row is the one with the greatest (epoch, n).
CREATE TABLE ${checkpoint} (
    destination text        NOT NULL,
    lane        integer     NOT NULL,
    epoch       bigint      NOT NULL,
    n           bigint      NOT NULL,
    hot         bigint      NOT NULL,
    snap        pg_snapshot NOT NULL,
    next        xid8        NOT NULL,
    pin_snap    pg_snapshot,
    pin_next    xid8,
    pin_after   bigint,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (destination, lane, epoch, n)
);

-- Events that were taken out of the stream, with a copy of the event, which outlives the log's retention.
CREATE TABLE ${parked} (
    destination text        NOT NULL,
    seq         bigint      NOT NULL,
    key         text        NOT NULL, -- '' without
    slot        smallint    NOT NULL,
    behind      boolean     NOT NULL, -- waits only for an earlier event of its key
    reason      text        NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at    timestamptz,          -- an operator asked for another try
    time        timestamptz NOT NULL,
    id text NOT NULL, type text NOT NULL, version text NOT NULL, source text NOT NULL,
    correlation_id text, causation_id text, category text, headers json, data json NOT NULL,
    PRIMARY KEY (destination, key, seq)
);

-- What a consumer has handled.
CREATE TABLE ${inbox} (
    consumer   text COLLATE "C" NOT NULL,
    event_id   text COLLATE "C" NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);

-- Writes one event in the caller's transaction and returns its id: the outbox for producers in other languages.
--
--   SELECT surepost_write('OrderCreated', '{"orderId": 7}', key => '7', source => 'order-service');
CREATE FUNCTION ${write}(
    type           text,
    data           json,
    key            text        DEFAULT NULL,
    source         text        DEFAULT NULL,
    version        text        DEFAULT '1.0',
    correlation_id text        DEFAULT NULL,
    causation_id   text        DEFAULT NULL,
    category       text        DEFAULT NULL,
    headers        json        DEFAULT NULL,
    id             text        DEFAULT NULL,
    "time"         timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $write$
DECLARE
    hash      bytea;
    name      text;
    value     text;
    header    record;
    bytes     bigint := 0;
    max_bytes CONSTANT integer := 1048576; -- as surepost.DefaultMaxDataBytes
BEGIN
    key := nullif(key, '');
    FOR name, value IN VALUES ('type', coalesce(type, '')), ('source', coalesce(source, '')), ('version', coalesce(version, '')) LOOP
        IF value = '' THEN
            RAISE EXCEPTION 'surepost: % is empty', name USING ERRCODE = 'check_violation',
                HINT = format('Pass %s => ''…'' to ${p}write.', name);
        END IF;
    END LOOP;
    FOR name, value IN VALUES ('type', type), ('source', source), ('version', version), ('key', key), ('id', id),
        ('correlation_id', correlation_id), ('causation_id', causation_id) LOOP
        IF octet_length(value) > 255 THEN
            RAISE EXCEPTION 'surepost: % is % bytes long, the limit is 255', name, octet_length(value)
                USING ERRCODE = 'check_violation', HINT = 'Shorten it: it travels as an AMQP short string.';
        END IF;
    END LOOP;
    IF category NOT IN ('domain', 'integration', 'system') THEN
        RAISE EXCEPTION 'surepost: category is %', quote_literal(category) USING ERRCODE = 'check_violation',
            HINT = 'Use domain, integration or system, or leave it out.';
    END IF;
    IF "time" < '0001-01-01 00:00+00' OR "time" >= '9999-12-31 00:00+00' THEN
        RAISE EXCEPTION 'surepost: time is %', "time" USING ERRCODE = 'check_violation', HINT = 'Use a year from 1 to 9998.';
    END IF;
    IF data IS NULL THEN
        data := 'null';
    END IF;
    IF octet_length(data::text) > max_bytes THEN
        RAISE EXCEPTION 'surepost: data is % bytes long, the limit is %', octet_length(data::text), max_bytes
            USING ERRCODE = 'check_violation', HINT = 'Store the document elsewhere and send its address.';
    END IF;
    IF headers IS NOT NULL THEN
        IF json_typeof(headers) <> 'object' THEN
            RAISE EXCEPTION 'surepost: headers are a JSON %', json_typeof(headers) USING ERRCODE = 'check_violation',
                HINT = 'Pass a JSON object whose values are strings.';
        END IF;
        FOR header IN SELECT h.key AS k, json_typeof(h.value) AS kind, h.value #>> '{}' AS v FROM json_each(headers) h LOOP
            bytes := bytes + octet_length(header.k) + coalesce(octet_length(header.v), 0);
            IF header.k = '' OR octet_length(header.k) > 255 OR starts_with(header.k, 'x-') OR header.k IN ('CC', 'BCC') OR header.kind <> 'string' THEN
                RAISE EXCEPTION 'surepost: header % can''t be sent', quote_literal(header.k) USING ERRCODE = 'check_violation',
                    HINT = 'Keys are 1 to 255 bytes and don''t begin with x-, and aren''t CC or BCC; values are strings.';
            END IF;
        END LOOP;
        IF bytes > 32768 THEN
            RAISE EXCEPTION 'surepost: headers are % bytes in all, the limit is 32768', bytes USING ERRCODE = 'check_violation',
                HINT = 'Move facts into data.';
        END IF;
    END IF;
    IF coalesce(id, '') = '' THEN -- a UUIDv7: 48 bits of milliseconds, then random bits of a version 4
        id := encode(overlay(overlay(uuid_send(gen_random_uuid())
            PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6)
            PLACING set_byte(decode('00', 'hex'), 0, 112 | (get_byte(uuid_send(gen_random_uuid()), 0) & 15)) FROM 7 FOR 1), 'hex')::uuid::text;
    END IF;
    hash := sha256(convert_to(coalesce(key, id), 'UTF8'));
    INSERT INTO ${outbox} (time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data)
    VALUES (coalesce("time", clock_timestamp()), (get_byte(hash, 0) << 2) | (get_byte(hash, 1) >> 6), id, type, version, source, key,
        nullif(nullif(correlation_id, ''), id), nullif(causation_id, ''), category, headers, data);
    RETURN id;
END
$write$;
