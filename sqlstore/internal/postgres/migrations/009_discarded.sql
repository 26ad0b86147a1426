-- What an operator discarded is left out where it is read again: when the number of lanes changes, the new ones begin at the oldest
-- place of the old ones. A relay asks for discards among what it reads, as long as that was written before it opened the log.
CREATE INDEX ${p}parked_action_discarded ON ${parked_action} (destination, seq) WHERE action = 'discard';

-- So who writes checkpoints, as relays do, must be allowed to.
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
