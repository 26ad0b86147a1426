package relay

import (
	"context"
	"errors"
	"time"

	"github.com/surepost/surepost"
)

// Store is where the relay finds events and keeps its place: leases, cursors, parked events. It is implemented by
// sqlstore and sqlstore/pgxstore. All methods are safe for concurrent use.
//
// Errors are taken to be passing (the database is away) unless they match one of this package's sentinels. The relay
// answers every error in the same way: it forgets what it holds, waits and begins again from the newest checkpoint.
type Store interface {
	// Check verifies what the relay needs of the store: the tables and their versions, the sequence, a primary. Its
	// error says what is missing and how to mend it.
	Check(ctx context.Context) error

	// Acquire takes the lane's lease for ttl if it is free, expired or already the owner's own, and raises its epoch:
	// whoever held an earlier epoch can write nothing more. Expiry is judged by the store's clock. It returns a
	// *LeaseHeldError if another owner holds it.
	Acquire(ctx context.Context, lane Lane, owner string, ttl time.Duration) (Lease, error)

	// Renew extends the lease to ttl from now. It returns ErrLeaseLost if the lease's epoch is no longer the newest.
	// It is called from a goroutine of its own and must not wait for what Log does.
	Renew(ctx context.Context, lease Lease, ttl time.Duration) error

	// Release ends the lease at once, so that a standby need not wait for its expiry. A lease that was lost is no
	// error.
	Release(ctx context.Context, lease Lease) error

	// Open opens the lane's log at its newest checkpoint, on a connection of its own.
	Open(ctx context.Context, lease Lease) (Log, error)
}

// Log reads one lane in order. It is used by one goroutine at a time and is bound to the connection that it was
// opened on: after any error it is of no use any more, and the reader begins again with Store.Open, since a position
// must never outlive what it was read from.
type Log interface {
	// Read returns the events that follow the last read, at most limit, and the position behind them. No event of a
	// page is repeated by a later page, and none that commits later is skipped. An empty page is no error: nothing is
	// there at the moment. The relay asks for no more than one page at a time and checkpoints positions in the order
	// of reading. What an operator has discarded of the destination is left out where it is read again, as by new lanes; a
	// page of which nothing is left says that there may be more, so that its position is stored.
	Read(ctx context.Context, limit int) (Page, error)

	// Checkpoint stores the position, and the events that were parked before it, in one transaction. It returns
	// ErrLeaseLost, and has stored nothing, if the lease's epoch is no longer the newest. An event that an operator has
	// discarded since it was read isn't parked again.
	Checkpoint(ctx context.Context, at Position, parked []Parked) error

	// ParkedKeys returns the keys of this lane with parked events.
	ParkedKeys(ctx context.Context) ([]string, error)

	// Released returns parked events that may be published again, at most limit: those whose retry an operator asked
	// for, and those that only wait behind an event that is gone now. Events of one key come in order, and never one
	// while an earlier event of its key stays parked.
	Released(ctx context.Context, limit int) ([]Entry, error)

	// Unpark removes parked events that were published, parks anew those that failed again, and returns which of the
	// given keys have no parked event any more. It is guarded by the lease's epoch like Checkpoint.
	Unpark(ctx context.Context, published []Entry, again []Parked, keys []string) (clear []string, err error)

	// Close frees the connection. It may be called after an error and more than once.
	Close(ctx context.Context) error
}

// Lease is the right to publish a lane. It is worth nothing once a higher epoch was given out.
type Lease struct {
	Lane  Lane
	Owner string
	Epoch int64
}

// Entry is an event with its place in the log.
type Entry struct {
	Seq   int64
	Event surepost.Event
}

// Position is a place in a lane's log that only its store understands.
type Position any

// Page is the result of one read.
type Page struct {
	Entries []Entry
	After   Position // behind the last entry; also changes as time passes without entries
	Full    bool     // there may be more at once
	Done    bool     // the log ends here, and nothing will ever come: a replay's does
	// Stragglers counts the entries, at the front, that committed after ones with higher numbers had been read.
	Stragglers int
}

// Parked is an event that was taken out of the stream.
type Parked struct {
	Entry
	// Behind is true for an event that only waits for an earlier one of its key.
	Behind bool
	Reason string
}

var (
	// ErrLeaseLost says that another relay has the lane now.
	ErrLeaseLost = errors.New("relay: the lane's lease was lost to another relay")

	// ErrHalt marks an error that time doesn't mend and that publishing on would make worse, such as a sequence found
	// behind the cursor. The lane stops with an alarm; the error says what to do.
	ErrHalt = errors.New("relay: lane halted")
)

// LeaseHeldError says that another owner holds the lease.
type LeaseHeldError struct {
	Lane    Lane
	Owner   string
	Expires time.Duration // from now, by the store's clock
}

func (e *LeaseHeldError) Error() string {
	return "relay: lane " + e.Lane.String() + " is held by " + e.Owner + " for another " + e.Expires.Round(time.Millisecond).String()
}
