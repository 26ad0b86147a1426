package mysqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/surepost/surepost/internal/mysqlerr"
)

// beginner is a *sql.DB or a *sql.Conn.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// querier is a *sql.Tx, a *sql.Conn or a *sql.DB.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// transact runs work in a transaction of db, and commits it if work returns nil.
func transact(ctx context.Context, db beginner, isolation sql.IsolationLevel, work func(tx *sql.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: isolation})
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

// snapshot runs reads on the primary that all see the same: the first one makes the transaction's read view. The
// transaction is not declared READ ONLY, because proxies take that for leave to use a replica.
func snapshot(ctx context.Context, conn beginner, reads func(tx *sql.Tx) error) error {
	return transact(ctx, conn, sql.LevelRepeatableRead, reads)
}

// deadlockTries bounds how often a transaction of the store's own is tried: InnoDB ends one of the two, and the other goes
// on, so the next try is the last but for bad luck.
const deadlockTries = 10

// own runs a short transaction of the store's own, again where it lost a deadlock. Its level is READ COMMITTED whatever
// the session's is: no gap locks, which would hold up writers.
func own(ctx context.Context, db beginner, work func(tx *sql.Tx) error) error {
	for try := 1; ; try++ {
		err := transact(ctx, db, sql.LevelReadCommitted, work)
		if try == deadlockTries || mysqlerr.Find(err) != mysqlerr.Deadlock {
			return err
		}
	}
}
