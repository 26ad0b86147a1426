package memstore

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

// Store is the outbox, the inbox and the relay's log in memory. It is safe for concurrent use.
type Store struct {
	mu    sync.Mutex
	locks map[lock]*Tx
	drawn int64         // the last number given to an event
	log   []relay.Entry // in the order of commits
	rows  map[string]any

	committed []time.Time // when each entry of the log was
	removed   int         // entries that aged out of the log

	records  map[record]time.Time // of handled events: when they were
	attempts map[record]attempts

	leases map[relay.Lane]*lease // by destination and index; Of is 0
	places map[relay.Lane]place  // checkpoints
	parked map[parkedAt]*relay.ParkedEvent

	discarded map[parkedAt]bool // by an operator: not published, though new lanes read it again

	written       int64        // the last number given to a delayed event
	schedule      []*scheduled // in the order of becoming due
	actions       []relay.ParkedAction
	cancellations []relay.Cancellation

	destinations map[string]*destination
}

var (
	_ outbox.Store[*Tx]  = (*Store)(nil)
	_ inbox.Store[*Tx]   = (*Store)(nil)
	_ inbox.AttemptStore = (*Store)(nil)
	_ relay.Store        = (*Store)(nil)
)

// New returns an empty store.
func New() *Store {
	return &Store{
		locks: map[lock]*Tx{}, rows: map[string]any{},
		records: map[record]time.Time{}, attempts: map[record]attempts{},
		leases: map[relay.Lane]*lease{}, places: map[relay.Lane]place{}, parked: map[parkedAt]*relay.ParkedEvent{},
		discarded: map[parkedAt]bool{}, destinations: map[string]*destination{},
	}
}

// Append implements outbox.Store. An event's number is drawn now, and the event becomes visible with the commit: as in
// a database, late ones have lower numbers than some that were read.
func (s *Store) Append(ctx context.Context, tx *Tx, events []surepost.Event) error {
	copies := make([]surepost.Event, len(events))
	for i, e := range events {
		var err error
		if copies[i], err = clone(e); err != nil {
			return err
		}
	}
	return tx.do(ctx, nil, func() {
		for _, e := range copies {
			s.drawn++
			tx.entries = append(tx.entries, relay.Entry{Seq: s.drawn, Event: e})
		}
	})
}

// LockKeys implements outbox.Store.
func (s *Store) LockKeys(ctx context.Context, tx *Tx, keys []string) error {
	locks := make([]lock, len(keys))
	for i, key := range keys {
		locks[i] = lock{kind: lockEventKey, name: key}
	}
	return tx.do(ctx, locks, func() {})
}

// Events returns the committed events, in the order of their commits: what a test looks at. Those that Retain has removed are
// missing.
func (s *Store) Events() []surepost.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make([]surepost.Event, len(s.log))
	for i, entry := range s.log {
		events[i] = copyEntry(entry).Event
	}
	return events
}

// commit adds entries to the log. The store is locked.
func (s *Store) commit(entries ...relay.Entry) {
	now := time.Now()
	for _, entry := range entries {
		s.log, s.committed = append(s.log, entry), append(s.committed, now)
	}
}

// length is how many entries the log has ever had. The store is locked.
func (s *Store) length() int { return s.removed + len(s.log) }

// clone copies an event, so that neither its writer nor its readers can change the log.
func clone(e surepost.Event) (surepost.Event, error) {
	raw, err := e.RawData()
	if err != nil {
		return surepost.Event{}, err
	}
	e.Data = json.RawMessage(slices.Clone(raw))
	e.Headers = maps.Clone(e.Headers)
	e.Time = e.Time.UTC().Truncate(time.Microsecond) // also takes away the monotonic clock
	if e.CorrelationID == "" {
		e.CorrelationID = e.ID
	}
	return e, nil
}

func copyEntry(entry relay.Entry) relay.Entry {
	entry.Event, _ = clone(entry.Event) // its data was marshalled when it was written
	return entry
}

func bySeq(a, b relay.Entry) int { return cmp.Compare(a.Seq, b.Seq) }
