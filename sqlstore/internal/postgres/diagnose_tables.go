package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost/diagnosis"
)

// checkMigrations compares the tables' version with this program's.
func (p *practice) checkMigrations(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	e := p.engine
	var there bool
	if _, err := queryRow(ctx, q, `SELECT to_regclass($1) IS NOT NULL`, []any{e.config.name("migration")}, &there); err != nil {
		return nil, err
	}
	p.bare = true
	if !there {
		return []diagnosis.Finding{{Code: "tables-missing", Severity: diagnosis.Critical, Subject: e.config.name("migration"),
			Cause:  "the tables aren't where this connection looks (search_path, or Config.Schema and Config.Prefix)",
			Remedy: "surepost migrate up, or Store.Migrate; or set schema and prefix to where they are"}}, nil
	}
	done, err := e.appliedMigrations(ctx, q)
	if err != nil {
		return nil, err
	}
	missing, newer := compareMigrations(done)
	if len(missing) > 0 {
		found = append(found, diagnosis.Finding{Code: "migrations-missing", Severity: diagnosis.Critical, Subject: strings.Join(missing, ", "),
			Cause: "the tables are older than this program", Remedy: "surepost migrate up, or Store.Migrate"})
	}
	if len(newer) > 0 {
		found = append(found, diagnosis.Finding{Code: "migrations-newer", Severity: diagnosis.Warning, Subject: strings.Join(newer, ", "),
			Cause: "the tables were migrated by a newer Surepost than this program's", Remedy: "update this program"})
	}
	p.bare = len(missing) > 0
	return found, nil
}

// compareMigrations returns what this program has and the database hasn't, and the other way round.
func compareMigrations(done map[int]time.Time) (missing, newer []string) {
	last := 0
	for _, m := range migrations {
		if _, ok := done[m.version]; !ok {
			missing = append(missing, fmt.Sprintf("%03d_%s", m.version, m.name))
		}
		last = m.version
	}
	for version := range done {
		if version > last {
			newer = append(newer, fmt.Sprintf("%03d", version))
		}
	}
	slices.Sort(newer)
	return missing, newer
}

// checkTablesSound finds what was done to the tables by hand that loses events or makes them dear. It reads the catalog
// only, and waits for no lock.
func (p *practice) checkTablesSound(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	outbox := p.engine.config.name("outbox")
	rows, err := q.Query(ctx, `SELECT c.oid::regclass::text, c.relpersistence = 'u', c.relrowsecurity AND NOT (SELECT rolbypassrls OR rolsuper FROM pg_roles WHERE rolname = current_user),
       c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = c.oid AND i.indisvalid AND a.attname = 'seq'),
       c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = c.oid AND i.indisvalid AND a.attname = 'tx'),
       coalesce((SELECT t.attnum < s.attnum AND pg_get_expr(d.adbin, d.adrelid) ~ '^"?pg_current_xact_id"?\(\)$'
        FROM pg_attribute t JOIN pg_attribute s ON s.attrelid = t.attrelid AND s.attname = 'seq' LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum
        WHERE t.attrelid = to_regclass($1) AND t.attname = 'tx'), false)
FROM pg_class c
WHERE c.oid = to_regclass($1) OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass($1))
ORDER BY c.oid = to_regclass($1) DESC, 1`, outbox)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	first := true
	for rows.Next() {
		var table string
		var unlogged, hidesRows, noSeq, noTx, cut bool
		if err := rows.Scan(&table, &unlogged, &hidesRows, &noSeq, &noTx, &cut); err != nil {
			return nil, err
		}
		add := func(code, cause, remedy string) {
			found = append(found, diagnosis.Finding{Code: code, Severity: diagnosis.Critical, Subject: table, Cause: cause, Remedy: remedy})
		}
		if unlogged {
			add("table-unlogged", "the table is UNLOGGED: a crash empties it, and a standby has none of it", "ALTER TABLE "+table+" SET LOGGED")
		}
		if hidesRows {
			add("row-security", "row-level security hides rows from this user, and a relay would skip them for good", "ALTER TABLE "+table+" DISABLE ROW LEVEL SECURITY, or let the relay's user have BYPASSRLS")
		}
		for column, missing := range map[string]bool{"seq": noSeq, "tx": noTx} {
			if missing {
				add("index-missing", "there is no valid index that begins with "+column+": each read of the log scans the table",
					"restore it from surepost migrate sql (CREATE INDEX CONCURRENTLY, or REINDEX INDEX CONCURRENTLY an invalid one)")
			}
		}
		if first && !cut {
			add("table-changed", "column tx doesn't come before seq, or doesn't default to pg_current_xact_id(): late commits are lost", "restore the table from surepost migrate sql")
		}
		first = false
	}
	if err := rows.Err(); err != nil {
		return found, err
	}
	if first {
		found = append(found, diagnosis.Finding{Code: "tables-missing", Severity: diagnosis.Critical, Subject: outbox, Cause: "the table isn't there", Remedy: "restore it from surepost migrate sql"})
	}
	return fewer(found), nil
}

// checkSequence sees whether numbers are drawn in order and above those in use: what the cursor's proof rests on.
func (p *practice) checkSequence(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	c := p.engine.config
	sequence := c.name("sequence")
	var cache, increment, highest, hot, last int64
	var cycles bool
	there, err := queryRow(ctx, q, `SELECT seqcache, seqincrement, seqcycle FROM pg_sequence WHERE seqrelid = to_regclass($1)`, []any{sequence}, &cache, &increment, &cycles)
	if err != nil {
		return nil, err
	}
	if !there {
		return []diagnosis.Finding{{Code: "sequence-missing", Severity: diagnosis.Critical, Subject: sequence, Cause: "the outbox's sequence isn't there", Remedy: "restore it from surepost migrate sql"}}, nil
	}
	add := func(code, cause, remedy string) {
		found = append(found, diagnosis.Finding{Code: code, Severity: diagnosis.Critical, Subject: sequence, Cause: cause, Remedy: remedy})
	}
	if cache != 1 {
		add("sequence-cache", fmt.Sprintf("it has CACHE %d: sessions draw numbers ahead of each other, and the relay skips events", cache),
			"ALTER SEQUENCE "+sequence+" CACHE 1, then reconnect the producers")
	}
	if increment != 1 || cycles {
		add("sequence-step", fmt.Sprintf("it steps by %d (cycles: %v): it must step by 1 and never cycle", increment, cycles), "ALTER SEQUENCE "+sequence+" INCREMENT 1 NO CYCLE")
	}
	// What is in use is read before what was drawn, so that writers between the two don't matter. Plans: the last row of
	// outbox_seq, and of each lane's checkpoints.
	_, err = queryRow(ctx, q, c.expand(`SELECT coalesce((SELECT max(seq) FROM ${outbox}), 0), coalesce((SELECT max(c.hot) FROM ${lease} l CROSS JOIN LATERAL (
    SELECT hot FROM ${checkpoint} c WHERE c.destination = l.destination AND c.lane = l.lane ORDER BY epoch DESC, n DESC LIMIT 1) c), 0)`), nil, &highest, &hot)
	if err != nil {
		return found, err
	}
	if _, err := queryRow(ctx, q, c.expand(`SELECT `+drawn+` FROM ${sequence} s`), nil, &last); err != nil {
		return found, err
	}
	if last < max(highest, hot) {
		add("sequence-behind", fmt.Sprintf("it stands at %d, the table at %d, and a lane's cursor at %d: it was set back, or the table was copied without it; "+
			"numbers are drawn a second time, and events up to the cursor are skipped", last, highest, hot),
			fmt.Sprintf("stop the producers, then SELECT setval('%s', %d); a relay that halts says how to append what was written meanwhile", strings.ReplaceAll(sequence, "'", "''"), max(highest, hot)))
	}
	return found, nil
}

func grants(lacks []string, user string) string {
	statements := make([]string, len(lacks))
	for i, lack := range lacks {
		statements[i] = "GRANT " + lack + " TO " + quoteIdent(user)
	}
	return strings.Join(statements, "; ")
}
