// Package storetest is the conformance suite of stores: whatever an outbox, an inbox and a relay rest on, shown
// against a database. It runs against pgxstore, sqlstore and its siblings for SQLite, MySQL and MariaDB, and against
// memstore. Who writes a store of his own runs it too:
//
//	func TestMyStoreConforms(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Backend[*sql.Tx] {
//			db := newDatabase(t) // empty, and closed by t.Cleanup
//			store := mystore.New(db)
//			…migrate; CREATE TABLE effect (name VARCHAR(255))…
//			return storetest.Backend[*sql.Tx]{
//				Store:    store,
//				Another:  func(t *testing.T) storetest.Store[*sql.Tx] { return mystore.New(db) },
//				Begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
//				Commit:   func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
//				Rollback: func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
//				Effect:   …INSERT INTO effect VALUES (?)…,
//				Effects:  …SELECT name FROM effect…,
//			}
//		})
//	}
//
// Each promise is a subtest of its name, with a database of its own, and runs in parallel with others. Nothing is
// skipped: what a store can't do by its nature it declares in its [Backend], and then the suite demands what holds in
// its place. A test that draws at random logs its seed, and takes it from SUREPOST_SEED.
//
// Run it with -race: that a store's methods may be used by many goroutines at once shows only there.
//
// # What it can't see
//
// Some sentences of the interfaces' comments are out of a test's reach, and are the author's to keep: that a lease's
// expiry is judged by the store's clock and not by the caller's (the suite sees that it runs out, and no sooner than
// it must); that Store.Renew doesn't wait for a read that hangs; that a log is on a connection of its own (the suite
// sees that logs don't disturb each other); that events are appended in one statement; that Store.Check finds what is
// missing (the suite sees that it finds nothing in a good store); and what a crash or a failover of the server
// leaves.
package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/outbox/outboxtest"
	"github.com/surepost/surepost/relay"
)

// Store is all that a service and its operators need of a database. A store that also has a method
//
//	Record(ctx context.Context, tx TX, consumer, eventID string) (first bool, err error)
//
// as those of this module have, is held to it too.
type Store[TX any] interface {
	inbox.Store[TX]
	inbox.AttemptStore
	relay.Store

	// Parked lists parked events, oldest first, at most limit.
	Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error)
	// RetryParked asks the relay to publish parked events again, and returns how many that concerns. Events that only
	// wait behind one of their key follow by themselves once it is published. Who asks is required, and recorded.
	RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error)
	// DiscardParked removes parked events for good, and returns how many. Events that waited behind them are published
	// then. Who does so is required, and recorded.
	DiscardParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error)
	// ParkedActions lists what operators did to parked events, newest first, at most limit.
	ParkedActions(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedAction, error)

	outbox.Scheduler[TX]
	relay.ScheduleStore
	outboxtest.Store[TX]

	// Scheduled lists delayed events in the order in which they become due, at most limit.
	Scheduled(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error)
	// CancelScheduled takes delayed events back, and returns how many. Who does so is required, and recorded.
	CancelScheduled(ctx context.Context, filter relay.ScheduledFilter, by string) (int64, error)
	// Cancellations lists the delayed events that operators took back, newest first, at most limit.
	Cancellations(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.Cancellation, error)
}

// Backend is a store under test on an empty, migrated database of its own, and what the suite needs to drive that
// database. All functions may be called by several goroutines at once; up to ten transactions are open at a time.
type Backend[TX any] struct {
	// Store is the store under test.
	Store Store[TX]

	// Another returns a second store on the same database, as another process has it. What must be closed is closed
	// by t.Cleanup.
	Another func(t *testing.T) Store[TX]

	// Begin, Commit and Rollback open and end a transaction as a service does. Rollback is also called after the
	// transaction has ended, and then does nothing; its error doesn't matter there.
	Begin    func(ctx context.Context) (TX, error)
	Commit   func(ctx context.Context, tx TX) error
	Rollback func(ctx context.Context, tx TX) error

	// Effect does business work in the transaction: it adds a row of this name to a table of the test's own, to be
	// found in the committed rows that Effects returns, in any order. A name that was added twice is there twice.
	Effect  func(ctx context.Context, tx TX, name string) error
	Effects func(ctx context.Context) ([]string, error)

	// OneWriter says that the database has at most one open transaction that writes: a second one waits at its
	// beginning or at its first write, for ten seconds at least, until the first has ended. SQLite is so. Then nothing
	// can commit late, and the suite demands that the second writer waits. Reading waits for nobody.
	OneWriter bool

	// OneLane says that the store opens lane 0 of 1 and no other. The suite demands that Open refuses others with an
	// error that matches relay.ErrHalt.
	OneLane bool

	// OneDestination says that an event is gone once a destination has passed it, so that the store feeds only one,
	// relay.DefaultDestination. The suite demands that Acquire or Open refuses others with an error that matches
	// relay.ErrHalt.
	OneDestination bool

	// NoReplays says that the store isn't a relay.ReplayStore. The suite demands that it isn't.
	NoReplays bool

	// NoRetention says that the store isn't a relay.Retainer. The suite demands that it isn't.
	NoRetention bool

	// NoPruning says that the store isn't an inbox.Pruner. The suite demands that it isn't.
	NoPruning bool
}

func (b Backend[TX]) problems() error {
	var errs []error
	need := func(there bool, field string) {
		if !there {
			errs = append(errs, errors.New("storetest: Backend."+field+" is nil: see its comment for what the suite does with it"))
		}
	}
	need(b.Store != nil, "Store")
	need(b.Another != nil, "Another")
	need(b.Begin != nil, "Begin")
	need(b.Commit != nil, "Commit")
	need(b.Rollback != nil, "Rollback")
	need(b.Effect != nil, "Effect")
	need(b.Effects != nil, "Effects")
	return errors.Join(errs...)
}

// limit is how long a test may take, on a machine that does much besides. What hangs fails then.
var limit = time.Minute

// grace is how long the suite waits for what must not happen.
const grace = 150 * time.Millisecond

// promise is something that a store must keep.
type promise[TX any] struct {
	name string
	test func(s *suite[TX])
}

// Run tests a store: open returns a new one, on an empty database, for every promise. What it opens it closes by
// t.Cleanup.
func Run[TX any](t *testing.T, open func(t *testing.T) Backend[TX]) {
	for _, p := range promises[TX]() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			if err := b.problems(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			t.Cleanup(cancel)
			p.test(&suite[TX]{T: t, Backend: b, ctx: ctx})
		})
	}
}

func promises[TX any]() (all []promise[TX]) {
	for _, chapter := range [][]promise[TX]{
		writing[TX](), reading[TX](), checkpoints[TX](), leases[TX](), sharing[TX](), parking[TX](), operating[TX](),
		scheduling[TX](), replaying[TX](), retaining[TX](), handling[TX](), counting[TX](), pruning[TX](),
	} {
		all = append(all, chapter...)
	}
	return all
}
