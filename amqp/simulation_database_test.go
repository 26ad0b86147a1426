package amqp

import (
	"context"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
)

// simDatabase is the services' database, as PostgreSQL is one: a transaction that inserts a record which another open one
// has inserted waits for that one's end; what a client has begun goes on until the server notices that the client is
// gone. It checks the promises as it commits. The world's lock guards it.
type simDatabase struct {
	*simulation
	records   map[simRecord]*simRow
	effects   map[simRecord]int
	last      map[simKey]int // place of the last event of a key that took effect
	followUps []surepost.Event
	attempts  map[simRecord]*simAttempts
	opened    int // transactions
	downUntil time.Duration
}

// simRecord is the row of the inbox: that a consumer has handled an event.
type simRecord struct{ consumer, event string }

type simKey struct{ consumer, key string }

// simRow is a record that was inserted: by an open transaction, or by one that has committed.
type simRow struct{ by *simTx }

// simAttempts are those at one event that were started and not finished.
type simAttempts struct{ open []*simAttempt }

type simAttempt struct {
	process *simProcess
	unsaid  bool // its process doesn't know whether it is on record
}

// simTx is a transaction.
type simTx struct {
	db        *simDatabase
	process   *simProcess
	number    int
	rows      []simRecord
	effects   []simRecord
	followUps []surepost.Event
	committed bool
	ended     chan struct{}
}

// simConflict is a serialization failure.
type simConflict struct{}

func (simConflict) Error() string    { return "could not serialize access" }
func (simConflict) SQLState() string { return "40001" }

// simStore is the database as one process sees it.
type simStore struct {
	*simDatabase
	process *simProcess
}

var (
	_ inbox.Store[*simTx]  = simStore{}
	_ inbox.AttemptStore   = simStore{}
	_ outbox.Store[*simTx] = simStore{}
)

// errSimDown is what a database that can't be reached says.
var errSimDown = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// ask has the database do something for a process.
func ask[T any](
	ctx context.Context, s *simDatabase, p *simProcess, what, on string, effect func() (T, error),
) (T, error) {
	return do(ctx, p, what, on, func() (T, error) {
		if s.Now() < s.downUntil {
			return *new(T), errSimDown
		}
		return effect()
	})
}

func (s simStore) Transact(
	ctx context.Context, consumer string, ids []string, work func(tx *simTx, first []bool) error,
) error {
	tx, err := ask(ctx, s.simDatabase, s.process, "begin", "for "+ids[0], func() (*simTx, error) {
		s.opened++
		return &simTx{db: s.simDatabase, process: s.process, number: s.opened, ended: make(chan struct{})}, nil
	})
	if err != nil {
		return err
	}
	first := make([]bool, len(ids))
	for _, id := range slices.Sorted(slices.Values(ids)) { // in one order, so that nobody waits in a circle
		if first[slices.Index(ids, id)], err = tx.insert(ctx, simRecord{consumer, id}); err != nil {
			tx.abort()
			return err
		}
	}
	if err := work(tx, first); err != nil {
		tx.abort()
		return err
	}
	return tx.commit(ctx)
}

// insert inserts the record if nobody has.
func (tx *simTx) insert(ctx context.Context, r simRecord) (first bool, err error) {
	for {
		by, err := execute(ctx, tx, "insert", r.event, func() (*simTx, error) {
			row := tx.db.records[r]
			if row == nil {
				row = &simRow{tx}
				tx.db.records[r] = row
				tx.rows = append(tx.rows, r)
			}
			return row.by, nil
		})
		if err != nil || by == tx || tx.db.hasCommitted(by) {
			return by == tx, err
		}
		select {
		case <-by.ended:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func (db *simDatabase) hasCommitted(tx *simTx) (committed bool) {
	db.Look(func() { committed = tx.committed })
	return committed
}

// execute is a statement of a transaction.
func execute[T any](ctx context.Context, tx *simTx, what, on string, effect func() (T, error)) (T, error) {
	return ask(ctx, tx.db, tx.process, what, on, func() (T, error) {
		if tx.isOver() {
			return *new(T), errSimCut
		}
		tx.db.Detail("in transaction %d", tx.number)
		return effect()
	})
}

func (tx *simTx) isOver() bool {
	select {
	case <-tx.ended:
		return true
	default:
		return false
	}
}

// commit may fail before or after it took place.
func (tx *simTx) commit(ctx context.Context) error {
	conflict := tx.db.Strike("a serialization failure", tx.db.conflicts, 0)
	_, err := execute(ctx, tx, "commit", fmt.Sprint("transaction ", tx.number), func() (struct{}, error) {
		if conflict && len(tx.effects) > 0 {
			tx.rollback()
			return struct{}{}, simConflict{}
		}
		tx.db.commit(tx)
		return struct{}{}, nil
	})
	if err != nil {
		tx.abort()
	}
	return err
}

// abort lets the server roll back, some time: the connection may be gone, and the server has to notice.
func (tx *simTx) abort() {
	tx.db.later("postgres", "roll back", fmt.Sprint("transaction ", tx.number), tx.rollback)
}

// rollback ends a transaction that hasn't ended.
func (tx *simTx) rollback() {
	if tx.isOver() {
		return
	}
	for _, r := range tx.rows {
		delete(tx.db.records, r)
	}
	close(tx.ended)
}

// commit makes a transaction's work last, and says what must not have been.
func (db *simDatabase) commit(tx *simTx) {
	tx.committed = true
	close(tx.ended)
	for _, r := range tx.effects {
		if db.effects[r]++; db.effects[r] > 1 {
			db.FailIn("event %s took effect %d times for %s", r.event, db.effects[r], r.consumer)
		}
		e := db.events[r.event]
		if e.key == "" || e.givenUp[r.consumer] != "" || db.competing {
			continue
		}
		k := simKey{r.consumer, e.key}
		if e.place < db.last[k] {
			db.FailIn("event %s of key %q took effect for %s after a later one, e%d",
				r.event, e.key, r.consumer, db.last[k])
		}
		db.last[k] = e.place
	}
	db.followUps = append(db.followUps, tx.followUps...)
}

// Append implements outbox.Store.
func (s simStore) Append(ctx context.Context, tx *simTx, events []surepost.Event) error {
	_, err := execute(ctx, tx, "write", events[0].ID, func() (struct{}, error) {
		tx.followUps = append(tx.followUps, events...)
		return struct{}{}, nil
	})
	return err
}

// LockKeys implements outbox.Store. Nobody asks for it here.
func (s simStore) LockKeys(context.Context, *simTx, []string) error { return nil }

func (s simStore) StartAttempt(ctx context.Context, consumer, id string, limit int) (unfinished int, err error) {
	unfinished, err = ask(ctx, s.simDatabase, s.process, "start an attempt at", id, func() (int, error) {
		a := s.attempts[simRecord{consumer, id}]
		if a == nil {
			a = &simAttempts{}
			s.attempts[simRecord{consumer, id}] = a
		}
		unfinished := len(a.open)
		s.Detail("unfinished: %d", unfinished)
		if unfinished < limit {
			a.open = append(a.open, &simAttempt{process: s.process})
		}
		return unfinished, nil
	})
	s.unsaid(simRecord{consumer, id}, err)
	return unfinished, err
}

func (s simStore) FinishAttempt(ctx context.Context, consumer, id, _ string) error {
	r := simRecord{consumer, id}
	_, err := ask(ctx, s.simDatabase, s.process, "finish an attempt at", id, func() (struct{}, error) {
		if a := s.attempts[r]; a != nil && len(a.open) > 0 { // which one it was, the table doesn't know
			i := max(0, slices.IndexFunc(a.open, func(o *simAttempt) bool { return o.process == s.process }))
			a.open = slices.Delete(a.open, i, i+1)
		}
		return struct{}{}, nil
	})
	s.unsaid(r, err)
	return err
}

func (s simStore) ForgetAttempts(ctx context.Context, consumer, id string) error {
	r := simRecord{consumer, id}
	_, err := ask(ctx, s.simDatabase, s.process, "forget the attempts at", id, func() (struct{}, error) {
		delete(s.attempts, r)
		return struct{}{}, nil
	})
	s.unsaid(r, err)
	return err
}

// unsaid notes that a process doesn't know whether an attempt is on record. If the event never comes to it again, that
// one stays there.
func (s simStore) unsaid(r simRecord, err error) {
	s.Look(func() {
		if a := s.attempts[r]; err != nil && a != nil {
			for _, o := range a.open {
				o.unsaid = o.unsaid || o.process == s.process
			}
		}
	})
}

// deaths returns how many attempts at an event weren't finished because the process ended, or couldn't say.
func (db *simDatabase) deaths(r simRecord) (n int) {
	if a := db.attempts[r]; a != nil {
		for _, o := range a.open {
			if o.unsaid || o.process.ended {
				n++
			}
		}
	}
	return n
}
