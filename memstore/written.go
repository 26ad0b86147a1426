package memstore

import (
	"context"

	"github.com/surepost/surepost"
)

// Written returns the events that tx itself has written, in the order of writing, delayed ones last: what a test asserts before
// the commit (outboxtest.RequireWritten). Its error says that tx has ended, or that an operation of it has failed.
func (s *Store) Written(ctx context.Context, tx *Tx) (events []surepost.Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := tx.usable(ctx); err != nil {
		return nil, err
	}
	for _, entry := range tx.entries {
		events = append(events, copyEntry(entry).Event)
	}
	for _, d := range tx.delayed {
		events = append(events, d.copy().Event)
	}
	return events, nil
}
