// Package postgres is what sqlstore and pgxstore have in common: the tables, every SQL statement and the cut. It
// speaks to the database through the small interfaces below, which each of the two implements on its driver in a few
// lines.
//
// Read cursor.go first: the rest is bookkeeping around it.
package postgres

import "context"

// Querier runs one statement at a time. Arguments are string, int64, bool and time.Time; arrays are passed as literals.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (affected int64, err error)
}

// Rows is a result set. Close may be called more than once.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close()
}

// Conn is one connection, used by one goroutine at a time.
type Conn interface {
	Querier
	// Transact runs work in a transaction.
	Transact(ctx context.Context, work func(q Querier) error) error
	// Close gives the connection back, or ends it.
	Close(ctx context.Context) error
}

// Dialer makes connections. Each is separate from those that the application's own work uses, where the driver allows
// it.
type Dialer interface {
	Dial(ctx context.Context) (Conn, error)
}

// Engine is the store's logic for PostgreSQL.
type Engine struct {
	config  Config
	dialer  Dialer
	sql     statements
	control control
	mover   control // that delayed events are moved on
	leaf    currentLeaf
}

// New returns an engine. The dialer may be nil for an engine that only appends and records in transactions of the
// caller.
func New(dialer Dialer, config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	e := &Engine{config: config, dialer: dialer, sql: newStatements(config)}
	e.control.dialer, e.mover.dialer = e, e
	return e, nil
}

// queryRow runs a statement that returns at most one row, and reports whether it did.
func queryRow(ctx context.Context, q Querier, sql string, args []any, dest ...any) (bool, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	if !rows.Next() {
		return false, rows.Err()
	}
	if err := rows.Scan(dest...); err != nil {
		return false, err
	}
	rows.Close()
	return true, rows.Err()
}
