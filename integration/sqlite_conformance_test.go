package integration

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/surepost/surepost/sqlstore/sqlitestore"
	"github.com/surepost/surepost/sqlstore/storetest"
)

func TestSQLiteStoreConforms(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Backend[*sql.Tx] {
		// Deferred transactions, the driver's default: they are the harder case.
		dsn := "file:" + filepath.Join(t.TempDir(), "test.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(30000)&_pragma=synchronous(NORMAL)"
		db := openSQLite(t, dsn)
		store := sqlitestore.New(db)
		if _, err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec("CREATE TABLE effect (name TEXT NOT NULL)"); err != nil {
			t.Fatal(err)
		}
		return storetest.Backend[*sql.Tx]{
			Store:    store,
			Another:  func(t *testing.T) storetest.Store[*sql.Tx] { return sqlitestore.New(openSQLite(t, dsn)) },
			Begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
			Commit:   func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
			Rollback: func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
			Effect: func(ctx context.Context, tx *sql.Tx, name string) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES (?)", name)
				return err
			},
			Effects: func(ctx context.Context) (effects []string, err error) {
				rows, err := db.QueryContext(ctx, "SELECT name FROM effect")
				if err != nil {
					return nil, err
				}
				defer rows.Close()
				for rows.Next() {
					var name string
					if err := rows.Scan(&name); err != nil {
						return nil, err
					}
					effects = append(effects, name)
				}
				return effects, rows.Err()
			},
			OneWriter: true,
			NoReplays: true,
			OneLane:   true,
		}
	})
}
