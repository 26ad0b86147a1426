package sqlitestore_test

import (
	"context"
	"database/sql"
	"log"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

// An order and its event in one transaction, in a file. Import a driver: _ "modernc.org/sqlite".
func Example() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", "file:orders.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	store := sqlitestore.New(db)
	if _, err := store.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	if err := store.Check(ctx); err != nil { // says what to change in the line above
		log.Fatal(err)
	}
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		log.Fatal(err)
	}

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback() // after the commit this does nothing
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id, cents) VALUES (?, ?)", "o-7", 4200); err != nil {
		log.Fatal(err)
	}
	if err := box.Write(ctx, tx, surepost.Event{Type: "OrderCreated", Key: "o-7", Data: map[string]int{"cents": 4200}}); err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}
}
