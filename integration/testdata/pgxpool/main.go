// Package main must not compile: a pool is no transaction.
package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
)

func main() {
	var box *outbox.Outbox[pgx.Tx]
	var pool *pgxpool.Pool
	_ = box.Write(context.Background(), pool, surepost.Event{})
}
