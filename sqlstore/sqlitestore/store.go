package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
)

// Migration is one step of the tables' history.
type Migration = sqlstore.Migration

// Store is the outbox, the inbox and the relay's log in one SQLite file. It is safe for concurrent use, and any number
// of stores in any number of processes of one machine may share the file.
type Store struct {
	db     *sql.DB
	config Config
	sql    statements
}

var (
	_ outbox.Store[*sql.Tx] = (*Store)(nil)
	_ inbox.Store[*sql.Tx]  = (*Store)(nil)
	_ inbox.AttemptStore    = (*Store)(nil)
	_ relay.Store           = (*Store)(nil)
)

// New returns a store on the file, with the default table names. db may be nil for a store that only writes events. The
// store keeps none of db's connections: it takes one for each transaction of its own, so that SetMaxOpenConns(1) is
// enough for a relay too.
func New(db *sql.DB) *Store {
	s, err := NewWithConfig(db, Config{})
	if err != nil {
		panic(err) // the defaults are valid
	}
	return s
}

// NewWithConfig returns a store with tables named by config.
func NewWithConfig(db *sql.DB, config Config) (*Store, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	return &Store{db: db, config: config, sql: newStatements(config)}, nil
}

// Close does nothing: the store holds nothing, and the database handle is the caller's. It is there because other
// databases' stores have it.
func (s *Store) Close(context.Context) {}

// querier is what a *sql.Tx, a *sql.Conn and a *sql.DB have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// exec runs a statement and returns how many rows it has affected.
func exec(ctx context.Context, q querier, query string, args ...any) (affected int64, err error) {
	result, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// transact runs work in a transaction, and commits it if work returns nil. Work's first statement must write: see
// statements.
func (s *Store) transact(ctx context.Context, work func(tx *sql.Tx) error) (err error) {
	if s.db == nil {
		return errNoDB
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return explain("begin a transaction", err)
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
	return explain("commit", tx.Commit())
}

// micros returns a time as the tables hold it.
func micros(t time.Time) int64 { return t.UnixMicro() }

// timeOf reads a time of the tables. One that RFC 3339 can't write is taken for none: nobody writes one but by hand,
// and one odd row must not hold up the log.
func timeOf(micros int64) time.Time {
	if micros < earliest || micros >= latest {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

var (
	earliest = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	latest   = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC).UnixMicro()
)
