package mysqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migration is one step of the tables' history.
type Migration struct {
	Version int
	Name    string
	// AppliedAt is when this database got it, by its clock; zero if it didn't.
	AppliedAt time.Time
}

type migrationFile struct {
	version    int
	name       string
	statements []string
}

// migrations are the embedded files NNN_name.sql, in order of their numbers. A statement ends with a semicolon at the end
// of a line. Each must be repeatable (IF NOT EXISTS, INSERT IGNORE): MySQL commits with every CREATE and ALTER, so a
// migration that was cut off begins again from its first statement.
var migrations = func() []migrationFile {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	slices.Sort(files)
	list := make([]migrationFile, len(files))
	for i, file := range files {
		number, name, _ := strings.Cut(strings.TrimSuffix(path.Base(file), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			panic("mysqlstore: migration " + file + " isn't number " + strconv.Itoa(i+1))
		}
		text, err := migrationFiles.ReadFile(file)
		if err != nil {
			panic(err)
		}
		list[i] = migrationFile{version, name, strings.Split(strings.TrimSuffix(strings.TrimSpace(string(text)), ";"), ";\n")}
	}
	return list
}()

// Migrate brings the tables to this version of Surepost and returns the migrations that it applied. It may be called by
// many processes at once and at every start: one migrates, the others wait and find the work done. A migration that was
// cut off is begun again by the next call.
func (s *Store) Migrate(ctx context.Context) (applied []Migration, err error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	unlock, err := s.lockMigrations(ctx, conn)
	if err != nil {
		return nil, explain("migrate the database", err)
	}
	defer unlock()
	if _, err := conn.ExecContext(ctx, s.config.migrationTable()); err != nil {
		return nil, explain("migrate the database", err)
	}
	done, err := s.appliedMigrations(ctx, conn)
	if err != nil {
		return nil, explain("migrate the database", err)
	}
	for _, m := range migrations {
		if _, ok := done[m.version]; ok {
			continue
		}
		for _, statement := range s.config.migrationStatements(m) {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return applied, explain(fmt.Sprintf("migrate the database (%03d_%s)", m.version, m.name), err)
			}
		}
		applied = append(applied, Migration{Version: m.version, Name: m.name, AppliedAt: time.Now()})
	}
	return applied, nil
}

// lockMigrations makes concurrent migrations of the same tables wait for each other. The lock is the connection's: it ends
// with it. In a Galera cluster it reaches no further than the node, and the statements' being repeatable is what counts.
func (s *Store) lockMigrations(ctx context.Context, conn *sql.Conn) (unlock func(), err error) {
	var database sql.NullString
	if err := conn.QueryRowContext(ctx, "SELECT DATABASE()").Scan(&database); err != nil {
		return nil, err
	}
	in := s.config.Database
	if in == "" {
		in = database.String
	}
	// Locks are the server's, not the database's, and their names have at most 64 characters.
	name := fmt.Sprintf("surepost %x", sha256.Sum256([]byte(in+"."+s.config.Prefix)))[:64]
	for {
		var got sql.NullInt64
		if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 10)", name).Scan(&got); err != nil {
			return nil, err
		}
		if got.Int64 == 1 {
			return func() {
				unlocking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				_, _ = conn.ExecContext(unlocking, "DO RELEASE_LOCK(?)", name) // a connection that has failed has no lock either
			}, nil
		}
	}
}

// MigrationStatus returns all migrations and when this database got them.
func (s *Store) MigrationStatus(ctx context.Context) (list []Migration, err error) {
	err = s.own(ctx, func(tx *sql.Tx) error {
		done := map[int]time.Time{}
		there, err := s.migrated(ctx, tx)
		if there && err == nil {
			done, err = s.appliedMigrations(ctx, tx)
		}
		list = make([]Migration, len(migrations))
		for i, m := range migrations {
			list[i] = Migration{Version: m.version, Name: m.name, AppliedAt: done[m.version]}
		}
		return err
	})
	return list, explain("read the database's migrations", err)
}

// MigrationSQL returns the migrations above a version (0: all) as one SQL script, for teams that run their own tool.
// It keeps the books, so that MigrationStatus and Check know of it. Every statement is repeatable.
func (s *Store) MigrationSQL(above int) string {
	var b strings.Builder
	b.WriteString("-- Surepost's tables.\n")
	b.WriteString(s.config.migrationTable() + ";\n")
	for _, m := range migrations {
		if m.version > above {
			fmt.Fprintf(&b, "\n-- Migration %03d_%s\n%s;\n\n%s;\n", m.version, m.name,
				s.config.expand(strings.Join(m.statements, ";\n")), s.config.migrationRecord(m))
		}
	}
	return b.String()
}

// migrated reports whether the table of migrations is there.
func (s *Store) migrated(ctx context.Context, q querier) (bool, error) {
	var n int
	err := q.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = "+s.config.schema()+" AND table_name = ?",
		s.config.Prefix+"migration").Scan(&n)
	return n > 0, err
}

// schema is an expression for the name of the tables' database.
func (c Config) schema() string {
	if c.Database == "" {
		return "DATABASE()"
	}
	return "CONVERT(" + strings.Trim(texts([]string{c.Database}), "()") + " USING utf8mb4)"
}

func (s *Store) appliedMigrations(ctx context.Context, q querier) (map[int]time.Time, error) {
	rows, err := q.QueryContext(ctx, s.config.expand("SELECT version, CAST(applied_at AS CHAR) FROM ${migration}"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	done := map[int]time.Time{}
	for rows.Next() {
		var version int
		var at string
		if err := rows.Scan(&version, &at); err != nil {
			return nil, err
		}
		done[version] = readTimestamp(at)
	}
	return done, rows.Err()
}

func (c Config) migrationTable() string {
	return c.expand("CREATE TABLE IF NOT EXISTS ${migration} (version INT NOT NULL PRIMARY KEY, name VARBINARY(255) NOT NULL, " +
		"applied_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))) ENGINE = InnoDB")
}

// migrationStatements are a migration's, and the one that notes it. Each is expanded once: names are not looked at for
// further names.
func (c Config) migrationStatements(m migrationFile) []string {
	var list []string
	for _, statement := range m.statements {
		list = append(list, c.expand(statement))
	}
	return append(list, c.migrationRecord(m))
}

func (c Config) migrationRecord(m migrationFile) string {
	return c.expand(fmt.Sprintf("INSERT IGNORE INTO ${migration} (version, name) VALUES (%d, '%s')", m.version, m.name))
}
