-- The log becomes a ring of four leaves, so that old events go by TRUNCATE: without a dead tuple, and giving the space back. Where
-- an event lies never matters for correctness: every read looks at all leaves, and a leaf is emptied only when all that is in it
-- was passed by everybody (retain.go). Nothing else of the log changes: tx comes before seq, and seq is drawn from one sequence with
-- CACHE 1, which goes on where the old one stands.

-- Which leaf is written to. A row changes when the ring moves: every three and a half days by default.
CREATE TABLE ${ring} (
    leaf       smallint    PRIMARY KEY,
    current_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- when the ring moved to it
    left_at    timestamptz,                                    -- when the ring moved on; NULL for the one that is written to
    emptied    boolean     NOT NULL DEFAULT false              -- and it was truncated since
);
INSERT INTO ${ring} (leaf, left_at, emptied) VALUES (0, NULL, false), (1, now(), true), (2, now(), true), (3, now(), true);

-- The current leaf. In plpgsql, which keeps its plan: to a client that prepares nothing, a subquery in each INSERT would cost as much
-- as the row itself. It always finds a leaf, so that no INSERT fails for what maintenance did or didn't do.
CREATE FUNCTION ${ring}() RETURNS smallint LANGUAGE plpgsql STABLE AS $ring$
BEGIN
    RETURN coalesce((SELECT leaf FROM ${ring} WHERE left_at IS NULL LIMIT 1), 0);
END
$ring$;

LOCK TABLE ${outbox} IN ACCESS EXCLUSIVE MODE;

-- What is bound to the table's name and must be bound to the new one: its owner, the sequence's place, and what was granted. Whoever
-- may write events may write the new column, and ask which leaf it is.
CREATE TEMPORARY TABLE ${p}moving ON COMMIT DROP AS SELECT relowner::regrole AS owner FROM pg_class WHERE oid = '${outbox}'::regclass;
CREATE TEMPORARY TABLE ${p}moving_sequence ON COMMIT DROP AS SELECT last_value, is_called FROM ${sequence};
CREATE TEMPORARY TABLE ${p}moving_grant ON COMMIT DROP AS
WITH granted AS (
    SELECT '${outbox}' AS target, '' AS columns, (aclexplode(relacl)).* FROM pg_class WHERE oid = '${outbox}'::regclass
    UNION ALL
    SELECT '${sequence}', '', (aclexplode(relacl)).* FROM pg_class WHERE oid = '${sequence}'::regclass
    UNION ALL
    SELECT '${outbox}', format(' (%I)', attname), (aclexplode(attacl)).* FROM pg_attribute WHERE attrelid = '${outbox}'::regclass
), named AS (
    SELECT target, columns, privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
    FROM granted WHERE grantee <> (SELECT owner FROM ${p}moving)
)
SELECT DISTINCT format('GRANT %s%s ON %s TO %s', privilege_type, columns, target, role) AS statement FROM named
UNION SELECT format('GRANT INSERT (ring) ON ${outbox} TO %s', role) FROM named WHERE privilege_type = 'INSERT'
UNION SELECT format('GRANT SELECT ON ${ring} TO %s', role) FROM named WHERE privilege_type = 'INSERT';

-- The present table becomes leaf 0. The new column costs no pass over it, attaching it costs one. The identity goes first: a leaf has none
-- of its own (PostgreSQL 17 refuses to attach one that has).
ALTER TABLE ${outbox} ALTER COLUMN seq DROP IDENTITY;
ALTER TABLE ${outbox} ADD COLUMN ring smallint NOT NULL DEFAULT 0;
ALTER TABLE ${outbox} ALTER COLUMN ring DROP DEFAULT;
ALTER TABLE ${outbox} RENAME TO ${p}outbox_0;
ALTER INDEX ${outbox_seq} RENAME TO ${p}outbox_0_seq;
ALTER INDEX ${outbox_tx} RENAME TO ${p}outbox_0_tx;

CREATE TABLE ${outbox} (LIKE ${outbox_0} INCLUDING DEFAULTS) PARTITION BY LIST (ring); -- the columns of 001, in their order
ALTER TABLE ${outbox} ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME ${sequence} CACHE 1);
ALTER TABLE ${outbox} ALTER COLUMN ring SET DEFAULT ${ring}();
ALTER TABLE ${outbox} ATTACH PARTITION ${outbox_0} FOR VALUES IN (0);

CREATE TABLE ${outbox_1} PARTITION OF ${outbox} FOR VALUES IN (1) WITH (toast_tuple_target = 8160);
CREATE TABLE ${outbox_2} PARTITION OF ${outbox} FOR VALUES IN (2) WITH (toast_tuple_target = 8160);
CREATE TABLE ${outbox_3} PARTITION OF ${outbox} FOR VALUES IN (3) WITH (toast_tuple_target = 8160);
CREATE INDEX ${p}outbox_1_seq ON ${outbox_1} (seq);
CREATE INDEX ${p}outbox_2_seq ON ${outbox_2} (seq);
CREATE INDEX ${p}outbox_3_seq ON ${outbox_3} (seq);
CREATE INDEX ${p}outbox_1_tx ON ${outbox_1} (tx, seq);
CREATE INDEX ${p}outbox_2_tx ON ${outbox_2} (tx, seq);
CREATE INDEX ${p}outbox_3_tx ON ${outbox_3} (tx, seq);

SELECT setval('${sequence}', last_value, is_called) FROM ${p}moving_sequence;

DO $grants$
DECLARE
    grant_it text;
BEGIN
    FOR grant_it IN SELECT statement FROM ${p}moving_grant LOOP
        EXECUTE grant_it;
    END LOOP;
END
$grants$;
