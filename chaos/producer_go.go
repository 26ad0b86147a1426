package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// runGoProducer is the producer that writes its events by outbox.Write, with pgx.
func runGoProducer(ctx context.Context, s surroundings, tell *teller) error {
	pool, err := openPool(ctx, s.Postgres, writers+2)
	if err != nil {
		return err
	}
	defer pool.Close()
	box, err := outbox.New(pgxstore.New(pool), outbox.Config{Source: "shop"})
	if err != nil {
		return err
	}
	p := &producer{surroundings: s, tell: tell}
	p.begin = func(ctx context.Context) (transaction, error) {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return nil, err
		}
		return &goTransaction{tx, box}, nil
	}
	p.outside = func(ctx context.Context, events []surepost.Event) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return box.Write(ctx, tx, events...) })
	}
	return p.run(ctx)
}

// openPool opens a pool that connects when it is used: the database may be away.
func openPool(ctx context.Context, url string, connections int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	return pgxpool.NewWithConfig(ctx, config)
}

type goTransaction struct {
	tx  pgx.Tx
	box *outbox.Outbox[pgx.Tx]
}

func (t *goTransaction) exec(ctx context.Context, sql string, args ...any) error {
	_, err := t.tx.Exec(ctx, sql, args...)
	return err
}

func (t *goTransaction) number(ctx context.Context, sql, key string) (n int64, err error) {
	err = t.tx.QueryRow(ctx, sql, key).Scan(&n)
	return n, err
}

func (t *goTransaction) write(ctx context.Context, events []surepost.Event) error {
	return t.box.Write(ctx, t.tx, events...)
}

func (t *goTransaction) commit(ctx context.Context) error { return t.tx.Commit(ctx) }

func (t *goTransaction) rollback() { _ = t.tx.Rollback(context.Background()) }
