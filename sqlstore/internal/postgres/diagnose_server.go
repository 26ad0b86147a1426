package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/relay"
)

// checkPrimary sees whether this is a server that Surepost can work with.
func (p *practice) checkPrimary(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	var version, database, host string
	var number int64
	var standby, readOnly bool
	// The transaction is a read-only one: reset_val is what the user's own begin with.
	_, err = queryRow(ctx, q, `SELECT current_setting('server_version'), current_setting('server_version_num')::bigint, pg_is_in_recovery(),
       (SELECT setting = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'), current_database(), coalesce(host(inet_server_addr()), 'this machine')`,
		nil, &version, &number, &standby, &readOnly, &database, &host)
	if err != nil {
		return nil, err
	}
	if number < 130000 {
		found = append(found, diagnosis.Finding{Code: "server-version", Severity: diagnosis.Critical, Subject: database,
			Cause: "PostgreSQL " + version + " is too old: xid8 and pg_snapshot came with 13", Remedy: "upgrade to PostgreSQL 13 or newer"})
	}
	if standby {
		found = append(found, diagnosis.Finding{Code: "standby", Severity: diagnosis.Critical, Subject: database,
			Cause:  "the server at " + host + " is a standby in recovery: nothing can be written, and its log can't be read in order",
			Remedy: "connect to the primary: name all hosts in the URL and add target_session_attrs=read-write"})
	}
	if readOnly && !standby {
		found = append(found, diagnosis.Finding{Code: "read-only", Severity: diagnosis.Critical, Subject: database,
			Cause:  "this user's transactions are read-only (default_transaction_read_only is on)",
			Remedy: "ALTER ROLE … RESET default_transaction_read_only, or ALTER DATABASE; or connect as another user"})
	}
	return found, nil
}

// checkConnection sees whether a pooler breaks the driver's prepared statements.
func (p *practice) checkConnection(ctx context.Context, q Querier) ([]diagnosis.Finding, error) {
	err := p.engine.checkPooler(ctx, q)
	if !errors.Is(err, relay.ErrHalt) {
		return nil, err
	}
	return []diagnosis.Finding{{Code: "pooler-mode", Severity: diagnosis.Critical,
		Cause:  "between this program and the database there is a pooler in transaction mode, and the driver's prepared statements don't survive it: " + err.Error(),
		Remedy: poolerRemedy}}, nil
}

// checkClock compares clocks. The answer was given at some moment of the round trip: the quickest of several leaves the
// least open.
func (p *practice) checkClock(ctx context.Context, q Querier) ([]diagnosis.Finding, error) {
	const rounds = 5
	var ahead, trip time.Duration
	for n := range rounds {
		var there time.Time
		from := time.Now()
		if _, err := queryRow(ctx, q, `SELECT clock_timestamp()`, nil, &there); err != nil {
			return nil, err
		}
		took := time.Since(from)
		if n == 0 || took < trip {
			ahead, trip = there.Sub(from.Add(took/2)), took
		}
	}
	return skewed(ahead, trip, p.limits.ClockSkew), nil
}

// skewed judges a clock that is ahead of this machine's by so much, give or take half a round trip.
func skewed(ahead, trip, limit time.Duration) []diagnosis.Finding {
	if ahead.Abs()-trip/2 <= limit {
		return nil
	}
	where := "ahead of"
	if ahead < 0 {
		where = "behind"
	}
	return []diagnosis.Finding{{Code: "clock-skew", Severity: diagnosis.Warning,
		Cause: fmt.Sprintf("the database's clock is %v %s this machine's (give or take %v): ages are shown wrong, and events with a NotBefore come "+
			"that much too early or late; leases go by the database's clock alone", ahead.Abs().Round(time.Millisecond), where, (trip / 2).Round(time.Millisecond)),
		Remedy: "let both machines follow a time server (chronyc tracking, timedatectl)"}}
}

// checkDurability finds settings with which a crash loses commits that were confirmed, and that the relay has published: ghosts,
// to the rest of the world.
func (p *practice) checkDurability(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	rows, err := q.Query(ctx, `SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		found = append(found, diagnosis.Finding{Code: "not-durable", Severity: diagnosis.Critical, Subject: name,
			Cause:  name + " is off: a crash of the machine can destroy the database, with all events in it",
			Remedy: "ALTER SYSTEM SET " + name + " = on; SELECT pg_reload_conf()"})
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	async, err := p.asynchronousCommits(ctx, q)
	return append(found, async...), err
}

// asynchronousCommits finds who may write events and doesn't wait for the disk when committing: by the server's default, the
// database's, or a role's. What a session sets for itself can't be seen from here.
func (p *practice) asynchronousCommits(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	rows, err := q.Query(ctx, p.engine.config.expand(`SELECT subject, remedy FROM (
    SELECT 'server' AS subject, 'ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()' AS remedy, 1 AS place
    FROM pg_settings WHERE name = 'synchronous_commit' AND source NOT IN ('session', 'user', 'database', 'database user') AND setting = 'off'
    UNION ALL
    SELECT concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname),
           format('ALTER %s RESET synchronous_commit', CASE WHEN r.oid IS NULL THEN format('DATABASE %I', d.datname) WHEN d.oid IS NULL THEN format('ROLE %I', r.rolname)
               ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END), 2
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND EXISTS (SELECT FROM unnest(s.setconfig) c WHERE lower(c) = 'synchronous_commit=off')
      AND (r.oid IS NULL OR to_regclass($1) IS NULL OR has_any_column_privilege(r.oid, to_regclass($1), 'INSERT'))
) async ORDER BY place, subject`), p.engine.config.name("outbox"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		f := diagnosis.Finding{Code: "asynchronous-commit", Severity: diagnosis.Critical}
		if err := rows.Scan(&f.Subject, &f.Remedy); err != nil {
			return nil, err
		}
		f.Cause = "synchronous_commit is off for whoever writes events there: a crash loses the last commits, and the relay may have published their events"
		found = append(found, f)
	}
	return fewer(found), rows.Err()
}

// checkActivityShown sees whether this user sees more of other users' backends than that they are there.
func (p *practice) checkActivityShown(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	var shown, tracked bool
	var user string
	if _, err := queryRow(ctx, q, `SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), current_setting('track_activities')::boolean, current_user::text`, nil, &shown, &tracked, &user); err != nil {
		return nil, err
	}
	p.hidden = !shown
	if !shown {
		found = append(found, diagnosis.Finding{Code: "activity-hidden", Severity: diagnosis.Notice, Subject: user,
			Cause:  "this user doesn't see what other users' backends run and since when: transactions that hold something back are named without their age",
			Remedy: `GRANT pg_read_all_stats TO ` + quoteIdent(user)})
	}
	if !tracked {
		found = append(found, diagnosis.Finding{Code: "activity-off", Severity: diagnosis.Notice,
			Cause: "track_activities is off: what backends run can't be seen", Remedy: "ALTER SYSTEM SET track_activities = on; SELECT pg_reload_conf()"})
	}
	return found, nil
}
