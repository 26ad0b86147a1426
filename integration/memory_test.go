package integration

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/surepost/surepost/relay"
)

// memoryStore is a relay.Store in memory: a log, a lease, a checkpoint, and what was parked. Nothing of it ever fails:
// the faults are the broker's here (relay/fake_test.go has a store that fails too).
type memoryStore struct {
	mu       sync.Mutex
	entries  []relay.Entry
	epoch    int64
	owner    string
	expires  time.Time
	position int
	parked   map[int64]relay.Parked
}

func newMemoryStore() *memoryStore { return &memoryStore{parked: map[int64]relay.Parked{}} }

// append commits events; seq is their place.
func (s *memoryStore) append(entries ...relay.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		e.Seq = int64(len(s.entries) + 1)
		s.entries = append(s.entries, e)
	}
}

// depose takes the lane from its owner, who isn't told, as if its lease had run out while it was stopped.
func (s *memoryStore) depose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	s.owner = ""
}

// settled reports whether the checkpoint is behind everything.
func (s *memoryStore) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position == len(s.entries)
}

func (s *memoryStore) parkedEvents() []relay.Parked {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []relay.Parked
	for _, p := range s.parked {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b relay.Parked) int { return int(a.Seq - b.Seq) })
	return all
}

func (s *memoryStore) Check(context.Context) error { return nil }

func (s *memoryStore) Acquire(_ context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.expires); s.owner != "" && s.owner != owner && left > 0 {
		return relay.Lease{}, &relay.LeaseHeldError{Lane: lane, Owner: s.owner, Expires: left}
	}
	s.epoch++
	s.owner, s.expires = owner, time.Now().Add(ttl)
	return relay.Lease{Lane: lane, Owner: owner, Epoch: s.epoch}, nil
}

func (s *memoryStore) Renew(_ context.Context, lease relay.Lease, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lease.Epoch != s.epoch {
		return relay.ErrLeaseLost
	}
	s.expires = time.Now().Add(ttl)
	return nil
}

func (s *memoryStore) Release(_ context.Context, lease relay.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lease.Epoch == s.epoch {
		s.owner = ""
	}
	return nil
}

func (s *memoryStore) Open(_ context.Context, lease relay.Lease) (relay.Log, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &memoryLog{s: s, lease: lease, at: s.position}, nil
}

type memoryLog struct {
	s     *memoryStore
	lease relay.Lease
	at    int
}

func (l *memoryLog) Read(_ context.Context, limit int) (relay.Page, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	end := min(l.at+limit, len(l.s.entries))
	page := relay.Page{Entries: slices.Clone(l.s.entries[l.at:end]), After: end, Full: end == l.at+limit}
	l.at = end
	return page, nil
}

func (l *memoryLog) Checkpoint(_ context.Context, at relay.Position, parked []relay.Parked) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.lease.Epoch != l.s.epoch {
		return relay.ErrLeaseLost
	}
	l.s.position = at.(int)
	for _, p := range parked {
		l.s.parked[p.Seq] = p
	}
	return nil
}

func (l *memoryLog) ParkedKeys(context.Context) (keys []string, err error) {
	for _, p := range l.s.parkedEvents() {
		if p.Event.Key != "" && !slices.Contains(keys, p.Event.Key) {
			keys = append(keys, p.Event.Key)
		}
	}
	return keys, nil
}

// Released returns nothing: no operator asks for a retry here.
func (l *memoryLog) Released(context.Context, int) ([]relay.Entry, error) { return nil, nil }

func (l *memoryLog) Unpark(context.Context, []relay.Entry, []relay.Parked, []string) ([]string, error) {
	return nil, nil
}

func (l *memoryLog) Close(context.Context) error { return nil }
