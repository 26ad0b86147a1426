// Package shoptest is what the tests of the examples have in common: a database with the shop's table and Surepost's,
// and a look at both from outside of the tool under test.
package shoptest

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // database/sql's driver "pgx"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
)

// Schema is the shop's own table. A service brings it, and Surepost's tables (Store.Migrate), by its migrations.
const Schema = `CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL, quantity integer NOT NULL)`

// Database is a database of one test's own.
type Database struct {
	// URL and DB lead to it.
	URL string
	DB  *sql.DB

	log    relay.Log
	events []string // ids of the orders that the log's events tell of, so far
}

// New returns a migrated database, which is dropped when the test ends.
func New(t *testing.T) *Database {
	t.Helper()
	url := harness.Start(t, harness.Postgres()).Postgres.URL()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.ExecContext(t.Context(), Schema); err != nil {
		t.Fatal(err)
	}
	store := sqlstore.New(db)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(context.Background()) })
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "default", Of: 1}, "test", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	log, err := store.Open(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close(context.Background()) })
	return &Database{URL: url, DB: db, log: log}
}

// RequireOrders demands that exactly these orders, by id, are in the shop's table, and that the log has handed out
// exactly one OrderPlaced of each since the database was made: read as the relay reads it, page after page.
func (d *Database) RequireOrders(t *testing.T, want ...string) {
	t.Helper()
	for full := true; full; {
		page, err := d.log.Read(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range page.Entries {
			var order struct{ ID, Customer string }
			raw, ok := entry.Event.Data.(json.RawMessage)
			if !ok {
				t.Fatalf("the event's data is a %T", entry.Event.Data)
			}
			if err := json.Unmarshal(raw, &order); err != nil {
				t.Fatal(err)
			}
			if entry.Event.Type != "OrderPlaced" || entry.Event.Source != "shop" || entry.Event.Key != order.Customer {
				t.Errorf("event %+v isn't the OrderPlaced of %+v", entry.Event, order)
			}
			d.events = append(d.events, order.ID)
		}
		full = page.Full
	}
	var rows string
	err := d.DB.QueryRowContext(t.Context(), "SELECT coalesce(json_agg(id ORDER BY id), '[]') FROM orders").Scan(&rows)
	if err != nil {
		t.Fatal(err)
	}
	var orders []string
	if err := json.Unmarshal([]byte(rows), &orders); err != nil {
		t.Fatal(err)
	}
	events := slices.Sorted(slices.Values(d.events))
	slices.Sort(want)
	if !slices.Equal(orders, want) {
		t.Errorf("orders in the shop's table: %q, want %q", orders, want)
	}
	if !slices.Equal(events, want) {
		t.Errorf("orders that the log's events tell of: %q, want %q", events, want)
	}
}
