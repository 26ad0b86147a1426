package integration

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

const sqliteOptions = "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=synchronous(NORMAL)&_txlock=immediate"

func openSQLite(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// newSQLite returns a handle and a store on a migrated file of the test's own.
func newSQLite(t *testing.T) (file string, db *sql.DB, store *sqlitestore.Store) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "test.db")
	db = openSQLite(t, "file:"+file+sqliteOptions)
	store = sqlitestore.New(db)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return file, db, store
}

func inSQLTx(ctx context.Context, db *sql.DB, work func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

func TestSQLiteGivesBackTheEventThatWasWritten(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	if err := store.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	box := newBox(t, store)
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, fullEvent) }); err != nil {
		t.Fatal(err)
	}
	many := make([]surepost.Event, 1000)
	for i := range many {
		many[i] = surepost.Event{ID: fmt.Sprint("e", i), Type: "T", Data: i}
	}
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, many...) }); err != nil {
		t.Fatal(err)
	}
	log, lease := openLog(t, store, "a")
	got := readAll(t, log, 300)
	if len(got) != 1001 || mustJSON(got[0].Event) != mustJSON(fullEvent) {
		t.Fatalf("%d events, the first %s\nwant %s", len(got), mustJSON(got[0].Event), mustJSON(fullEvent))
	}
	for i := range many {
		if got[i+1].Event.ID != many[i].ID {
			t.Fatalf("event %d is %s, want %s", i, got[i+1].Event.ID, many[i].ID)
		}
	}
	page, err := log.Read(t.Context(), 10)
	if err != nil || len(page.Entries) != 0 {
		t.Fatal(page, err)
	}
	if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: got[0], Reason: "r"}}); err != nil {
		t.Fatal(err)
	}
	if keys, err := log.ParkedKeys(t.Context()); err != nil || len(keys) != 1 || keys[0] != fullEvent.Key {
		t.Error(keys, err)
	}
	if list, err := store.Parked(t.Context(), relay.ParkedFilter{IDs: []string{fullEvent.ID}}, 10); err != nil || len(list) != 1 || mustJSON(list[0].Event) != mustJSON(fullEvent) {
		t.Error(list, err)
	}
	if err := store.Renew(t.Context(), lease, 1e9); err != nil {
		t.Error(err)
	}
}
