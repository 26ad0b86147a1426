// Package main compiles: it shows that its two neighbours fail for the right reason.
package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

func main() {
	var tx pgx.Tx
	var pool *pgxpool.Pool
	box, _ := outbox.New(pgxstore.New(pool), outbox.Config{})
	_ = box.Write(context.Background(), tx, surepost.Event{})
}
