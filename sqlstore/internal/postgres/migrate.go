package postgres

import (
	"context"
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
	// AppliedAt is when this database got it; zero if it didn't.
	AppliedAt time.Time
}

type migrationFile struct {
	version   int
	name, sql string
}

// migrations are the embedded files NNN_name.sql, in order of their numbers.
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
			panic("sqlstore: migration " + file + " isn't number " + strconv.Itoa(i+1))
		}
		sql, err := migrationFiles.ReadFile(file)
		if err != nil {
			panic(err)
		}
		list[i] = migrationFile{version, name, string(sql)}
	}
	return list
}()

// Up applies the migrations that the database doesn't have yet, and returns those. All of it is one transaction under
// a lock, so that services may start at the same time: one migrates, the others wait and find the work done.
func (e *Engine) Up(ctx context.Context) (applied []Migration, err error) {
	conn, err := e.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	err = conn.Transact(ctx, func(q Querier) error {
		applied = nil
		if _, err := q.Exec(ctx, e.config.migrationLock()); err != nil {
			return err
		}
		if _, err := q.Exec(ctx, e.config.migrationTable()); err != nil {
			return err
		}
		done, err := e.appliedMigrations(ctx, q)
		if err != nil {
			return err
		}
		for _, m := range migrations {
			if _, ok := done[m.version]; ok {
				continue
			}
			if _, err := q.Exec(ctx, e.config.expand(m.sql)); err != nil {
				return fmt.Errorf("migration %03d_%s: %w", m.version, m.name, err)
			}
			if _, err := q.Exec(ctx, e.config.migrationRecord(m)); err != nil {
				return err
			}
			applied = append(applied, Migration{Version: m.version, Name: m.name, AppliedAt: time.Now()})
		}
		return nil
	})
	if err != nil {
		return nil, e.explain("migrate the database", err)
	}
	return applied, nil
}

// Status returns all migrations that this version of Surepost has, and which of them the database has.
func (e *Engine) Status(ctx context.Context) (list []Migration, err error) {
	err = e.onConn(ctx, func(q Querier) error {
		var there bool
		if _, err := queryRow(ctx, q, `SELECT to_regclass($1) IS NOT NULL`, []any{e.config.name("migration")}, &there); err != nil {
			return err
		}
		done := map[int]time.Time{}
		if there {
			if done, err = e.appliedMigrations(ctx, q); err != nil {
				return err
			}
		}
		list = make([]Migration, len(migrations))
		for i, m := range migrations {
			list[i] = Migration{Version: m.version, Name: m.name, AppliedAt: done[m.version]}
		}
		return nil
	})
	return list, e.explain("read the database's migrations", err)
}

// SQL returns the migrations above version as one script, for teams that run their own tool. It also keeps the books,
// so that Status and Check know of it.
func (e *Engine) SQL(above int) string {
	var b strings.Builder
	b.WriteString("-- Surepost's tables. Run in one transaction.\n")
	b.WriteString(e.config.migrationTable() + "\n")
	for _, m := range migrations {
		if m.version > above {
			fmt.Fprintf(&b, "\n-- Migration %03d_%s\n%s\n%s\n", m.version, m.name, e.config.expand(m.sql), e.config.migrationRecord(m))
		}
	}
	return b.String()
}

func (e *Engine) appliedMigrations(ctx context.Context, q Querier) (map[int]time.Time, error) {
	rows, err := q.Query(ctx, e.config.expand(`SELECT version, applied_at FROM ${migration}`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	done := map[int]time.Time{}
	for rows.Next() {
		var version int64
		var at time.Time
		if err := rows.Scan(&version, &at); err != nil {
			return nil, err
		}
		done[int(version)] = at
	}
	return done, rows.Err()
}

// migrationLock returns the statement that makes concurrent migrations of the same tables wait for each other. The
// lock ends with the transaction, so a pooler in transaction mode doesn't matter.
func (c Config) migrationLock() string {
	return `SELECT pg_advisory_xact_lock(1937076837, hashtext(` + quoteLiteral("migrate "+c.name("")) + `))`
}

func (c Config) migrationTable() string {
	table := c.expand("CREATE TABLE IF NOT EXISTS ${migration} (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());")
	if c.Schema == "" {
		return table
	}
	return c.expand("CREATE SCHEMA IF NOT EXISTS ${schema};\n") + table
}

func (c Config) migrationRecord(m migrationFile) string {
	return c.expand(fmt.Sprintf("INSERT INTO ${migration} (version, name) VALUES (%d, %s);", m.version, quoteLiteral(m.name)))
}
