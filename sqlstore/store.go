package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/internal/postgres"
)

// Config names the tables. Its zero value means tables that begin with "surepost_", found by the connection's
// search_path.
type Config postgres.Config

// Migration is one step of the tables' history.
type Migration = postgres.Migration

// Store is the outbox, the inbox and the relay's log in one PostgreSQL database. It is safe for concurrent use.
type Store struct {
	db     *sql.DB
	engine *postgres.Engine
}

var (
	_ outbox.Store[*sql.Tx] = (*Store)(nil)
	_ inbox.Store[*sql.Tx]  = (*Store)(nil)
	_ inbox.AttemptStore    = (*Store)(nil)
	_ relay.Store           = (*Store)(nil)
)

// New returns a store on the database, with the default table names. db may be nil for a store that only writes
// events. A relay on it keeps two of db's connections.
func New(db *sql.DB) *Store {
	s, err := NewWithConfig(db, Config{})
	if err != nil {
		panic(err) // the defaults are valid
	}
	return s
}

// NewWithConfig returns a store with tables named by config.
func NewWithConfig(db *sql.DB, config Config) (*Store, error) {
	var dialer postgres.Dialer
	if db != nil {
		dialer = dialSQL{db}
	}
	engine, err := postgres.New(dialer, postgres.Config(config))
	if err != nil {
		return nil, err
	}
	return &Store{db: db, engine: engine}, nil
}

// Append implements outbox.Store.
func (s *Store) Append(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
	return s.engine.Append(ctx, querier{tx}, events)
}

// LockKeys implements outbox.Store.
func (s *Store) LockKeys(ctx context.Context, tx *sql.Tx, keys []string) error {
	return s.engine.LockKeys(ctx, querier{tx}, keys)
}

// Transact implements inbox.Store.
func (s *Store) Transact(
	ctx context.Context, consumer string, eventIDs []string, work func(tx *sql.Tx, first []bool) error,
) error {
	if s.db == nil {
		return postgres.ErrNoPool
	}
	return transact(ctx, s.db, func(tx *sql.Tx) error {
		first, err := s.engine.Record(ctx, querier{tx}, consumer, eventIDs)
		if err != nil {
			return err
		}
		return work(tx, first)
	})
}

// Record notes in tx that consumer handles the event, and returns false if that was noted before: an inbox for
// transactions that the caller opens. If another open transaction is noting the same, it waits for that one's end.
func (s *Store) Record(ctx context.Context, tx *sql.Tx, consumer, eventID string) (first bool, err error) {
	recorded, err := s.engine.Record(ctx, querier{tx}, consumer, []string{eventID})
	return err == nil && recorded[0], err
}

// StartAttempt implements inbox.AttemptStore.
func (s *Store) StartAttempt(ctx context.Context, consumer, eventID string, limit int) (unfinished int, err error) {
	if s.db == nil {
		return 0, postgres.ErrNoPool
	}
	return s.engine.StartAttempt(ctx, querier{s.db}, consumer, eventID, limit)
}

// FinishAttempt implements inbox.AttemptStore.
func (s *Store) FinishAttempt(ctx context.Context, consumer, eventID, failure string) error {
	if s.db == nil {
		return postgres.ErrNoPool
	}
	return s.engine.FinishAttempt(ctx, querier{s.db}, consumer, eventID, failure)
}

// ForgetAttempts implements inbox.AttemptStore.
func (s *Store) ForgetAttempts(ctx context.Context, consumer, eventID string) error {
	if s.db == nil {
		return postgres.ErrNoPool
	}
	return s.engine.ForgetAttempts(ctx, querier{s.db}, consumer, eventID)
}

// Check implements relay.Store. Producers and consumers call it at their start, so that a database that was not
// migrated is found before the first event.
func (s *Store) Check(ctx context.Context) error {
	const relayNeeds = 3 // the log's and the lease's for good, and one for everything else
	if s.db != nil {
		if most := s.db.Stats().MaxOpenConnections; most > 0 && most < relayNeeds {
			return fmt.Errorf("sqlstore: %w: the *sql.DB allows %d connections, and a relay on it needs %d: raise SetMaxOpenConns, "+
				"or give the relay a *sql.DB of its own", relay.ErrHalt, most, relayNeeds)
		}
	}
	return s.engine.Check(ctx)
}

// Acquire implements relay.Store.
func (s *Store) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	return s.engine.Acquire(ctx, lane, owner, ttl)
}

// Renew implements relay.Store.
func (s *Store) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	return s.engine.Renew(ctx, lease, ttl)
}

// Release implements relay.Store.
func (s *Store) Release(ctx context.Context, lease relay.Lease) error {
	return s.engine.Release(ctx, lease)
}

// Open implements relay.Store.
func (s *Store) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	return s.engine.Open(ctx, lease)
}

// Migrate brings the tables to this version of Surepost and returns the migrations that it applied. It may be called
// by many processes at once and at every start.
func (s *Store) Migrate(ctx context.Context) ([]Migration, error) { return s.engine.Up(ctx) }

// MigrationStatus returns all migrations and when this database got them.
func (s *Store) MigrationStatus(ctx context.Context) ([]Migration, error) {
	return s.engine.Status(ctx)
}

// MigrationSQL returns the migrations above a version (0: all) as one SQL script, for teams that run their own tool.
// It keeps the books, so that MigrationStatus and Check know of it.
func (s *Store) MigrationSQL(above int) string { return s.engine.SQL(above) }

// Parked lists parked events, oldest first, at most limit.
func (s *Store) Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
	return s.engine.Parked(ctx, filter, limit)
}

// RetryParked asks the relay to publish parked events again, and returns how many that concerns. Events that only
// wait behind one of their key follow by themselves once it is published. Who asks is recorded (ParkedActions).
func (s *Store) RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error) {
	return s.engine.RetryParked(ctx, filter, by)
}

// DiscardParked removes parked events for good, and returns how many. Events that waited behind them are published
// then. Who does so is recorded (ParkedActions).
func (s *Store) DiscardParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error) {
	return s.engine.DiscardParked(ctx, filter, by)
}

// Close gives back the connection that leases are renewed on. The database handle stays the caller's.
func (s *Store) Close(ctx context.Context) { s.engine.Close(ctx) }
