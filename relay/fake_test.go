package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var errInjected = errors.New("injected fault")

// faults fails effects at random, before or after they took place: the caller can't tell which.
type faults struct {
	mu   sync.Mutex
	rnd  *rand.Rand
	rate float64
}

func (f *faults) roll() (before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rnd.Float64() >= f.rate {
		return false, false
	}
	before = f.rnd.IntN(2) == 0
	return before, !before
}

func (f *faults) intN(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rnd.IntN(n)
}

func (f *faults) set(rate float64) {
	f.mu.Lock()
	f.rate = rate
	f.mu.Unlock()
}

// do runs an effect under faults.
func (f *faults) do(ctx context.Context, effect func() error) error {
	time.Sleep(time.Duration(f.intN(3)) * time.Millisecond)
	before, after := f.roll()
	if before {
		return errInjected
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := effect(); err != nil {
		return err
	}
	if after {
		return errInjected
	}
	return nil
}

// fakeStore is a store in memory.
type fakeStore struct {
	faults *faults

	mu       sync.Mutex
	entries  []Entry
	epoch    int64
	owner    string
	expires  time.Time
	position int
	parked   map[int64]Parked
	retry    map[int64]bool
	stale    int // writes refused for their epoch

	// replays, if set, makes the log a replay of the entries that it selects, read in windows of a few numbers.
	replays func(e *Entry) bool
}

func newFakeStore(f *faults) *fakeStore {
	return &fakeStore{faults: f, parked: map[int64]Parked{}, retry: map[int64]bool{}}
}

func (s *fakeStore) commit(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		s.entries = append(s.entries, entry(int64(len(s.entries)+1), key))
	}
}

func (s *fakeStore) Check(ctx context.Context) error {
	return s.faults.do(ctx, func() error { return nil })
}

func (s *fakeStore) Acquire(ctx context.Context, lane Lane, owner string, ttl time.Duration) (lease Lease, err error) {
	err = s.faults.do(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if left := time.Until(s.expires); s.owner != "" && s.owner != owner && left > 0 {
			return &LeaseHeldError{Lane: lane, Owner: s.owner, Expires: left}
		}
		s.epoch++
		s.owner, s.expires = owner, time.Now().Add(ttl)
		lease = Lease{Lane: lane, Owner: owner, Epoch: s.epoch}
		return nil
	})
	return lease, err
}

func (s *fakeStore) Renew(ctx context.Context, lease Lease, ttl time.Duration) error {
	return s.faults.do(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if lease.Epoch != s.epoch {
			return ErrLeaseLost
		}
		s.expires = time.Now().Add(ttl)
		return nil
	})
}

func (s *fakeStore) Release(ctx context.Context, lease Lease) error {
	return s.faults.do(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if lease.Epoch == s.epoch {
			s.owner, s.expires = "", time.Now()
		}
		return nil
	})
}

func (s *fakeStore) Open(ctx context.Context, lease Lease) (l Log, err error) {
	err = s.faults.do(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		l = &fakeLog{s: s, lease: lease, at: s.position}
		return nil
	})
	return l, err
}

type fakeLog struct {
	s     *fakeStore
	lease Lease
	at    int
}

func (l *fakeLog) guarded(ctx context.Context, effect func()) error {
	return l.s.faults.do(ctx, func() error {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if l.lease.Epoch != l.s.epoch {
			l.s.stale++
			return ErrLeaseLost
		}
		effect()
		return nil
	})
}

func (l *fakeLog) Read(ctx context.Context, limit int) (p Page, err error) {
	err = l.s.faults.do(ctx, func() error {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if l.s.replays != nil {
			p = l.replayed(limit)
			return nil
		}
		end := min(l.at+limit, len(l.s.entries))
		p = Page{Entries: slices.Clone(l.s.entries[l.at:end]), After: end, Full: end == l.at+limit}
		l.at = end
		return nil
	})
	return p, err
}

// replayed reads as the log of a replay does: a page may be empty although there is more.
func (l *fakeLog) replayed(limit int) (p Page) {
	const window = 7
	for end := min(l.at+window, len(l.s.entries)); l.at < end && len(p.Entries) < limit; l.at++ {
		if e := l.s.entries[l.at]; l.s.replays(&e) {
			p.Entries = append(p.Entries, e)
		}
	}
	p.After, p.Done = l.at, l.at == len(l.s.entries)
	p.Full = !p.Done
	return p
}

func (l *fakeLog) Checkpoint(ctx context.Context, at Position, parked []Parked) error {
	return l.guarded(ctx, func() {
		l.s.position = at.(int)
		for _, p := range parked {
			if _, there := l.s.parked[p.Seq]; !there {
				l.s.parked[p.Seq] = p
			}
		}
	})
}

func (l *fakeLog) ParkedKeys(ctx context.Context) (keys []string, err error) {
	err = l.s.faults.do(ctx, func() error {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		for _, p := range l.s.parked {
			if p.Event.Key != "" {
				keys = append(keys, p.Event.Key)
			}
		}
		return nil
	})
	return keys, err
}

func (l *fakeLog) Released(ctx context.Context, limit int) (entries []Entry, err error) {
	err = l.s.faults.do(ctx, func() error {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		stuck := map[string]bool{}
		for _, seq := range sortedKeys(l.s.parked) {
			p := l.s.parked[seq]
			key := p.Event.Key
			if stuck[key] {
				continue
			}
			if !l.s.retry[seq] && !p.Behind {
				stuck[key] = key != ""
				continue
			}
			entries = append(entries, p.Entry)
			if len(entries) == limit {
				break
			}
		}
		return nil
	})
	return entries, err
}

func (l *fakeLog) Unpark(ctx context.Context, published []Entry, again []Parked, keys []string) (clear []string, err error) {
	err = l.guarded(ctx, func() {
		for _, e := range published {
			delete(l.s.parked, e.Seq)
			delete(l.s.retry, e.Seq)
		}
		for _, p := range again {
			l.s.parked[p.Seq] = p
			delete(l.s.retry, p.Seq)
		}
		for _, key := range keys {
			if !slices.ContainsFunc(sortedKeys(l.s.parked), func(seq int64) bool { return l.s.parked[seq].Event.Key == key }) {
				clear = append(clear, key)
			}
		}
	})
	return clear, err
}

func (l *fakeLog) Close(context.Context) error { return nil }

func sortedKeys[V any](m map[int64]V) []int64 {
	keys := make([]int64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// fakeBroker is a broker in memory: what it took, in the order of taking.
type fakeBroker struct {
	faults *faults
	// fate says what becomes of an entry; nil: it is confirmed.
	fate func(e *Entry) Status

	mu       sync.Mutex
	taken    []Entry
	down     bool
	blocked  bool
	changed  chan struct{}
	sessions int
}

// killer is a fate: the broker ends the session over the entry.
const killer Status = 100

// poison is a fate: so it does, and says that the entry is to blame.
const poison Status = 101

func newFakeBroker(f *faults) *fakeBroker {
	return &fakeBroker{faults: f, changed: make(chan struct{})}
}

func (b *fakeBroker) set(down, blocked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down, b.blocked = down, blocked
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *fakeBroker) decide(fate func(e *Entry) Status) {
	b.mu.Lock()
	b.fate = fate
	b.mu.Unlock()
}

func (b *fakeBroker) Open(ctx context.Context) (s Session, err error) {
	err = b.faults.do(ctx, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.down {
			return errors.New("connection refused")
		}
		b.sessions++
		fs := &fakeSession{b: b, in: make(chan sent, 1<<16), outcomes: make(chan []Outcome), end: make(chan struct{}), closing: make(chan struct{})}
		go fs.serve()
		s = fs
		return nil
	})
	if err != nil && s != nil { // connected, but the caller never hears of it
		close(s.(*fakeSession).end)
		s = nil
	}
	return s, err
}

type sent struct {
	tag   uint64
	entry Entry
}

type fakeSession struct {
	b        *fakeBroker
	in       chan sent
	outcomes chan []Outcome
	end      chan struct{} // by Close, at once
	closing  chan struct{} // by Close, in good order
	once     sync.Once
	err      atomic.Pointer[error]
}

func (s *fakeSession) fail(err error) { s.err.Store(&err) }

func (s *fakeSession) serve() {
	defer close(s.outcomes)
	for {
		var m sent
		select {
		case <-s.end:
			return
		case m = <-s.in:
		default:
			select {
			case <-s.closing:
				return
			case <-s.end:
				return
			case m = <-s.in:
			}
		}
		time.Sleep(time.Duration(s.b.faults.intN(500)) * time.Microsecond)
		before, after := s.b.faults.roll()
		if before {
			s.fail(errInjected)
			return
		}
		status := Confirmed
		s.b.mu.Lock()
		if s.b.fate != nil {
			status = s.b.fate(&m.entry)
		}
		down := s.b.down
		if status == Confirmed && !down {
			s.b.taken = append(s.b.taken, m.entry)
		}
		s.b.mu.Unlock()
		switch {
		case down || after:
			s.fail(errInjected)
			return
		case status == poison:
			s.fail(fmt.Errorf("%w: %w: 406", ErrRefused, ErrUnpublishable))
			return
		case status == killer:
			s.fail(fmt.Errorf("%w: 406", ErrRefused))
			return
		}
		select {
		case s.outcomes <- []Outcome{{Tag: m.tag, Status: status, Reason: "fake"}}:
		case <-s.end:
			return
		}
	}
}

func (s *fakeSession) Send(ctx context.Context, tag uint64, e *Entry) error {
	s.in <- sent{tag, *e}
	return nil
}
func (s *fakeSession) Outcomes() <-chan []Outcome { return s.outcomes }
func (s *fakeSession) Err() error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return nil
}
func (s *fakeSession) Blocked() (bool, string, <-chan struct{}) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.blocked, "memory", s.b.changed
}
func (s *fakeSession) Close(ctx context.Context) error {
	s.once.Do(func() {
		close(s.closing)
		context.AfterFunc(ctx, func() { close(s.end) })
	})
	return nil
}
