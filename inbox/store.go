package inbox

import "context"

// Store opens transactions and keeps the record of handled events. It is implemented by pgxstore.Store (for pgx.Tx) and
// sqlstore.Store (for *sql.Tx), which are AttemptStores too.
type Store[TX any] interface {
	// Transact runs work in a transaction that records first that consumer handles the events, and commits it if work
	// returns nil; otherwise it rolls back and returns work's error as it is. An error of the commit itself leaves open
	// whether it took place.
	//
	// The ids are distinct, at least one. Work gets to know of each whether it was recorded now (first) or before. If
	// another open transaction is recording one of them, that one's end is waited for; all callers record in one
	// order, so that those whose ids overlap can't wait for each other.
	Transact(ctx context.Context, consumer string, eventIDs []string, work func(tx TX, first []bool) error) error
}

// AttemptStore is a Store that also counts the attempts at an event: those that were started, and those of them that
// were finished. The difference are attempts in which the process died. Each method is a transaction of its own.
type AttemptStore interface {
	// StartAttempt notes that consumer starts an attempt at the event, if fewer than limit were started and never
	// finished. It returns how many those are, this one not included.
	StartAttempt(ctx context.Context, consumer, eventID string, limit int) (unfinished int, err error)
	// FinishAttempt notes that an attempt that was started has ended, and how it failed.
	FinishAttempt(ctx context.Context, consumer, eventID, failure string) error
	// ForgetAttempts removes what was noted: the event was handled, or given up.
	ForgetAttempts(ctx context.Context, consumer, eventID string) error
}
