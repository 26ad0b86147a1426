package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/surepost/surepost/relay"
)

// Check implements relay.Store, and serves producers and consumers at their start as well: it reports everything that
// is missing, each with its remedy. An error that matches relay.ErrHalt is one that waiting doesn't mend.
func (e *Engine) Check(ctx context.Context) error {
	return e.onConn(ctx, func(q Querier) error {
		if err := e.checkPooler(ctx, q); err != nil {
			return err // the statements below would fail for the same reason, or not
		}
		return errors.Join(e.checkServer(ctx, q), e.checkTables(ctx, q))
	})
}

func misfit(format string, args ...any) error {
	return fmt.Errorf("sqlstore: %w: "+format, append([]any{relay.ErrHalt}, args...)...)
}

func (e *Engine) checkServer(ctx context.Context, q Querier) error {
	var version, database string
	var number int64
	var standby, readOnly bool
	_, err := queryRow(ctx, q, `SELECT current_setting('server_version'), current_setting('server_version_num')::bigint, pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, current_database()`,
		nil, &version, &number, &standby, &readOnly, &database)
	if err != nil {
		return e.explain("ask the server for its version", err)
	}
	var errs []error
	if number < 130000 {
		errs = append(errs, misfit("PostgreSQL %s is too old: Surepost needs 13 or newer (xid8 and pg_snapshot)", version))
	}
	if readOnly && !standby {
		errs = append(errs, misfit("transactions of database %s are read-only for this user: see default_transaction_read_only (ALTER ROLE or ALTER DATABASE … SET)", database))
	}
	if standby {
		// Not ErrHalt: a promotion mends it.
		errs = append(errs, fmt.Errorf("sqlstore: database %s is a standby in recovery: connect to the primary (add target_session_attrs=read-write to a URL with several hosts)", database))
	}
	return errors.Join(errs...)
}

func (e *Engine) checkTables(ctx context.Context, q Querier) error {
	var there bool
	if _, err := queryRow(ctx, q, `SELECT to_regclass($1) IS NOT NULL`, []any{e.config.name("migration")}, &there); err != nil {
		return e.explain("look for the tables", err)
	}
	if !there {
		return misfit("the tables are not there (no %s): migrate the database with Store.Migrate or apply the script that Store.MigrationSQL returns", e.config.name("migration"))
	}
	done, err := e.appliedMigrations(ctx, q)
	if err != nil {
		return e.explain("read the database's migrations", err)
	}
	var missing []string
	for _, m := range migrations {
		if _, ok := done[m.version]; !ok {
			missing = append(missing, fmt.Sprintf("%03d_%s", m.version, m.name))
		}
	}
	if len(missing) > 0 {
		return misfit("the tables are behind this version of Surepost (missing: %s): migrate the database with Store.Migrate or apply the script that Store.MigrationSQL returns",
			strings.Join(missing, ", "))
	}
	return e.checkCut(ctx, q)
}

// checkCut checks what the cursor's proof rests on: the order of the columns, the transaction id's default, and a
// sequence that hands out its numbers one by one and upwards.
func (e *Engine) checkCut(ctx context.Context, q Querier) error {
	var (
		order, byDefault, cycles bool
		cache, increment         int64
		sequence                 string
	)
	found, err := queryRow(ctx, q, `SELECT t.attnum < s.attnum, coalesce(pg_get_expr(d.adbin, d.adrelid), '') ~ '^"?pg_current_xact_id"?\(\)$', q.seqcache, q.seqincrement, q.seqcycle, q.seqrelid::regclass::text
FROM pg_attribute t
JOIN pg_attribute s ON s.attrelid = t.attrelid AND s.attname = 'seq'
JOIN pg_sequence q ON q.seqrelid = pg_get_serial_sequence($1, 'seq')::regclass
LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum
WHERE t.attrelid = to_regclass($1) AND t.attname = 'tx'`, []any{e.config.name("outbox")}, &order, &byDefault, &cache, &increment, &cycles, &sequence)
	if err != nil {
		return e.explain("check the outbox table", err)
	}
	if !found {
		return misfit("table %s lacks its columns tx and seq, or seq's sequence: it was changed by hand; restore it from Store.MigrationSQL", e.config.name("outbox"))
	}
	var errs []error
	if !order || !byDefault {
		errs = append(errs, misfit("in table %s, column tx must come before seq and default to pg_current_xact_id(), or late commits are lost: restore the table from Store.MigrationSQL",
			e.config.name("outbox")))
	}
	if cache != 1 {
		errs = append(errs, misfit("sequence %s has CACHE %d, with which sessions draw numbers ahead of each other and events are lost: ALTER SEQUENCE %s CACHE 1, then reconnect the producers",
			sequence, cache, sequence))
	}
	if increment != 1 || cycles {
		errs = append(errs, misfit("sequence %s must step by 1 and never cycle: ALTER SEQUENCE %s INCREMENT 1 NO CYCLE", sequence, sequence))
	}
	return errors.Join(errs...)
}
