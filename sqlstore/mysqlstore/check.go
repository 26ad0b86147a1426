package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// minPacketBytes is the least max_allowed_packet: an event of the default size in a statement that escapes every byte.
const minPacketBytes = 2*(surepost.DefaultMaxDataBytes+surepost.MaxHeaderBytes) + 16<<10

// Check implements relay.Store. Producers and consumers call it at their start, so that a database that was not
// migrated, or that can't keep the promises, is found before the first event. It reports everything that is wrong, each
// with its remedy. An error that matches relay.ErrHalt is one that waiting doesn't mend.
func (s *Store) Check(ctx context.Context) error {
	if s.db == nil {
		return ErrNoPool
	}
	const relayNeeds = 3 // the log's and the lease's for good, and one for everything else
	if most := s.db.Stats().MaxOpenConnections; most > 0 && most < relayNeeds {
		return misfit("the *sql.DB allows %d connections, and a relay on it needs %d: raise SetMaxOpenConns, or give the relay "+
			"a *sql.DB of its own", most, relayNeeds)
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var found []error
	err = own(ctx, conn, func(tx *sql.Tx) error {
		found = nil
		vars, err := variables(ctx, tx)
		if err != nil {
			return explain("ask the server for its settings", err)
		}
		found = append(found, checkVersion(vars), checkSettings(vars), s.checkCluster(vars))
		tables, err := s.checkTables(ctx, tx)
		found = append(found, tables)
		return err
	})
	return errors.Join(append(found, err)...)
}

// variables returns the session's variables.
func variables(ctx context.Context, tx *sql.Tx) (map[string]string, error) {
	rows, err := tx.QueryContext(ctx, "SHOW VARIABLES WHERE Variable_name IN ('version', 'sql_mode', 'autocommit', 'sql_safe_updates', 'read_only', "+
		"'innodb_read_only', 'tx_read_only', 'transaction_read_only', 'log_bin', 'binlog_format', 'max_allowed_packet', "+
		"'auto_increment_increment', 'wsrep_on', 'group_replication_single_primary_mode', 'group_replication_group_name')")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	vars := map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		vars[name] = value
	}
	return vars, rows.Err()
}

func on(value string) bool { return value != "" && value != "OFF" && value != "0" }

func checkVersion(vars map[string]string) error {
	version := vars["version"]
	if strings.Contains(version, "TiDB") {
		return misfit("%s is not MySQL: its numbers are not drawn in order", version)
	}
	var major, minor, patch int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch) // what isn't a number is 0, and too old
	if strings.Contains(version, "MariaDB") {
		if major < 10 || major == 10 && minor < 6 {
			return misfit("MariaDB %s is too old: Surepost needs 10.6 or newer", version)
		}
		return nil
	}
	if major < 8 || major == 8 && minor == 0 && patch < 13 {
		return misfit("MySQL %s is too old: Surepost needs 8.0.13 or newer (default expressions)", version)
	}
	return nil
}

func checkSettings(vars map[string]string) error {
	var found []error
	if on(vars["read_only"]) || on(vars["innodb_read_only"]) {
		// Not ErrHalt: a promotion mends it.
		found = append(found, errors.New("mysqlstore: the server is read-only (read_only or innodb_read_only is on): it is a replica, or a "+
			"primary that was set aside: connect to the primary"))
	}
	if on(vars["tx_read_only"]) || on(vars["transaction_read_only"]) {
		found = append(found, misfit("transactions are read-only by default (transaction_read_only): set it to OFF for this user, or take it "+
			"out of the DSN"))
	}
	if !on(vars["autocommit"]) {
		found = append(found, misfit("autocommit is off, so that what is written outside of transactions is never committed, and connections of a "+
			"pool keep old snapshots: take autocommit=0 out of the DSN and the server's init_connect"))
	}
	if on(vars["sql_safe_updates"]) {
		found = append(found, misfit("sql_safe_updates is on, which is meant for people at a command line and refuses the relay's deletes: take it "+
			"out of the DSN and the server's init_connect"))
	}
	if mode := vars["sql_mode"]; !strings.Contains(mode, "STRICT_") {
		found = append(found, misfit("sql_mode is %q, which cuts off what doesn't fit instead of refusing it: add STRICT_TRANS_TABLES, for the "+
			"server or in the DSN", mode))
	}
	if on(vars["log_bin"]) && vars["binlog_format"] == "STATEMENT" {
		found = append(found, misfit("binlog_format is STATEMENT, with which InnoDB refuses to write at READ COMMITTED: set it to ROW or MIXED"))
	}
	if packet, err := strconv.Atoi(vars["max_allowed_packet"]); err != nil || packet < minPacketBytes {
		found = append(found, misfit("max_allowed_packet is %s bytes, and an event of the largest size may need %d: raise it (16M is a good "+
			"value) and reconnect", vars["max_allowed_packet"], minPacketBytes))
	}
	return errors.Join(found...)
}

// checkCluster refuses servers whose numbers may not be in the order of commits, unless the user knows what that means.
func (s *Store) checkCluster(vars map[string]string) error {
	if s.config.MultiPrimary {
		return nil
	}
	const remedy = "let all writers of a key and the relay use the same node, and say so with Config.MultiPrimary"
	switch {
	case on(vars["wsrep_on"]):
		return misfit("the server is a node of a Galera cluster (wsrep_on), on whose nodes numbers are not in the order of commits: %s", remedy)
	case vars["group_replication_group_name"] != "" && vars["group_replication_single_primary_mode"] == "OFF":
		return misfit("the server is in a replication group with several primaries, whose numbers are not in the order of commits: %s", remedy)
	case vars["auto_increment_increment"] != "1":
		return misfit("auto_increment_increment is %s, which is meant for several primaries, whose numbers are not in the order of commits: set "+
			"it to 1, or %s", vars["auto_increment_increment"], remedy)
	}
	return nil
}

// checkTables returns what is wrong with the tables, and apart from that what kept it from looking.
func (s *Store) checkTables(ctx context.Context, tx *sql.Tx) (found, failed error) {
	there, err := s.migrated(ctx, tx)
	if err != nil {
		return nil, explain("look for the tables", err)
	}
	const remedy = "migrate the database with Store.Migrate or apply the script that Store.MigrationSQL returns"
	if !there {
		return misfit("the tables are not there (no %s): %s", s.config.name("migration"), remedy), nil
	}
	done, err := s.appliedMigrations(ctx, tx)
	if err != nil {
		return nil, explain("read the database's migrations", err)
	}
	var missing []string
	for _, m := range migrations {
		if _, ok := done[m.version]; !ok {
			missing = append(missing, fmt.Sprintf("%03d_%s", m.version, m.name))
		}
	}
	if len(missing) > 0 {
		return misfit("the tables are behind this version of Surepost (missing: %s): %s", strings.Join(missing, ", "), remedy), nil
	}
	return s.checkEngines(ctx, tx)
}

// checkEngines looks for tables that don't take part in transactions, and for the columns that the log's argument rests on.
func (s *Store) checkEngines(ctx context.Context, tx *sql.Tx) (found, failed error) {
	engines := map[string]string{}
	rows, err := tx.QueryContext(ctx, "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = "+s.config.schema())
	if err != nil {
		return nil, explain("look at the tables", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var engine sql.NullString // NULL for a view
		if err := rows.Scan(&name, &engine); err != nil {
			return nil, explain("look at the tables", err)
		}
		engines[name] = engine.String
	}
	if err := rows.Err(); err != nil {
		return nil, explain("look at the tables", err)
	}
	var list []error
	for _, table := range tables {
		engine, there := engines[s.config.Prefix+table]
		switch {
		case !there:
			list = append(list, misfit("table %s is missing: apply the script that Store.MigrationSQL returns", s.config.name(table)))
		case engine != "InnoDB":
			list = append(list, misfit("table %[1]s has the engine %[2]s, which knows no transactions, so that events would be published whose "+
				"transaction rolled back: ALTER TABLE %[1]s ENGINE = InnoDB", s.config.name(table), engine))
		}
	}
	columns, err := s.columns(ctx, tx)
	if err != nil {
		return nil, explain("look at the tables' columns", err)
	}
	if c := columns["outbox.seq"]; !strings.Contains(c, "auto_increment") {
		list = append(list, misfit("column seq of table %[1]s must be AUTO_INCREMENT: ALTER TABLE %[1]s MODIFY seq BIGINT NOT NULL AUTO_INCREMENT",
			s.config.name("outbox")))
	}
	for _, column := range []string{"outbox.id", "outbox.key", "parked.key", "scheduled.id", "scheduled.key", "inbox.consumer", "inbox.event_id"} {
		if c := columns[column]; !strings.HasPrefix(c, "varbinary") {
			table, name, _ := strings.Cut(column, ".")
			list = append(list, misfit("column %[1]s of table %[2]s is %[3]s, which doesn't compare byte by byte: ALTER TABLE %[2]s MODIFY %[4]s VARBINARY(255) NOT NULL",
				name, s.config.name(table), c, quoteIdent(name)))
		}
	}
	return errors.Join(list...), nil
}

// columns returns the types of the tables' columns, with what is special about them, by "table.column".
func (s *Store) columns(ctx context.Context, tx *sql.Tx) (map[string]string, error) {
	rows, err := tx.QueryContext(ctx, "SELECT table_name, column_name, data_type, extra FROM information_schema.columns WHERE table_schema = "+s.config.schema())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns := map[string]string{}
	for rows.Next() {
		var table, column, kind, extra string
		if err := rows.Scan(&table, &column, &kind, &extra); err != nil {
			return nil, err
		}
		table, ours := strings.CutPrefix(table, s.config.Prefix)
		if ours && slices.Contains(tables, table) {
			columns[table+"."+column] = strings.ToLower(kind + " " + extra)
		}
	}
	return columns, rows.Err()
}

var _ relay.Log = (*log)(nil)
