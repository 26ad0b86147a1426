package integration

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// newPool returns a pool on a migrated database of the test's own.
func newPool(t *testing.T, opts ...harness.Option) (*pgxpool.Pool, *pgxstore.Store) {
	t.Helper()
	return poolOn(t, harness.Start(t, harness.Postgres(opts...)).Postgres.URL())
}

func poolOn(t *testing.T, url string) (*pgxpool.Pool, *pgxstore.Store) {
	t.Helper()
	r, routed := routeOf(t)
	if routed {
		url = r.via.url(url)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if routed && !strings.Contains(url, "default_query_exec_mode") {
		config.ConnConfig.DefaultQueryExecMode = r.mode
	}
	config.MaxConns = 40
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := pgxstore.New(pool)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(context.Background()) })
	return pool, store
}

func newBox[TX any](t *testing.T, store outbox.Store[TX]) *outbox.Outbox[TX] {
	t.Helper()
	box, err := outbox.New(store, outbox.Config{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// openLog opens lane 0 as owner.
func openLog(t *testing.T, store relay.Store, owner string) (relay.Log, relay.Lease) {
	t.Helper()
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "default", Of: 1}, owner, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	log, err := store.Open(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close(context.Background()) })
	return log, lease
}

func readAll(t *testing.T, log relay.Log, limit int) []relay.Entry {
	t.Helper()
	var all []relay.Entry
	for {
		page, err := log.Read(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Entries...)
		if !page.Full {
			return all
		}
	}
}

var fullEvent = surepost.Event{
	ID: "evt_abc123", Type: "OrderCreated", Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC), Version: "2.1", Source: "order-service",
	CorrelationID: "req_xyz789", CausationID: "evt_before", Key: `order "7" \ ä`, Category: surepost.Domain,
	Headers: map[string]string{"tenant": `a "b" \ {c}`, "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	Data:    json.RawMessage(`{"orderId": 7, "note": "quote \" backslash \\ braces {} comma , ä \u0000"}`),
}

// Every way to write leads to the same event in the log.
func TestEveryWayToWriteGivesTheSameEvent(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres()).Postgres
	writers := map[string]func(t *testing.T, url string){
		"pgx.Tx": func(t *testing.T, url string) {
			pool, store := poolOn(t, url)
			box := newBox(t, store)
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return box.Write(t.Context(), tx, fullEvent) })
			if err != nil {
				t.Fatal(err)
			}
		},
		"pgx.Tx simple protocol": func(t *testing.T, url string) {
			pool, store := poolOn(t, url+"&default_query_exec_mode=simple_protocol")
			box := newBox(t, store)
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return box.Write(t.Context(), tx, fullEvent) })
			if err != nil {
				t.Fatal(err)
			}
		},
		"pgx.Tx exec mode": func(t *testing.T, url string) {
			pool, store := poolOn(t, url+"&default_query_exec_mode=exec")
			box := newBox(t, store)
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return box.Write(t.Context(), tx, fullEvent) })
			if err != nil {
				t.Fatal(err)
			}
		},
		"pgx.Batch": func(t *testing.T, url string) {
			pool, store := poolOn(t, url)
			box := newBox(t, store)
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				batch := &pgx.Batch{}
				batch.Queue("SELECT 1")
				if err := store.Queue(t.Context(), box, batch, fullEvent); err != nil {
					return err
				}
				return tx.SendBatch(t.Context(), batch).Close()
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"sql.Tx with pgx": func(t *testing.T, url string) { writeSQL(t, "pgx", url) },
		"sql.Tx with pq":  func(t *testing.T, url string) { writeSQL(t, "postgres", url) },
		"surepost_write": func(t *testing.T, url string) {
			pool, _ := poolOn(t, url)
			headers, _ := json.Marshal(fullEvent.Headers)
			_, err := pool.Exec(t.Context(), `SELECT surepost_write($1, $2::text::json, $3, source => $4, version => $5, correlation_id => $6, causation_id => $7,
				category => $8, headers => $9::text::json, id => $10, "time" => $11)`,
				fullEvent.Type, string(fullEvent.Data.(json.RawMessage)), fullEvent.Key, fullEvent.Source, fullEvent.Version, fullEvent.CorrelationID,
				fullEvent.CausationID, string(fullEvent.Category), string(headers), fullEvent.ID, fullEvent.Time)
			if err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			url := server.NewDatabase(t)
			write(t, url)
			pool, store := poolOn(t, url)
			log, _ := openLog(t, store, "a")
			got := readAll(t, log, 10)
			if len(got) != 1 {
				t.Fatalf("the log has %d events, want 1", len(got))
			}
			want, have := mustJSON(fullEvent), mustJSON(got[0].Event)
			if want != have {
				t.Errorf("event in the log:\n%s\nwritten:\n%s", have, want)
			}
			var slot int
			if err := pool.QueryRow(t.Context(), "SELECT slot FROM surepost_outbox").Scan(&slot); err != nil || slot != fullEvent.Slot() {
				t.Errorf("slot %d (%v), want %d", slot, err, fullEvent.Slot())
			}

			// database/sql reads what pgx reads.
			db, err := sql.Open("postgres", url)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			other := sqlstore.New(db)
			defer other.Close(t.Context())
			lease, err := other.Acquire(t.Context(), relay.Lane{Destination: "other", Of: 1}, "b", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			sqlLog, err := other.Open(t.Context(), lease)
			if err != nil {
				t.Fatal(err)
			}
			defer sqlLog.Close(t.Context())
			if got := readAll(t, sqlLog, 10); len(got) != 1 || mustJSON(got[0].Event) != want {
				t.Errorf("through database/sql: %s", mustJSON(got))
			}
		})
	}
}

func writeSQL(t *testing.T, driver, url string) {
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	store := sqlstore.New(db)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer store.Close(t.Context())
	if err := store.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	box := newBox(t, store)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Write(t.Context(), tx, fullEvent); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestMigrationsAtTheSameTime(t *testing.T) {
	t.Parallel()
	url := harness.Start(t, harness.Postgres()).Postgres.URL()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 8 {
		wg.Go(func() {
			store, err := pgxstore.NewWithConfig(pool, sqlstore.Config{Schema: "My \"odd\" Schema", Prefix: "sp_"})
			if err != nil {
				t.Error(err)
				return
			}
			done, err := store.Migrate(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			applied += len(done)
			mu.Unlock()
		})
	}
	wg.Wait()
	store, err := pgxstore.NewWithConfig(pool, sqlstore.Config{Schema: "My \"odd\" Schema", Prefix: "sp_"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	status, err := store.MigrationStatus(t.Context())
	if err != nil || slices.ContainsFunc(status, func(m sqlstore.Migration) bool { return m.AppliedAt.IsZero() }) {
		t.Errorf("status %+v, %v", status, err)
	}
	if applied != len(status) || applied == 0 {
		t.Errorf("%d migrations were applied by 8 processes at once, want %d in all", applied, len(status))
	}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return newBox(t, store).Write(t.Context(), tx, fullEvent) })
	if err != nil {
		t.Fatal(err)
	}
	log, _ := openLog(t, store, "a")
	if got := readAll(t, log, 10); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}

// The script that teams run with their own tool leaves what Migrate leaves.
func TestMigrationSQLIsTheSameAsMigrate(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres()).Postgres
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store := pgxstore.New(pool)
	err = store.Check(t.Context())
	if err == nil || !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), "Migrate") {
		t.Errorf("before: %v, want an error that names Store.Migrate", err)
	}
	if _, err := pool.Exec(t.Context(), "BEGIN;"+store.MigrationSQL(0)+"COMMIT;"); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if done, err := store.Migrate(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("Migrate after the script applied %v, %v; want nothing", done, err)
	}
}

// A handle with too few connections would leave a relay waiting for itself.
func TestTooFewConnectionsAreFoundAtStart(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("postgres", harness.Start(t, harness.Postgres()).Postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(2)
	if err := sqlstore.New(db).Check(t.Context()); !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), "SetMaxOpenConns") {
		t.Errorf("%v, want a halt that names SetMaxOpenConns", err)
	}
}
