// Command sqlitewriter changes aggregates in an SQLite file and writes events of it, until it is killed: by SIGKILL, in
// the middle of whatever it does. Every third transaction is rolled back.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"math/rand/v2"
	"os"

	_ "modernc.org/sqlite"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

func main() {
	db, err := sql.Open("sqlite", os.Getenv("SQLITE_DSN"))
	if err != nil {
		log.Fatal(err)
	}
	box, err := outbox.New(sqlitestore.New(db), outbox.Config{Source: "writer"})
	if err != nil {
		log.Fatal(err)
	}
	for n := 1; ; n++ {
		if err := change(context.Background(), db, box, n%3 == 0); err != nil {
			log.Fatal(err)
		}
		if n == 1 {
			fmt.Println("writing") // whoever waits to kill it reads this
		}
	}
}

func change(ctx context.Context, db *sql.DB, box *outbox.Outbox[*sql.Tx], refuse bool) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit this does nothing
	key := fmt.Sprint("k", rand.IntN(8))
	for range 1 + rand.IntN(4) {
		var version int
		if err := tx.QueryRowContext(ctx, "UPDATE aggregate SET version = version + 1 WHERE key = ? RETURNING version", key).Scan(&version); err != nil {
			return err
		}
		kind := "Changed"
		if refuse {
			kind = "Refused"
		}
		err := box.Write(ctx, tx, surepost.Event{Type: kind, Key: key, Data: map[string]any{"key": key, "version": version}})
		if err != nil {
			return err
		}
	}
	if refuse {
		return nil
	}
	return tx.Commit()
}
