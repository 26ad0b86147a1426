-- What an operator discarded isn't read again: when the number of lanes changes, the new ones begin at the oldest place of the old.
-- Each read behind the number that was the last one when its log was opened asks for the discards among its own.
CREATE INDEX ${p}parked_action_discarded ON ${parked_action} (destination, seq) WHERE action = 'discard';

-- So whoever writes checkpoints, which is a relay, asks for them.
DO $grants$
DECLARE
    grant_it text;
BEGIN
    FOR grant_it IN
        SELECT format('GRANT SELECT ON ${parked_action} TO %s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = '${checkpoint}'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE grant_it;
    END LOOP;
END
$grants$;
