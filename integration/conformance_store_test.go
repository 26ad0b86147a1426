package integration

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/storetest"
)

// Lanes are one for now: the stores on PostgreSQL refuse more. The servers are private, since they end with their
// databases: to drop one for every promise costs more than the tests.

func TestPgxStoreConforms(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	storetest.Run(t, func(t *testing.T) storetest.Backend[pgx.Tx] {
		url := server.NewDatabase(t)
		pool, store := poolOn(t, url)
		execSQL(t, pool, "CREATE TABLE effect (name text)")
		return storetest.Backend[pgx.Tx]{
			Store: store,
			Another: func(t *testing.T) storetest.Store[pgx.Tx] {
				_, other := poolOn(t, url)
				return other
			},
			Begin:    pool.Begin,
			Commit:   func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
			Rollback: func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) },
			Effect: func(ctx context.Context, tx pgx.Tx, name string) error {
				_, err := tx.Exec(ctx, "INSERT INTO effect VALUES ($1)", name)
				return err
			},
			Effects: func(ctx context.Context) ([]string, error) { return effects(ctx, pool) },
			OneLane: true,
		}
	})
}

func effects(ctx context.Context, pool *pgxpool.Pool) ([]string, error) {
	rows, err := pool.Query(ctx, "SELECT name FROM effect")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func TestSQLStoreConforms(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	for _, driver := range []string{"pgx", "postgres"} { // of pgx/stdlib and of lib/pq
		t.Run(driver, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Backend[*sql.Tx] {
				url := server.NewDatabase(t)
				pool, _ := poolOn(t, url) // which migrates
				execSQL(t, pool, "CREATE TABLE effect (name text)")
				db := openSQL(t, driver, url)
				return storetest.Backend[*sql.Tx]{
					Store: newSQLStore(t, db),
					Another: func(t *testing.T) storetest.Store[*sql.Tx] {
						return newSQLStore(t, openSQL(t, driver, url))
					},
					Begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
					Commit:   func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
					Rollback: func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
					Effect: func(ctx context.Context, tx *sql.Tx, name string) error {
						_, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES ($1)", name)
						return err
					},
					Effects: func(ctx context.Context) ([]string, error) { return effects(ctx, pool) },
					OneLane: true,
				}
			})
		})
	}
}

func openSQL(t *testing.T, driver, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newSQLStore(t *testing.T, db *sql.DB) *sqlstore.Store {
	t.Helper()
	store := sqlstore.New(db)
	t.Cleanup(func() { store.Close(context.Background()) })
	return store
}
