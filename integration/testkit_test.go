package integration

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/inbox/inboxtest"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/outbox/outboxtest"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

// testkit is a store with what the test kit's tests need of it. Its database has a table effect(name).
type testkit[TX any] struct {
	store interface {
		outbox.Store[TX]
		outboxtest.Store[TX]
		inbox.Store[TX]
		relay.Store
	}
	begin     func() (TX, error)
	exec      func(tx TX, query string) error
	commit    func(tx TX) error
	rollback  func(tx TX) error
	effects   func() int
	oneWriter bool // at a time
}

func sqlTestkit(t *testing.T, db *sql.DB, store interface {
	outbox.Store[*sql.Tx]
	outboxtest.Store[*sql.Tx]
	inbox.Store[*sql.Tx]
	relay.Store
},
) testkit[*sql.Tx] {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE effect (name varchar(100))"); err != nil {
		t.Fatal(err)
	}
	return testkit[*sql.Tx]{
		store: store,
		begin: func() (*sql.Tx, error) { return db.BeginTx(t.Context(), nil) },
		exec: func(tx *sql.Tx, query string) error {
			_, err := tx.ExecContext(t.Context(), query)
			return err
		},
		commit:   (*sql.Tx).Commit,
		rollback: (*sql.Tx).Rollback,
		effects: func() (n int) {
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM effect").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		},
	}
}

func TestTheTestKitWorksOnEveryStore(t *testing.T) {
	t.Parallel()
	t.Run("pgx", func(t *testing.T) {
		pool, store := newPool(t)
		execSQL(t, pool, "CREATE TABLE effect (name text)")
		theTestKitWorks(t, testkit[pgx.Tx]{
			store: store,
			begin: func() (pgx.Tx, error) { return pool.Begin(t.Context()) },
			exec: func(tx pgx.Tx, query string) error {
				_, err := tx.Exec(t.Context(), query)
				return err
			},
			commit:   func(tx pgx.Tx) error { return tx.Commit(t.Context()) },
			rollback: func(tx pgx.Tx) error { return tx.Rollback(context.WithoutCancel(t.Context())) },
			effects:  func() int { return count(t, pool, "SELECT count(*) FROM effect") },
		})
	})
	for _, driver := range []string{"pgx", "postgres"} {
		t.Run("PostgreSQL by database/sql "+driver, func(t *testing.T) {
			url := harness.Start(t, harness.Postgres()).Postgres.URL()
			poolOn(t, url) // which migrates
			db, err := sql.Open(driver, url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			store := sqlstore.New(db)
			t.Cleanup(func() { store.Close(context.Background()) })
			theTestKitWorks(t, sqlTestkit(t, db, store))
		})
	}
	t.Run("SQLite", func(t *testing.T) {
		_, db, store := newSQLite(t)
		kit := sqlTestkit(t, db, store)
		kit.oneWriter = true
		theTestKitWorks(t, kit)
	})
	t.Run("MariaDB", func(t *testing.T) {
		db, err := sql.Open("mysql", harness.Start(t, harness.MariaDB()).MariaDB.DSN())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		store := mysqlstore.New(db)
		if _, err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close(context.Background()) })
		theTestKitWorks(t, sqlTestkit(t, db, store))
	})
}

func theTestKitWorks[TX any](t *testing.T, kit testkit[TX]) {
	t.Run("what others write isn't the transaction's own", func(t *testing.T) { writtenIsItsOwn(t, kit) })
	t.Run("an event is delivered", func(t *testing.T) { isDelivered(t, kit) })
	t.Run("a relay steps", func(t *testing.T) { relaySteps(t, kit) })
}

func writtenIsItsOwn[TX any](t *testing.T, kit testkit[TX]) {
	ctx, box := t.Context(), newBox[TX](t, kit.store)
	begin := func() TX {
		tx, err := kit.begin()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kit.rollback(tx) }) // where it hasn't ended
		return tx
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	earlier := begin()
	must(box.Write(ctx, earlier, surepost.Event{ID: "before", Type: "Before"}, surepost.Event{ID: "deleted", Type: "Before"}))
	must(kit.commit(earlier))

	var other TX
	if !kit.oneWriter {
		other = begin()
		must(box.Write(ctx, other, surepost.Event{ID: "other", Type: "Other"}))
	}
	tx := begin()
	outboxtest.RequireNotWritten(t, ctx, kit.store, tx) // which makes it see the log as it is now
	if !kit.oneWriter {
		relayed := begin() // as a store does whose relay deletes what it has published
		must(kit.exec(relayed, "DELETE FROM surepost_outbox WHERE seq = 2"))
		must(kit.commit(relayed))
	}
	outboxtest.RequireNotWritten(t, ctx, kit.store, tx)
	must(box.Write(ctx, tx, fullEvent))
	must(kit.exec(tx, "SAVEPOINT sp"))
	must(box.Write(ctx, tx, surepost.Event{ID: "taken back", Type: "T"}))
	outboxtest.RequireOnlyWritten(t, ctx, kit.store, tx, outboxtest.Event{ID: fullEvent.ID}, outboxtest.Event{ID: "taken back"})
	must(kit.exec(tx, "ROLLBACK TO SAVEPOINT sp"))
	must(box.Write(ctx, tx, surepost.Event{ID: "e2", Type: "T"}, surepost.Event{ID: "e3", Type: "T"}))
	for _, when := range []string{"while another is open", "after the other has committed"} {
		written := outboxtest.RequireOnlyWritten(t, ctx, kit.store, tx, outboxtest.Event{
			ID: fullEvent.ID, Type: fullEvent.Type, Key: fullEvent.Key, Source: fullEvent.Source, Version: fullEvent.Version,
			CorrelationID: fullEvent.CorrelationID, CausationID: fullEvent.CausationID, Category: fullEvent.Category,
			Headers: fullEvent.Headers, Data: fullEvent.Data,
		}, outboxtest.Event{ID: "e2"}, outboxtest.Event{ID: "e3", CorrelationID: "e3", Data: []byte("null")})
		if mustJSON(written[0]) != mustJSON(fullEvent) {
			t.Errorf("%s: got %s\nwant %s", when, mustJSON(written[0]), mustJSON(fullEvent))
		}
		if !kit.oneWriter && when == "while another is open" {
			must(kit.commit(other))
		}
	}
	must(kit.commit(tx))
	if _, err := kit.store.Written(ctx, tx); err == nil {
		t.Error("a transaction that has ended tells what it has written")
	}
	later := begin()
	outboxtest.RequireNotWritten(t, ctx, kit.store, later)
}

func isDelivered[TX any](t *testing.T, kit testkit[TX]) {
	in, box := newInbox[TX](t, kit.store, "inventory"), newBox[TX](t, kit.store)
	in.On("OrderCreated", func(ctx context.Context, tx TX, e surepost.Event) error {
		if err := kit.exec(tx, "INSERT INTO effect VALUES ('reserved')"); err != nil {
			return err
		}
		return box.Write(ctx, tx, surepost.Event{Type: "StockReserved", Key: e.Key})
	})
	inboxtest.Deliver(t, in, surepost.Event{Type: "OrderCreated", Key: "7"},
		inboxtest.Effect("effects", kit.effects), inboxtest.Writes(outboxtest.Event{Type: "StockReserved", Key: "7"}))
}

func relaySteps[TX any](t *testing.T, kit testkit[TX]) {
	box := newBox[TX](t, kit.store)
	r := relaytest.New(t, kit.store)
	r.Drain() // what other tests have left
	from := len(r.Published())
	tx, err := kit.begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"s1", "s2", "s3", "s4"} {
		if err := box.Write(t.Context(), tx, surepost.Event{ID: id, Type: "T", Key: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := kit.commit(tx); err != nil {
		t.Fatal(err)
	}
	r.PublishNext()
	r.FailAfter()
	r.PublishAndCrash()
	r.PublishNext()
	r.FailBefore()
	r.Crash()
	r.Drain()
	var got []string
	for _, e := range r.Published()[from:] {
		got = append(got, e.ID)
	}
	if want := "s1 s2 s2 s2 s3 s4"; strings.Join(got, " ") != want {
		t.Errorf("published %v, want %s", got, want)
	}
}

func TestSQLiteSaysWhatWrittenNeeds(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	db.SetMaxOpenConns(1)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := store.Written(t.Context(), tx); err == nil || !strings.Contains(err.Error(), "SetMaxOpenConns") {
		t.Errorf("got %v", err)
	}
	if _, err := sqlitestore.New(nil).Written(t.Context(), tx); err == nil {
		t.Error("a store without a database tells what was written")
	}
}

func TestAFailedTransactionTellsWhyItCannotBeAsked(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), "SELECT nonsense"); err == nil {
		t.Fatal("nonsense works")
	}
	if _, err := store.Written(t.Context(), tx); err == nil || !strings.Contains(err.Error(), "25P02") {
		t.Errorf("got %v", err)
	}
}
