package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/surepost/surepost/sqlstore/internal/postgres"
)

// dialSQL takes connections out of the handle's pool: database/sql knows no others.
type dialSQL struct{ db *sql.DB }

func (d dialSQL) Dial(ctx context.Context) (postgres.Conn, error) {
	c, err := d.db.Conn(ctx)
	if most := d.db.Stats(); err != nil && ctx.Err() != nil && most.MaxOpenConnections > 0 && most.InUse >= most.MaxOpenConnections {
		return nil, fmt.Errorf("%w: all %d connections of the *sql.DB are in use, and a relay keeps one, and one more for each lane that it leads: "+
			"raise SetMaxOpenConns", err, most.MaxOpenConnections)
	}
	if err != nil {
		return nil, err
	}
	return conn{querier{c}, c}, nil
}

// executor is what a *sql.Tx, a *sql.Conn and a *sql.DB have in common.
type executor interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// querier makes a transaction, connection or handle of database/sql a postgres.Querier. Not every driver looks at the context
// before it sends: lib/pq sends the statement of a context that has ended, and only then asks to cancel it.
type querier struct{ on executor }

func (q querier) Query(ctx context.Context, query string, args ...any) (postgres.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := q.on.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return rows{r}, nil
}

func (q querier) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	result, err := q.on.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

type rows struct{ *sql.Rows }

func (r rows) Close() { _ = r.Rows.Close() } // its error is that of Err

type conn struct {
	querier
	c *sql.Conn
}

func (c conn) Transact(ctx context.Context, work func(postgres.Querier) error) error {
	return transact(ctx, c.c, func(tx *sql.Tx) error { return work(querier{tx}) })
}

func (c conn) Close(context.Context) error { return c.c.Close() }

// transact runs work in a transaction of db, and commits it if work returns nil.
func transact(ctx context.Context, db interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}, work func(tx *sql.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		// After a commit this is ErrTxDone; after a panic of work it frees the connection.
		if e := tx.Rollback(); e != nil && !errors.Is(e, sql.ErrTxDone) && err == nil {
			err = e
		}
	}()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}
