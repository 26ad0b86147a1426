package pgxstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/internal/postgres"
)

// Store is the outbox, the inbox and the relay's log in one PostgreSQL database. It is safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	engine *postgres.Engine
}

var (
	_ outbox.Store[pgx.Tx] = (*Store)(nil)
	_ inbox.Store[pgx.Tx]  = (*Store)(nil)
	_ inbox.AttemptStore   = (*Store)(nil)
	_ relay.Store          = (*Store)(nil)
)

// New returns a store on the pool's database, with the default table names. The pool may be nil for a store that only
// writes events.
func New(pool *pgxpool.Pool) *Store {
	s, err := NewWithConfig(pool, sqlstore.Config{})
	if err != nil {
		panic(err) // the defaults are valid
	}
	return s
}

// NewWithConfig returns a store with tables named by config.
func NewWithConfig(pool *pgxpool.Pool, config sqlstore.Config) (*Store, error) {
	var dialer postgres.Dialer
	if pool != nil {
		dialer = dialPgx{pool}
	}
	engine, err := postgres.New(dialer, postgres.Config(config))
	if err != nil {
		return nil, err
	}
	return &Store{pool: pool, engine: engine}, nil
}

// Append implements outbox.Store.
func (s *Store) Append(ctx context.Context, tx pgx.Tx, events []surepost.Event) error {
	return s.engine.Append(ctx, querier{tx}, events)
}

// LockKeys implements outbox.Store.
func (s *Store) LockKeys(ctx context.Context, tx pgx.Tx, keys []string) error {
	return s.engine.LockKeys(ctx, querier{tx}, keys)
}

// Queue adds the events to a batch that the caller sends in its transaction, together with the business statements:
// the events cost no round trip of their own. They are checked now; what the database says comes with the batch's
// results.
//
//	batch := &pgx.Batch{}
//	batch.Queue("UPDATE …")
//	err := store.Queue(ctx, box, batch, surepost.Event{…})
//	err = tx.SendBatch(ctx, batch).Close()
//
// A batch has no transaction, so this call can't see whether there is one. A batch sent to a pool is a transaction of
// its own, which is just as good. Config.LockKeys has no effect here.
func (s *Store) Queue(ctx context.Context, box *outbox.Outbox[pgx.Tx], batch *pgx.Batch, events ...surepost.Event) error {
	if len(events) == 0 {
		return nil
	}
	prepared, err := box.Prepare(ctx, events...)
	if err != nil {
		return err
	}
	sql, args, err := s.engine.AppendStatement(prepared)
	if err != nil {
		return err
	}
	batch.Queue(sql, args...)
	return nil
}

// Transact implements inbox.Store. BEGIN and the record are sent together, so that the record costs no round trip.
func (s *Store) Transact(
	ctx context.Context, consumer string, eventIDs []string, work func(tx pgx.Tx, first []bool) error,
) (err error) {
	if s.pool == nil {
		return postgres.ErrNoPool
	}
	batch := &pgx.Batch{}
	batch.BeginTx(pgx.TxOptions{})
	sql, args := s.engine.RecordStatement(consumer, eventIDs)
	batch.Queue(sql, args...)
	begun := s.pool.SendBatch(ctx, batch)
	tx := begun.Tx()
	defer func() {
		// After a commit this is ErrTxClosed; after an error, or a panic of work, it frees the connection.
		if e := tx.Rollback(ctx); e != nil && !errors.Is(e, pgx.ErrTxClosed) && err == nil {
			err = e
		}
	}()
	first, err := s.recorded(begun, eventIDs)
	if err != nil {
		return err
	}
	if err := work(tx, first); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// recorded reads the results of BEGIN and the record, after which the transaction may be used.
func (s *Store) recorded(begun pgx.BatchResults, eventIDs []string) (first []bool, err error) {
	defer func() {
		if e := begun.Close(); err == nil {
			err = e
		}
	}()
	_, _ = begun.Exec() // of BEGIN: the error of a result is that of all behind it, too
	if len(eventIDs) == 1 {
		tag, err := begun.Exec()
		return s.engine.RecordedOne(tag.RowsAffected(), err)
	}
	rows, _ := begun.Query() // their error is that of Err
	return s.engine.RecordedAll(eventIDs, rows)
}

// Record notes in tx that consumer handles the event, and returns false if that was noted before: an inbox for
// transactions that the caller opens. If another open transaction is noting the same, it waits for that one's end.
func (s *Store) Record(ctx context.Context, tx pgx.Tx, consumer, eventID string) (first bool, err error) {
	recorded, err := s.engine.Record(ctx, querier{tx}, consumer, []string{eventID})
	return err == nil && recorded[0], err
}

// StartAttempt implements inbox.AttemptStore.
func (s *Store) StartAttempt(ctx context.Context, consumer, eventID string, limit int) (unfinished int, err error) {
	if s.pool == nil {
		return 0, postgres.ErrNoPool
	}
	return s.engine.StartAttempt(ctx, querier{s.pool}, consumer, eventID, limit)
}

// FinishAttempt implements inbox.AttemptStore.
func (s *Store) FinishAttempt(ctx context.Context, consumer, eventID, failure string) error {
	if s.pool == nil {
		return postgres.ErrNoPool
	}
	return s.engine.FinishAttempt(ctx, querier{s.pool}, consumer, eventID, failure)
}

// ForgetAttempts implements inbox.AttemptStore.
func (s *Store) ForgetAttempts(ctx context.Context, consumer, eventID string) error {
	if s.pool == nil {
		return postgres.ErrNoPool
	}
	return s.engine.ForgetAttempts(ctx, querier{s.pool}, consumer, eventID)
}

// Check implements relay.Store. Producers and consumers call it at their start, so that a database that was not
// migrated is found before the first event.
func (s *Store) Check(ctx context.Context) error { return s.engine.Check(ctx) }

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
func (s *Store) Migrate(ctx context.Context) ([]sqlstore.Migration, error) { return s.engine.Up(ctx) }

// MigrationStatus returns all migrations and when this database got them.
func (s *Store) MigrationStatus(ctx context.Context) ([]sqlstore.Migration, error) {
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

// Close ends the connection that leases are renewed on. The pool stays the caller's.
func (s *Store) Close(ctx context.Context) { s.engine.Close(ctx) }
