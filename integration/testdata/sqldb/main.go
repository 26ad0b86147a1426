// Package main must not compile: a *sql.DB is no transaction.
package main

import (
	"context"
	"database/sql"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

func main() {
	var db *sql.DB
	box, _ := outbox.New(sqlstore.New(db), outbox.Config{})
	_ = box.Write(context.Background(), db, surepost.Event{})
}
