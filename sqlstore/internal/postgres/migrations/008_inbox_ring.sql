-- The inbox becomes a ring of leaves too, so that old records go by TRUNCATE. (consumer, event_id) must stay unique over all of
-- them, and a unique index is of one leaf. So the id alone says which leaf it is: the same id always comes to the same one, where the
-- primary key does what it did. An id that begins like a UUIDv7 has its milliseconds in the first 48 bits: four days of them go to one leaf,
-- and sixteen leaves are 64 days. All other ids go to a leaf of their own, where old records are deleted one by one.
--
-- Who records computes the leaf (inboxLeaf, whose test compares it with the expression below): as the partition key it would be planned anew
-- for every INSERT. What finds old records is a BRIN index, which costs an INSERT next to nothing.
--
-- Existing records move, which takes as long as copying them.
ALTER TABLE ${inbox} RENAME TO ${p}inbox_moving;

CREATE TABLE ${inbox} (
    consumer   text COLLATE "C" NOT NULL,
    event_id   text COLLATE "C" NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    leaf       smallint    NOT NULL -- 16 for ids that aren't UUIDv7
) PARTITION BY LIST (leaf);

DO $leaves$
DECLARE
    name text;
    leaf text;
BEGIN
    FOR i IN 0..16 LOOP
        name := '${p}inbox_' || CASE i WHEN 16 THEN 'other' ELSE i::text END;
        leaf := regexp_replace('${inbox}', '"[^"]+"$', quote_ident(name)); -- in the schema of the table
        EXECUTE format('CREATE TABLE %s PARTITION OF ${inbox} FOR VALUES IN (%s)', leaf, i);
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I PRIMARY KEY (consumer, event_id)', leaf, name || '_pkey');
        EXECUTE format('CREATE INDEX %I ON %s USING %s', name || '_handled_at', leaf,
            CASE i WHEN 16 THEN 'btree (handled_at)' ELSE 'brin (handled_at) WITH (autosummarize = on)' END);
    END LOOP;
END
$leaves$;

INSERT INTO ${inbox} (consumer, event_id, handled_at, leaf)
SELECT consumer, event_id, handled_at, CASE WHEN event_id ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-7'
    THEN ('x' || substr(event_id, 1, 8) || substr(event_id, 10, 4))::bit(48)::bigint / 345600000 % 16 ELSE 16 END
FROM ${inbox_moving} ORDER BY handled_at;

DO $grants$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.oid = '${inbox_moving}'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON ${inbox} TO %s', given.privilege_type, given.role);
    END LOOP;
END
$grants$;

DROP TABLE ${inbox_moving};
