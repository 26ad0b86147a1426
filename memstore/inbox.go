package memstore

import (
	"context"
	"slices"
	"time"
)

// record is that a consumer handles an event.
type record struct{ consumer, eventID string }

// Transact implements inbox.Store.
func (s *Store) Transact(
	ctx context.Context, consumer string, eventIDs []string, work func(tx *Tx, first []bool) error,
) error {
	return s.Do(ctx, func(tx *Tx) error {
		first, err := s.record(ctx, tx, consumer, eventIDs)
		if err != nil {
			return err
		}
		return work(tx, first)
	})
}

// Record notes in tx that consumer handles the event, and returns false if that was noted before: an inbox for
// transactions that the caller opens. If another open transaction is noting the same, it waits for that one's end.
func (s *Store) Record(ctx context.Context, tx *Tx, consumer, eventID string) (first bool, err error) {
	recorded, err := s.record(ctx, tx, consumer, []string{eventID})
	return err == nil && recorded[0], err
}

func (s *Store) record(ctx context.Context, tx *Tx, consumer string, eventIDs []string) (first []bool, err error) {
	locks := make([]lock, len(eventIDs))
	for i, id := range slices.Sorted(slices.Values(eventIDs)) { // in one order, so that nobody waits in a circle
		locks[i] = lock{kind: lockRecord, name: id, of: consumer}
	}
	first = make([]bool, len(eventIDs))
	err = tx.do(ctx, locks, func() {
		for i, id := range eventIDs {
			r := record{consumer, id}
			_, handled := s.records[r]
			if first[i] = !handled && !tx.records[r]; first[i] {
				tx.records[r] = true
			}
		}
	})
	return first, err
}

// attempts are those at an event that were started and finished.
type attempts struct {
	started, finished int
	last              time.Time // when one was started
}

// StartAttempt implements inbox.AttemptStore.
func (s *Store) StartAttempt(ctx context.Context, consumer, eventID string, limit int) (unfinished int, err error) {
	err = s.do(ctx, func() error {
		a := s.attempts[record{consumer, eventID}]
		if unfinished = a.started - a.finished; unfinished < limit {
			a.started++
			a.last = time.Now()
			s.attempts[record{consumer, eventID}] = a
		}
		return nil
	})
	return unfinished, err
}

// FinishAttempt implements inbox.AttemptStore.
func (s *Store) FinishAttempt(ctx context.Context, consumer, eventID, _ string) error {
	return s.do(ctx, func() error {
		if a, ok := s.attempts[record{consumer, eventID}]; ok && a.finished < a.started {
			a.finished++
			s.attempts[record{consumer, eventID}] = a
		}
		return nil
	})
}

// ForgetAttempts implements inbox.AttemptStore.
func (s *Store) ForgetAttempts(ctx context.Context, consumer, eventID string) error {
	return s.do(ctx, func() error {
		delete(s.attempts, record{consumer, eventID})
		return nil
	})
}

// do runs work as a transaction of its own, with the store locked.
func (s *Store) do(ctx context.Context, work func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return work()
}
