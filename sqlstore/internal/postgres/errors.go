package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// explain says what was being done and, for the errors that operators meet, what to do about it. The cause stays in
// the chain.
func (e *Engine) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	hint := e.hint(sqlState(err))
	if strings.Contains(err.Error(), "unsupported startup parameter") { // pgbouncer's, whose errors have one code
		hint = "take it out of the URL (Config.Schema does the work of search_path), or name it in pgbouncer's ignore_startup_parameters"
	}
	if secured := e.tlsHint(err); secured != "" {
		hint = secured
	}
	if hint != "" {
		return fmt.Errorf("sqlstore: %s: %w (%s)", doing, err, hint)
	}
	return fmt.Errorf("sqlstore: %s: %w", doing, err)
}

// sqlState returns the server's code for the error, or "" if it isn't the server's.
func sqlState(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState()
	}
	return ""
}

// Dial makes a connection, and says what to look at where that fails.
func (e *Engine) Dial(ctx context.Context) (Conn, error) {
	if e.dialer == nil {
		return nil, ErrNoPool
	}
	conn, err := e.dialer.Dial(ctx)
	if err == nil {
		return conn, nil
	}
	if sqlState(err) != "" || ctx.Err() != nil || e.tlsHint(err) != "" {
		return nil, e.explain("connect to PostgreSQL", err)
	}
	return nil, fmt.Errorf("sqlstore: connect to PostgreSQL: %w (is it running, and are host and port in the URL right?)", err)
}

// hint returns the remedy for an SQLSTATE (PostgreSQL manual, appendix A).
func (e *Engine) hint(state string) string {
	switch state {
	case "42P01", "42883", "3F000": // undefined_table, undefined_function, invalid_schema_name
		return "Surepost's tables aren't where this connection looks: migrate the database, or set Config.Schema and Config.Prefix to where they are"
	case "42703": // undefined_column
		return "Surepost's tables are of another version: migrate the database"
	case "42501": // insufficient_privilege
		return "grant the role what it needs: README, Privileges"
	case "25006", "55000": // read_only_sql_transaction, object_not_in_prerequisite_state (pg_current_wal_insert_lsn on a standby)
		return "Surepost must read and write on the primary: check that the URL doesn't lead to a standby (target_session_attrs=read-write)"
	case "28P01", "28000": // invalid_password, invalid_authorization_specification
		return "correct user and password in the URL, and see pg_hba.conf"
	case "3D000": // invalid_catalog_name
		return "create the database, or correct its name in the URL"
	case "42P05", "26000": // duplicate_prepared_statement, invalid_sql_statement_name
		return poolerRemedy
	case "53300": // too_many_connections
		return "the relay needs two connections of its own besides the pool's: raise max_connections or lower the pools"
	}
	return ""
}
