package relaytest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/surepost/surepost/relay"
)

var errCrashed = errors.New("relaytest: the relay's process has crashed")

// store is the test's store as one relay process sees it. It knows what the relay has read and stored, so that a step can
// wait for that; and from a crash on nothing of this process gets through to the store any more.
type store struct {
	relay.Store
	keysGoOn bool   // relay.ParkKeyGoesOn: nothing waits behind a parked event
	owner    string // by which the lease is asked for, whichever process it is: after a crash it is had back at once

	mu      sync.Mutex
	frozen  bool // nothing is stored any more
	dead    bool // no call gets through
	log     *log // the newest
	changed chan struct{}
}

func newStore(inner relay.Store) *store { return &store{Store: inner, changed: make(chan struct{})} }

// freeze lets nothing more be stored.
func (s *store) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
}

// kill lets no call through any more.
func (s *store) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen, s.dead = true, true
}

// announce wakes awaitStored, under mu.
func (s *store) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *store) alive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errCrashed
	}
	return nil
}

func (s *store) writable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen {
		return errCrashed
	}
	return nil
}

func (s *store) Check(ctx context.Context) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.Store.Check(ctx)
}

func (s *store) Acquire(ctx context.Context, lane relay.Lane, _ string, ttl time.Duration) (relay.Lease, error) {
	if err := s.alive(); err != nil {
		return relay.Lease{}, err
	}
	return s.Store.Acquire(ctx, lane, s.owner, ttl)
}

func (s *store) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.Store.Renew(ctx, lease, ttl)
}

func (s *store) Release(ctx context.Context, lease relay.Lease) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.Store.Release(ctx, lease)
}

func (s *store) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	if err := s.alive(); err != nil {
		return nil, err
	}
	inner, err := s.Store.Open(ctx, lease)
	if err != nil {
		return nil, err
	}
	l := &log{Log: inner, store: s, parked: map[string]bool{}, over: map[int64]bool{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = l
	s.announce()
	return l, nil
}

// isOver notes that nothing more will be sent of the entry in the newest log: it was confirmed, or it will be parked, and
// what is behind it of its key too.
func (s *store) isOver(e relay.Entry, parked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.over[e.Seq] = true
	if parked && e.Event.Key != "" && !s.keysGoOn {
		s.log.parked[e.Event.Key] = true
	}
}

// awaitStored waits until the page of an entry that is over is stored, if nothing before it is open: then the relay is
// about to do so. It returns early if stop ends.
func (s *store) awaitStored(seq int64, stop <-chan struct{}) {
	for {
		s.mu.Lock()
		pending, changed := s.log.storable(seq), s.changed
		s.mu.Unlock()
		if !pending {
			return
		}
		select {
		case <-changed:
		case <-stop:
			return
		}
	}
}

// log is one opening of the store's log.
type log struct {
	relay.Log
	store *store

	// Under store.mu:
	pages  []*page // not stored yet, in the order of reading
	read   int     // pages so far
	over   map[int64]bool
	parked map[string]bool // keys of which an event is parked
}

// page is what the relay settles as a whole.
type page struct {
	number   int // from 1
	released bool
	entries  []relay.Entry
}

// position is a store's position with the number of the page before it.
type position struct {
	inner relay.Position
	page  int
}

// storable reports whether the entry's page isn't stored yet, and all that was read up to and with it is over.
func (l *log) storable(seq int64) bool {
	for _, p := range l.pages {
		for _, e := range p.entries {
			behind := !p.released && l.parked[e.Event.Key]
			if !l.over[e.Seq] && !behind {
				return false
			}
		}
		if slices.ContainsFunc(p.entries, func(e relay.Entry) bool { return e.Seq == seq }) {
			return true
		}
	}
	return false
}

func (l *log) add(entries []relay.Entry, released bool) {
	if len(entries) == 0 {
		return
	}
	l.read++
	l.pages = append(l.pages, &page{l.read, released, slices.Clone(entries)})
}

// stored takes the pages off of which that is true.
func (l *log) stored(is func(*page) bool) {
	l.pages = slices.DeleteFunc(l.pages, func(p *page) bool {
		if !is(p) {
			return false
		}
		for _, e := range p.entries {
			delete(l.over, e.Seq)
		}
		return true
	})
	l.store.announce()
}

func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	if err := l.store.alive(); err != nil {
		return relay.Page{}, err
	}
	p, err := l.Log.Read(ctx, limit)
	if err != nil {
		return p, err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.add(p.Entries, false)
	p.After = position{p.After, l.read}
	return p, nil
}

func (l *log) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	if err := l.store.alive(); err != nil {
		return nil, err
	}
	entries, err := l.Log.Released(ctx, limit)
	if err != nil {
		return nil, err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.add(entries, true)
	return entries, nil
}

func (l *log) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	if err := l.store.writable(); err != nil {
		return err
	}
	reached := at.(position) // as Read gave it out
	if err := l.Log.Checkpoint(ctx, reached.inner, parked); err != nil {
		return err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for _, p := range parked {
		if p.Event.Key != "" && !l.store.keysGoOn {
			l.parked[p.Event.Key] = true
		}
	}
	l.stored(func(p *page) bool { return !p.released && p.number <= reached.page })
	return nil
}

func (l *log) Unpark(ctx context.Context, published []relay.Entry, again []relay.Parked, keys []string) ([]string, error) {
	if err := l.store.writable(); err != nil {
		return nil, err
	}
	free, err := l.Log.Unpark(ctx, published, again, keys)
	if err != nil {
		return nil, err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for _, key := range free {
		delete(l.parked, key)
	}
	settled := map[int64]bool{}
	for _, e := range published {
		settled[e.Seq] = true
	}
	for _, p := range again {
		settled[p.Seq] = true
	}
	l.stored(func(p *page) bool { return p.released && settled[p.entries[0].Seq] })
	return free, nil
}

func (l *log) ParkedKeys(ctx context.Context) ([]string, error) {
	if err := l.store.alive(); err != nil {
		return nil, err
	}
	keys, err := l.Log.ParkedKeys(ctx)
	if err != nil {
		return nil, err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for _, key := range keys {
		l.parked[key] = !l.store.keysGoOn
	}
	return keys, nil
}
