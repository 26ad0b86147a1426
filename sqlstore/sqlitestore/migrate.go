package sqlitestore

import (
	"context"
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
			panic("sqlitestore: migration " + file + " isn't number " + strconv.Itoa(i+1))
		}
		text, err := migrationFiles.ReadFile(file)
		if err != nil {
			panic(err)
		}
		list[i] = migrationFile{version, name, string(text)}
	}
	return list
}()

// migrationTable keeps the books. The default is of seconds: scripts have no finer clock in all versions.
const migrationTable = `CREATE TABLE IF NOT EXISTS ${migration} (version INTEGER PRIMARY KEY, name TEXT NOT NULL, ` +
	`applied_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000)) STRICT;`

// Migrate brings the tables to this version of Surepost and returns the migrations that it applied, which is all of
// them or none. It may be called by many processes at once and at every start.
func (s *Store) Migrate(ctx context.Context) (applied []Migration, err error) {
	if s.db == nil {
		return nil, errNoDB
	}
	if done, err := s.migrated(ctx); err == nil && len(done) >= len(migrations) {
		return nil, nil // without waiting for whoever writes
	}
	if _, err := s.db.ExecContext(ctx, s.config.expand(migrationTable)); err != nil {
		return nil, explain("migrate the database", err)
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		applied = nil
		if _, err := tx.ExecContext(ctx, s.sql.writeLock); err != nil { // one process migrates, the others wait
			return explain("migrate the database", err)
		}
		done, err := s.appliedMigrations(ctx, tx)
		if err != nil {
			return explain("read the database's migrations", err)
		}
		for _, m := range migrations {
			if _, ok := done[m.version]; ok {
				continue
			}
			if _, err := tx.ExecContext(ctx, s.config.expand(m.sql)+"\n"+s.config.migrationRecord(m)); err != nil {
				return explain(fmt.Sprintf("apply migration %03d_%s", m.version, m.name), err)
			}
			applied = append(applied, Migration{Version: m.version, Name: m.name, AppliedAt: time.Now()})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return applied, nil
}

// MigrationStatus returns all migrations and when this file got them.
func (s *Store) MigrationStatus(ctx context.Context) ([]Migration, error) {
	if s.db == nil {
		return nil, errNoDB
	}
	done, err := s.migrated(ctx)
	if err != nil {
		return nil, explain("read the database's migrations", err)
	}
	list := make([]Migration, len(migrations))
	for i, m := range migrations {
		list[i] = Migration{Version: m.version, Name: m.name, AppliedAt: done[m.version]}
	}
	return list, nil
}

// MigrationSQL returns the migrations above a version (0: all) as one SQL script, for teams that run their own tool.
// It keeps the books, so that MigrationStatus and Check know of it.
func (s *Store) MigrationSQL(above int) string {
	var b strings.Builder
	b.WriteString("-- Surepost's tables. Run in one transaction.\n")
	b.WriteString(s.config.expand(migrationTable) + "\n")
	for _, m := range migrations {
		if m.version > above {
			fmt.Fprintf(&b, "\n-- Migration %03d_%s\n%s\n%s\n", m.version, m.name, s.config.expand(m.sql), s.config.migrationRecord(m))
		}
	}
	return b.String()
}

// migrated returns the migrations that the file has: none where not even their table is there.
func (s *Store) migrated(ctx context.Context) (map[int]time.Time, error) {
	var tables int
	err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`, s.config.name("migration")).Scan(&tables)
	if err != nil || tables == 0 {
		return nil, err
	}
	return s.appliedMigrations(ctx, s.db)
}

func (s *Store) appliedMigrations(ctx context.Context, q querier) (map[int]time.Time, error) {
	rows, err := q.QueryContext(ctx, s.config.expand(`SELECT version, applied_at FROM ${migration}`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	done := map[int]time.Time{}
	for rows.Next() {
		var version, at int64
		if err := rows.Scan(&version, &at); err != nil {
			return nil, err
		}
		done[int(version)] = timeOf(at)
	}
	return done, rows.Err()
}

func (c Config) migrationRecord(m migrationFile) string {
	return c.expand(fmt.Sprintf("INSERT INTO ${migration} (version, name) VALUES (%d, '%s');", m.version, m.name))
}
