package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/surepost/surepost/internal/sqlitecode"
	"github.com/surepost/surepost/relay"
)

// Check implements relay.Store. Producers and consumers call it at their start, so that a file that can't work is found
// before the first event: it reports everything that is amiss, each with its remedy. An error that matches
// relay.ErrHalt is one that waiting doesn't mend.
//
// What is said of a connection's settings (busy_timeout, synchronous) is of one connection of the *sql.DB: settings
// belong into the data source name, so that all have them.
func (s *Store) Check(ctx context.Context) error {
	if s.db == nil {
		return errNoDB
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return halting("open the file", err)
	}
	defer conn.Close()
	var version string
	// The count makes SQLite read the file, which it opens no sooner.
	if err := conn.QueryRowContext(ctx, `SELECT sqlite_version() FROM (SELECT count(*) FROM sqlite_master)`).Scan(&version); err != nil {
		return halting("read the file", err)
	}
	if !atLeast(version, 3, 38) {
		return misfit("SQLite %s is too old: Surepost needs 3.38 or newer (STRICT tables, RETURNING, JSON): update the driver", version)
	}
	return errors.Join(s.checkSettings(ctx, conn), checkWritable(ctx, conn), s.checkTables(ctx, conn))
}

func misfit(format string, args ...any) error {
	return fmt.Errorf("sqlitestore: %w: "+format, append([]any{relay.ErrHalt}, args...)...)
}

// halting is explain, with relay.ErrHalt for what time doesn't mend.
func halting(doing string, err error) error {
	code, _ := codeIn(err)
	err = explain(doing, err)
	switch code & 0xff {
	case sqlitecode.ReadOnly, sqlitecode.CantOpen, sqlitecode.Corrupt, sqlitecode.NotADB:
		return fmt.Errorf("%w: %w", relay.ErrHalt, err)
	}
	return err
}

// atLeast compares a version such as 3.46.1.
func atLeast(version string, major, minor int) bool {
	parts := append(strings.Split(version, "."), "0")
	a, _ := strconv.Atoi(parts[0]) // what isn't a number is too old
	b, _ := strconv.Atoi(parts[1])
	return a > major || a == major && b >= minor
}

// checkSettings checks what the connection's data source name decides.
func (s *Store) checkSettings(ctx context.Context, conn *sql.Conn) error {
	var failed error
	pragma := func(query string) (value string) {
		if err := conn.QueryRowContext(ctx, query).Scan(&value); err != nil && failed == nil {
			failed = explain(query, err)
		}
		return value
	}
	file := pragma(`SELECT file FROM pragma_database_list WHERE name = 'main'`)
	journal := pragma(`PRAGMA journal_mode`)
	busy, synchronous := pragma(`PRAGMA busy_timeout`), pragma(`PRAGMA synchronous`)
	uncommitted, queryOnly := pragma(`PRAGMA read_uncommitted`), pragma(`PRAGMA query_only`)
	if failed != nil {
		return failed
	}
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, misfit(format, args...)) }
	switch {
	case file == "" || journal == "memory":
		// It has no WAL and, with one connection, nobody to wait for.
		if most := s.db.Stats().MaxOpenConnections; most != 1 {
			add("the database is in memory, where each connection of the *sql.DB has a database of its own or blocks the others: use a file " +
				"(in tests: in t.TempDir()), or call SetMaxOpenConns(1) and SetConnMaxLifetime(0)")
		}
	default:
		if journal != "wal" {
			add("file %s has journal_mode %s, with which the relay and the writers block each other: add _pragma=journal_mode(WAL) to the data source "+
				"name (modernc.org/sqlite; for mattn/go-sqlite3: _journal_mode=WAL), or run PRAGMA journal_mode = WAL once: the file keeps it", file, journal)
		}
		if busy == "0" {
			add("busy_timeout is 0, so that a writer fails at once while another one writes: add _pragma=busy_timeout(5000) to the data source name " +
				"(modernc.org/sqlite; for mattn/go-sqlite3: _busy_timeout=5000), in milliseconds")
		}
		if synchronous == "0" {
			add("synchronous is OFF: a power cut loses commits whose events were published, and can destroy the file: add " +
				"_pragma=synchronous(FULL) to the data source name (mattn/go-sqlite3: _synchronous=FULL), or NORMAL, which with a WAL costs no " +
				"sync per commit and loses no more than the last commits")
		}
	}
	if uncommitted != "0" {
		add("read_uncommitted is on: with a shared cache the relay would publish events that are rolled back later: leave it off")
	}
	if queryOnly != "0" {
		add("query_only is on: Surepost must write: leave it off")
	}
	return errors.Join(errs...)
}

// checkWritable takes the write lock, writes a number of the file's header as it is, and rolls back. The lock alone
// tells nothing: on a read-only file, BEGIN IMMEDIATE begins a transaction that reads.
func checkWritable(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`)
	if err == nil {
		var version int64
		if err = conn.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err == nil {
			_, err = conn.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version))
		}
		// A failed rollback, with SQLite, means that it took place before.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
	}
	if code, _ := codeIn(err); code&0xff == sqlitecode.Busy {
		return nil // somebody else can write, at least
	}
	return halting("see whether the file can be written", err)
}

func (s *Store) checkTables(ctx context.Context, conn *sql.Conn) error {
	var there int
	err := conn.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`, s.config.name("migration")).Scan(&there)
	if err != nil {
		return explain("look for the tables", err)
	}
	if there == 0 {
		return misfit("the tables are not there (no %s): call Store.Migrate or apply the script that Store.MigrationSQL returns", s.config.name("migration"))
	}
	done, err := s.appliedMigrations(ctx, conn)
	if err != nil {
		return explain("read the database's migrations", err)
	}
	var missing []string
	for _, m := range migrations {
		if _, ok := done[m.version]; !ok {
			missing = append(missing, fmt.Sprintf("%03d_%s", m.version, m.name))
		}
	}
	if len(missing) > 0 {
		return misfit("the tables are behind this version of Surepost (missing: %s): call Store.Migrate or apply the script that Store.MigrationSQL returns",
			strings.Join(missing, ", "))
	}
	// Without AUTOINCREMENT, SQLite gives the numbers of deleted rows out again, behind the cursor.
	var ddl string
	err = conn.QueryRowContext(ctx, `SELECT coalesce(max(sql), '') FROM sqlite_master WHERE type = 'table' AND name = ?`, s.config.name("outbox")).Scan(&ddl)
	if err != nil {
		return explain("check the outbox table", err)
	}
	if !strings.Contains(strings.ToUpper(ddl), "AUTOINCREMENT") {
		return misfit("table %s lacks its column seq with AUTOINCREMENT: it was changed by hand; restore it from Store.MigrationSQL", s.config.name("outbox"))
	}
	return nil
}
