package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

// Store is the outbox, the inbox and the relay's log in one MySQL or MariaDB database. It is safe for concurrent use.
type Store struct {
	db     *sql.DB
	config Config
	sql    statements

	packet  atomic.Int64 // the server's max_allowed_packet in bytes, once it was asked for
	control control
}

var (
	_ outbox.Store[*sql.Tx] = (*Store)(nil)
	_ inbox.Store[*sql.Tx]  = (*Store)(nil)
	_ inbox.AttemptStore    = (*Store)(nil)
	_ relay.Store           = (*Store)(nil)
)

// New returns a store on the database, with the default Config. db may be nil for a store that only writes events. A
// relay on it keeps two of db's connections.
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

// Close gives back the connection that leases are renewed on. The database handle stays the caller's.
func (s *Store) Close(context.Context) {
	s.control.mu.Lock()
	defer s.control.mu.Unlock()
	s.control.close()
}

// dial takes a connection out of the pool, and says what to look at where that fails.
func (s *Store) dial(ctx context.Context) (*sql.Conn, error) {
	if s.db == nil {
		return nil, ErrNoPool
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, explainConnect(err)
	}
	return conn, nil
}

// own runs a transaction of the store's own on any connection of the pool.
func (s *Store) own(ctx context.Context, work func(tx *sql.Tx) error) error {
	if s.db == nil {
		return ErrNoPool
	}
	return own(ctx, s.db, work)
}

// control is the connection that leases are taken and renewed on. It is not the one that the log is read on, so that a
// renewal never waits for a long read; it is taken when first needed and again after an error.
type control struct {
	mu   sync.Mutex
	conn *sql.Conn
}

// lead runs a transaction on the control connection. An error other than one of the relay's own gives it back.
func (s *Store) lead(ctx context.Context, work func(tx *sql.Tx) error) error {
	c := &s.control
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		conn, err := s.dial(ctx)
		if err != nil {
			return err
		}
		c.conn = conn
	}
	err := own(ctx, c.conn, work)
	var held *relay.LeaseHeldError
	if err != nil && !errors.As(err, &held) && !errors.Is(err, relay.ErrLeaseLost) {
		c.close()
	}
	return err
}

func (c *control) close() {
	if c.conn != nil {
		_ = c.conn.Close() // database/sql drops a connection that has failed
		c.conn = nil
	}
}
