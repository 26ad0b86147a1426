package pgxstore

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/sqlstore/internal/postgres"
)

// dialPgx makes connections beside the pool, with the pool's settings: the relay must not wait for a service's busy
// pool.
type dialPgx struct{ pool *pgxpool.Pool }

func (d dialPgx) Dial(ctx context.Context) (postgres.Conn, error) {
	config := d.pool.Config()
	if config.BeforeConnect != nil { // for example a password that expires
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	c, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, err
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, c); err != nil {
			_ = c.Close(ctx)
			return nil, err
		}
	}
	return conn{querier{c}, c}, nil
}

// executor is what a pgx.Tx, a *pgx.Conn and a *pgxpool.Pool have in common.
type executor interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// querier makes a pgx transaction, connection or pool a postgres.Querier.
type querier struct{ on executor }

func (q querier) Query(ctx context.Context, sql string, args ...any) (postgres.Rows, error) {
	return q.on.Query(ctx, sql, args...)
}

func (q querier) Exec(ctx context.Context, sql string, args ...any) (int64, error) {
	tag, err := q.on.Exec(ctx, sql, args...)
	return tag.RowsAffected(), err
}

type conn struct {
	querier
	c *pgx.Conn
}

func (c conn) Transact(ctx context.Context, work func(postgres.Querier) error) error {
	return pgx.BeginFunc(ctx, c.c, func(tx pgx.Tx) error { return work(querier{tx}) })
}

func (c conn) Close(ctx context.Context) error { return c.c.Close(ctx) }
