package integration

import (
	"context"
	"database/sql"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/storetest"
)

// emptyDatabases hands out databases to tests, each to one at a time, and empties them after it: to create and drop
// hundreds costs more than the tests.
type emptyDatabases struct {
	server *harness.PostgresServer
	mu     sync.Mutex
	free   []string
}

func (d *emptyDatabases) take(t *testing.T) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.free) == 0 {
		d.free = append(d.free, d.server.NewDatabase(t))
	}
	last := len(d.free) - 1
	url := d.free[last]
	d.free = d.free[:last]
	t.Cleanup(func() { // the last of all
		conn, err := pgx.Connect(context.Background(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), "DROP SCHEMA public CASCADE; CREATE SCHEMA public"); err != nil {
			t.Error(err)
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.free = append(d.free, url)
	})
	return url
}

func TestPgxStoreConforms(t *testing.T) {
	t.Parallel()
	databases := &emptyDatabases{server: harness.Start(t, harness.Postgres()).Postgres}
	storetest.Run(t, func(t *testing.T) storetest.Backend[pgx.Tx] {
		url := databases.take(t)
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
	databases := &emptyDatabases{server: harness.Start(t, harness.Postgres()).Postgres}
	for _, driver := range []string{"pgx", "postgres"} { // of pgx/stdlib and of lib/pq
		t.Run(driver, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Backend[*sql.Tx] {
				url := databases.take(t)
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
