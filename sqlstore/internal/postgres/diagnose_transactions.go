package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/surepost/surepost/diagnosis"
)

// backend is somebody's session with the database, as pg_stat_activity shows it.
type backend struct {
	pid                      int64
	user, application, state string
	query                    string
	age                      float64 // of its transaction in seconds; negative if it is hidden from this user
}

// backendColumns are what backend.dest scans, of pg_stat_activity a. Without the privilege, times and states are NULL.
const backendColumns = `a.pid::bigint, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.state, ''), coalesce(a.query, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), -1)::float8`

func (b *backend) dest() []any {
	return []any{&b.pid, &b.user, &b.application, &b.state, &b.query, &b.age}
}

func (b backend) subject() string { return fmt.Sprintf("pid %d", b.pid) }

// String says who it is, what it does and since when.
func (b backend) String() string {
	s := fmt.Sprintf("backend %d", b.pid)
	if b.user != "" {
		s += " of user " + b.user
	}
	if b.application != "" {
		s += fmt.Sprintf(" (application_name %q)", b.application)
	}
	if b.age >= 0 {
		s += fmt.Sprintf(", in a transaction for %v", short(duration(b.age)))
	}
	switch query := shortQuery(b.query); {
	case b.age < 0:
		s += ", whose age and statement this user may not see (GRANT pg_read_all_stats)"
	case b.state == "active":
		s += ", running: " + query
	case b.state != "":
		s += ", " + b.state + ", last statement: " + query
	}
	return s
}

func (b backend) remedy(first string) string {
	return fmt.Sprintf("%s, or: SELECT pg_terminate_backend(%d)", first, b.pid)
}

// ours is a table expression of Surepost's tables: oid, name, and whether it is the log or one of its partitions. It reads the
// catalog only: pg_partition_tree would wait for a lock on the log.
const ours = `ours AS (
    SELECT c.oid, c.relname::text AS name, c.oid = log.oid OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = log.oid) AS log
    FROM (SELECT to_regclass($1) AS oid) log JOIN pg_class o ON o.oid = log.oid
    JOIN pg_class c ON c.relnamespace = o.relnamespace AND c.relkind IN ('r', 'p') AND starts_with(c.relname, $2)
)`

func (p *practice) oursArgs() []any {
	return []any{p.engine.config.name("outbox"), p.engine.config.Prefix}
}

// checkLocks finds locks on the tables that others wait for: a strong lock that somebody holds, or one that somebody waits
// for and behind which everybody who came later waits, too.
func (p *practice) checkLocks(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	rows, err := q.Query(ctx, `WITH `+ours+`, locks AS (
    SELECT l.pid, l.granted, l.mode, o.name FROM pg_locks l JOIN ours o ON o.oid = l.relation
    WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
), strong AS (
    SELECT pid, bool_and(granted) AS granted, string_agg(DISTINCT mode || ' on ' || name, ', ') AS what, count(*) AS n
    FROM locks WHERE mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') GROUP BY pid
)
SELECT `+backendColumns+`, s.granted, s.what, array_to_string(CASE WHEN s.granted THEN '{}' ELSE pg_blocking_pids(s.pid) END, ', '),
       (SELECT count(DISTINCT w.pid) FROM locks w WHERE NOT w.granted AND w.pid <> s.pid)
FROM strong s JOIN pg_stat_activity a ON a.pid = s.pid
ORDER BY s.granted DESC, a.xact_start LIMIT 50`, p.oursArgs()...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var b backend
		var granted bool
		var what, blockers string
		var waiting int64
		if err := rows.Scan(append(b.dest(), &granted, &what, &blockers, &waiting)...); err != nil {
			return nil, err
		}
		if f, wrong := judgeLock(b, granted, what, blockers, waiting); wrong {
			found = append(found, f)
		}
	}
	return fewer(found), rows.Err()
}

// judgeLock is about a lock that keeps writers or the relay waiting. One that nobody waits for, and that isn't old, is about
// to end: the retention takes some.
func judgeLock(b backend, granted bool, what, blockers string, waiting int64) (f diagnosis.Finding, wrong bool) {
	const passing = 2 // seconds
	if granted && waiting == 0 && b.age >= 0 && b.age < passing {
		return f, false
	}
	f = diagnosis.Finding{Code: "table-locked", Severity: diagnosis.Critical, Subject: b.subject()}
	if granted {
		f.Cause = fmt.Sprintf("%s holds %s: %d sessions wait for it", b, what, waiting)
		f.Remedy = b.remedy("end its transaction")
		return f, true
	}
	f.Cause = fmt.Sprintf("%s waits for %s behind pid %s, and everybody who comes later waits behind it: %d sessions", b, what, blockers, waiting)
	f.Remedy = b.remedy("let it try again with a lock_timeout") + ", which lets the others go on"
	return f, true
}

// checkTransactions finds open transactions that hold back events of their own, or the emptying of the log's partitions.
func (p *practice) checkTransactions(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	holders, err := p.logHolders(ctx, q)
	if err != nil {
		return nil, err
	}
	if p.hidden {
		// Without ages, what is there after a while is what is old.
		if holders, err = p.stillThere(ctx, q, holders); err != nil {
			return nil, err
		}
	}
	for _, h := range holders {
		if h.age >= 0 && duration(h.age) < p.limits.TransactionAge {
			continue
		}
		p.named[h.pid] = true
		found = append(found, judgeHolder(h, p.limits.TransactionAge))
	}
	return fewer(found), nil
}

// holder is a backend that has a lock on the log.
type holder struct {
	backend
	transaction string // virtual id, which tells two transactions of one backend apart
	writes      bool   // it has written events, or may have
}

func (p *practice) logHolders(ctx context.Context, q Querier) (list []holder, err error) {
	rows, err := q.Query(ctx, `WITH `+ours+`
SELECT `+backendColumns+`, l.virtualtransaction, l.writes
FROM (
    SELECT l.pid, l.virtualtransaction, bool_or(l.mode = 'RowExclusiveLock') AS writes
    FROM pg_locks l JOIN ours o ON o.oid = l.relation AND o.log
    WHERE l.locktype = 'relation' AND l.granted AND l.mode IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY 1, 2
) l JOIN pg_stat_activity a ON a.pid = l.pid
ORDER BY l.writes DESC, a.xact_start LIMIT 200`, p.oursArgs()...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var h holder
		if err := rows.Scan(append(h.dest(), &h.transaction, &h.writes)...); err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

// hiddenAge is for how long a transaction must be watched to be named, where its age can't be seen.
const hiddenAge = 2 * time.Second

// stillThere looks again, and returns those of the holders that are old or have been there for hiddenAge.
func (p *practice) stillThere(ctx context.Context, q Querier, holders []holder) (still []holder, err error) {
	before := map[string]bool{}
	for _, h := range holders {
		if h.age < 0 {
			before[h.transaction] = true
		} else {
			still = append(still, h)
		}
	}
	if len(before) == 0 {
		return still, nil
	}
	if _, err := queryRow(ctx, q, `SELECT 'slept' FROM pg_sleep($1::bigint)`, []any{int64(hiddenAge.Seconds())}, new(string)); err != nil {
		return nil, err
	}
	now, err := p.logHolders(ctx, q)
	for _, h := range now {
		if h.age < 0 && before[h.transaction] {
			still = append(still, h)
		}
	}
	return still, err
}

// judgeHolder is about a transaction that is old, or of unknown age.
func judgeHolder(h holder, limit time.Duration) diagnosis.Finding {
	if h.writes {
		return diagnosis.Finding{Code: "straggler", Severity: diagnosis.Warning, Subject: h.subject(),
			Cause:  h.String() + ": the events that it has written wait for its commit, and their part of the log can't be emptied; nobody else's events wait",
			Remedy: h.remedy("end its transaction where the program holds it open, and set idle_in_transaction_session_timeout")}
	}
	f := diagnosis.Finding{Code: "retention-held", Severity: diagnosis.Notice, Subject: h.subject(),
		Cause:  h.String() + ": it reads the log, and until it ends nothing of that can be emptied",
		Remedy: h.remedy("wait for it, if it is a backup or a report")}
	if h.age >= 0 && duration(h.age) > 60*limit {
		f.Severity = diagnosis.Warning
	}
	return f
}

// checkPrepared finds transactions that were prepared (two-phase commit) and that nobody has ended: they outlive sessions and
// restarts.
func (p *practice) checkPrepared(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	rows, err := q.Query(ctx, `WITH `+ours+`
SELECT x.gid, x.owner::text, x.database::text, x.database = current_database(), extract(epoch FROM clock_timestamp() - x.prepared)::float8,
       EXISTS (SELECT FROM pg_locks t JOIN pg_locks l USING (virtualtransaction) JOIN ours o ON o.oid = l.relation AND o.log
               WHERE t.pid IS NULL AND t.locktype = 'transactionid' AND t.transactionid = x.transaction AND l.pid IS NULL AND l.locktype = 'relation')
FROM pg_prepared_xacts x ORDER BY x.prepared LIMIT 50`, p.oursArgs()...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var gid, owner, database string
		var here, log bool
		var age float64
		if err := rows.Scan(&gid, &owner, &database, &here, &age, &log); err != nil {
			return nil, err
		}
		if duration(age) < p.limits.TransactionAge {
			continue
		}
		f := diagnosis.Finding{Code: "prepared-transaction", Severity: diagnosis.Warning, Subject: gid}
		f.Cause = fmt.Sprintf("it was prepared by %s in database %s %v ago, and nobody has ended it", owner, database, short(duration(age)))
		if log {
			f.Severity = diagnosis.Critical
			f.Cause += ": the events that it has written wait, and their part of the log can't be emptied"
		} else {
			f.Cause += ": no dead row of the database can be removed"
		}
		quoted := "'" + strings.ReplaceAll(gid, "'", "''") + "'"
		f.Remedy = "ask the transaction manager whether it committed, then in that database: COMMIT PREPARED " + quoted + ", or ROLLBACK PREPARED " + quoted
		found = append(found, f)
	}
	return fewer(found), rows.Err()
}

// checkXmin finds what keeps dead rows from being removed. The log has none; leases, attempts and whatever else the database
// holds do.
func (p *practice) checkXmin(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	const patience = 60 // times TransactionAge: reports and backups end sooner
	rows, err := q.Query(ctx, `SELECT `+backendColumns+` FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.datname = current_database()
  AND a.xact_start < clock_timestamp() - make_interval(secs => $1::bigint / 1000.0) ORDER BY a.xact_start LIMIT 50`, patience*p.limits.TransactionAge.Milliseconds())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var b backend
		if err := rows.Scan(b.dest()...); err != nil {
			return nil, err
		}
		if p.named[b.pid] {
			continue
		}
		found = append(found, diagnosis.Finding{Code: "xmin-held", Severity: diagnosis.Notice, Subject: b.subject(),
			Cause:  b.String() + ": no dead row of the database can be removed until it ends. Events flow on",
			Remedy: b.remedy("end its transaction")})
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	slots, err := p.heldBySlots(ctx, q)
	return append(fewer(found), slots...), err
}

// heldBySlots finds replication slots that nobody uses, and that hold back dead rows or the log of the server.
func (p *practice) heldBySlots(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	rows, err := q.Query(ctx, `SELECT slot_name::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, xmin IS NOT NULL
FROM pg_replication_slots WHERE NOT pg_is_in_recovery() AND NOT active AND NOT temporary ORDER BY 2 DESC LIMIT 50`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var slot string
		var bytes int64
		var holdsRows bool
		if err := rows.Scan(&slot, &bytes, &holdsRows); err != nil {
			return nil, err
		}
		if f, wrong := judgeSlot(slot, bytes, holdsRows); wrong {
			found = append(found, f)
		}
	}
	return fewer(found), rows.Err()
}

// judgeSlot is about a slot without a reader. One that was left a moment ago may have one again soon.
func judgeSlot(slot string, bytes int64, holdsRows bool) (f diagnosis.Finding, wrong bool) {
	const muchLog = 1 << 30
	f = diagnosis.Finding{Code: "slot-unused", Severity: diagnosis.Warning, Subject: "replication slot " + slot,
		Remedy: "bring its reader back, or: SELECT pg_drop_replication_slot('" + strings.ReplaceAll(slot, "'", "''") + "')"}
	switch {
	case bytes > muchLog:
		f.Cause = fmt.Sprintf("nobody reads it, and the server keeps %d MiB of its log for it: in the end the disk is full, and nobody can write", bytes>>20)
	case holdsRows:
		f.Cause = "nobody reads it, and no dead row of the database can be removed while it is there"
	default:
		return f, false
	}
	return f, true
}
