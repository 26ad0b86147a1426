package memstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/relay"
)

var (
	// ErrTxDone says that the transaction has been committed or rolled back before.
	ErrTxDone = errors.New("memstore: the transaction has ended already")

	// ErrDeadlock says that the transaction would wait for one that waits for it. It can only be rolled back.
	ErrDeadlock = errors.New("memstore: deadlock: two transactions wait for each other's locks: take locks in one order")
)

// Tx is a transaction. As that of a database it is used by one goroutine at a time, and must be ended by Commit or
// Rollback. After an error of one of its operations it can only be rolled back.
type Tx struct {
	store *Store
	ended chan struct{} // closed when it has ended

	// Guarded by store.mu.
	done     bool
	failed   error
	waitsFor *Tx
	locks    []lock
	entries  []relay.Entry
	delayed  []*scheduled
	revoked  map[*scheduled]bool // of others
	rows     map[string]any      // nil: removed
	records  map[record]bool
}

// lock names something that one open transaction at a time may hold.
type lock struct {
	kind lockKind
	name string
	of   string // of a record: the consumer
}

type lockKind uint8

const (
	lockRow lockKind = iota + 1
	lockEventKey
	lockRecord
	lockScheduled
)

// Begin opens a transaction.
func (s *Store) Begin(ctx context.Context) (*Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &Tx{store: s, ended: make(chan struct{}), rows: map[string]any{}, records: map[record]bool{}, revoked: map[*scheduled]bool{}}, nil
}

// Do runs work in a transaction, which it commits if work returns nil. Otherwise, and when work panics, it rolls back.
func (s *Store) Do(ctx context.Context, work func(tx *Tx) error) error {
	tx, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // nothing to do after a commit
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Commit makes everything that was done in the transaction visible, at once. After an error nothing of it is.
func (tx *Tx) Commit(ctx context.Context) error {
	s := tx.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if tx.done {
		return ErrTxDone
	}
	defer tx.end()
	if tx.failed != nil {
		return fmt.Errorf("memstore: rolled back, since an operation of the transaction failed: %w", tx.failed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memstore: rolled back: %w", err)
	}
	s.commit(tx.entries...)
	s.commitSchedule(tx)
	for key, value := range tx.rows {
		if value == nil {
			delete(s.rows, key)
		} else {
			s.rows[key] = value
		}
	}
	for r := range tx.records {
		s.records[r] = time.Now()
	}
	return nil
}

// Rollback undoes everything that was done in the transaction. The error is [ErrTxDone] if it has ended.
func (tx *Tx) Rollback(context.Context) error {
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	if tx.done {
		return ErrTxDone
	}
	tx.end()
	return nil
}

// end gives back the locks. The store is locked.
func (tx *Tx) end() {
	tx.done = true
	for _, l := range tx.locks {
		delete(tx.store.locks, l)
	}
	close(tx.ended)
}

// Put writes a row of the caller's own. It waits for the end of another open transaction that has read or written the
// row, and holds it until its own end. A nil value removes the row. Values are kept as they are: don't change what a
// pointer in them points to.
func (tx *Tx) Put(ctx context.Context, key string, value any) error {
	return tx.do(ctx, []lock{{kind: lockRow, name: key}}, func() { tx.rows[key] = value })
}

// Get reads a row, nil if there is none, and holds it as Put does: what is written next rests on what was read.
func (tx *Tx) Get(ctx context.Context, key string) (value any, err error) {
	err = tx.do(ctx, []lock{{kind: lockRow, name: key}}, func() {
		var own bool
		if value, own = tx.rows[key]; !own {
			value = tx.store.rows[key]
		}
	})
	return value, err
}

// do takes the locks, one after the other, and runs work with the store locked. An error fails the transaction.
func (tx *Tx) do(ctx context.Context, locks []lock, work func()) error {
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	err := tx.usable(ctx)
	for _, l := range locks {
		if err == nil {
			err = tx.lock(ctx, l)
		}
	}
	if err != nil {
		if tx.failed == nil && !tx.done {
			tx.failed = err
		}
		return err
	}
	work()
	return nil
}

func (tx *Tx) usable(ctx context.Context) error {
	switch {
	case tx.done:
		return ErrTxDone
	case tx.failed != nil:
		return fmt.Errorf("memstore: the transaction must be rolled back, since an operation failed: %w", tx.failed)
	}
	return ctx.Err()
}

// lock takes a lock, and waits for the transaction that holds it with the store unlocked.
func (tx *Tx) lock(ctx context.Context, l lock) error {
	s := tx.store
	for {
		holder := s.locks[l]
		switch {
		case holder == tx:
			return nil
		case holder == nil:
			s.locks[l] = tx
			tx.locks = append(tx.locks, l)
			return nil
		}
		for other := holder; other != nil; other = other.waitsFor {
			if other == tx {
				return ErrDeadlock
			}
		}
		tx.waitsFor = holder
		s.mu.Unlock()
		select {
		case <-holder.ended:
		case <-ctx.Done():
		}
		s.mu.Lock()
		tx.waitsFor = nil
		if err := tx.usable(ctx); err != nil {
			return err
		}
	}
}

// Row returns a committed row of the test's own, nil if there is none.
func (s *Store) Row(key string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[key]
}

// Rows returns the keys of the committed rows, sorted.
func (s *Store) Rows() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.rows))
	for key := range s.rows {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
