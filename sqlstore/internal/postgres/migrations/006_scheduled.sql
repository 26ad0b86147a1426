-- Delayed events, until they are due. Then they move into the log, a batch in one transaction, in the order of (not_before, n).
CREATE TABLE ${scheduled} (
    n              bigint      GENERATED ALWAYS AS IDENTITY,
    not_before     timestamptz NOT NULL,
    written_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    tx             xid8        NOT NULL DEFAULT pg_current_xact_id(), -- whose it is, until it commits
    time           timestamptz NOT NULL,
    slot           smallint    NOT NULL,
    id             text        NOT NULL,
    type           text        NOT NULL,
    version        text        NOT NULL,
    source         text        NOT NULL,
    key            text,
    correlation_id text, -- NULL: the event's own id
    causation_id   text,
    category       text,
    headers        json,
    data           json        NOT NULL,
    PRIMARY KEY (not_before, n)
);
CREATE INDEX ${p}scheduled_id ON ${scheduled} (id);
CREATE INDEX ${p}scheduled_key ON ${scheduled} (key, not_before, n);

-- Delayed events that operators took back. Written in the statement that does it.
CREATE TABLE ${cancellation} (
    n          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    by         text        NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    event_id   text        NOT NULL,
    type       text        NOT NULL,
    key        text        NOT NULL, -- '' without
    source     text        NOT NULL,
    not_before timestamptz NOT NULL
);

-- A parameter can't be added to a function: there is a new one, with the old one's grants.
ALTER FUNCTION ${write}(text, json, text, text, text, text, text, text, json, text, timestamptz) RENAME TO ${p}write_005;

-- Writes one event in the caller's transaction and returns its id: the outbox for producers in other languages. With a
-- not_before in the future the event is delayed until then.
--
--   SELECT surepost_write('OrderCreated', '{"orderId": 7}', key => '7', source => 'order-service');
--   SELECT surepost_write('PaymentOverdue', '{"orderId": 7}', key => '7', source => 'order-service', not_before => now() + interval '7 days');
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
    "time"         timestamptz DEFAULT NULL,
    not_before     timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $write$
DECLARE
    hash      bytea;
    slot      smallint;
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
    IF not_before < '0001-01-01 00:00+00' OR not_before >= '9999-12-31 00:00+00' THEN
        RAISE EXCEPTION 'surepost: not_before is %', not_before USING ERRCODE = 'check_violation',
            HINT = 'Use a year from 1 to 9998, or leave it out to publish at once.';
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
    slot := (get_byte(hash, 0) << 2) | (get_byte(hash, 1) >> 6);
    correlation_id := nullif(nullif(correlation_id, ''), id);
    causation_id := nullif(causation_id, '');
    "time" := coalesce("time", greatest(clock_timestamp(), not_before));
    IF not_before > clock_timestamp() THEN
        INSERT INTO ${scheduled} (not_before, time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data)
        VALUES (not_before, "time", slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data);
    ELSE
        INSERT INTO ${outbox} (time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data)
        VALUES ("time", slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data);
    END IF;
    RETURN id;
END
$write$;

DO $grants$
DECLARE
    acl   aclitem[];
    given record;
BEGIN
    SELECT proacl INTO acl FROM pg_proc
    WHERE oid = '${write_005}(text, json, text, text, text, text, text, text, json, text, timestamptz)'::regprocedure;
    IF acl IS NOT NULL THEN -- otherwise it is everybody's, as a new one is
        REVOKE ALL ON FUNCTION ${write} FROM PUBLIC;
        FOR given IN SELECT grantee, is_grantable FROM aclexplode(acl) LOOP
            EXECUTE 'GRANT EXECUTE ON FUNCTION ${write} TO '
                || CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END
                || CASE WHEN given.is_grantable AND given.grantee <> 0 THEN ' WITH GRANT OPTION' ELSE '' END;
        END LOOP;
    END IF;
END
$grants$;
DROP FUNCTION ${write_005}(text, json, text, text, text, text, text, text, json, text, timestamptz);
