package relay

import (
	"context"
	"slices"
	"sync"
	"time"
)

// fakeLanes is a store in memory whose destination has several lanes.
type fakeLanes struct {
	*fakeStore     // its log, faults and mutex
	of         int // 0: nobody has joined yet
	lanes      []*fakeLane
	relays     map[string]fakeMember
	ahead      time.Duration // of the store's clock
	joins      int
}

type fakeLane struct {
	owner    string
	epoch    int64
	expires  time.Time
	position int
	of       int // lanes when the position was stored
}

type fakeMember struct {
	instance string
	expires  time.Time
}

func newFakeLanes(f *faults) *fakeLanes {
	return &fakeLanes{fakeStore: newFakeStore(f), relays: map[string]fakeMember{}}
}

func (s *fakeLanes) now() time.Time { return time.Now().Add(s.ahead) }

// do runs an effect under faults and the store's lock.
func (s *fakeLanes) do(ctx context.Context, effect func() error) error {
	return s.faults.do(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return effect()
	})
}

// grow makes room for lanes. Their epochs go on.
func (s *fakeLanes) grow(of int) {
	for len(s.lanes) < of {
		s.lanes = append(s.lanes, &fakeLane{})
	}
	s.of = of
}

func (s *fakeLanes) Join(ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration) (m Membership, err error) {
	err = s.do(ctx, func() error {
		s.joins++
		now := s.now()
		if other, ok := s.relays[owner]; ok && other.instance != instance && other.expires.After(now) {
			return &OwnerTakenError{destination, owner, other.instance, other.expires, other.expires.Sub(now)}
		}
		s.relays[owner] = fakeMember{instance, now.Add(ttl)}
		if s.of == 0 {
			s.grow(lanes)
		}
		m = Membership{Lanes: s.of}
		for owner, r := range s.relays {
			if r.expires.After(now) {
				m.Relays = append(m.Relays, owner)
			}
		}
		slices.Sort(m.Relays)
		for i, l := range s.lanes[:s.of] {
			if l.epoch > 0 {
				m.Leases = append(m.Leases, LeaseState{Lane{destination, i, s.of}, l.owner, l.epoch, l.expires, !l.expires.After(now)})
			}
		}
		return nil
	})
	return m, err
}

func (s *fakeLanes) Leave(ctx context.Context, _, owner, instance string) error {
	return s.do(ctx, func() error {
		if s.relays[owner].instance == instance {
			delete(s.relays, owner)
		}
		return nil
	})
}

func (s *fakeLanes) SetLanes(ctx context.Context, _ string, lanes int) error {
	return s.do(ctx, func() error {
		if s.of == 0 {
			return nil // nobody has been here yet
		}
		old, from := s.of, len(s.entries)
		for _, l := range s.lanes[:old] {
			if l.of != old {
				l.position = 0
			}
			from = min(from, l.position)
		}
		s.grow(lanes)
		for i, l := range s.lanes {
			l.owner, l.expires = "", s.now()
			l.epoch++
			if i < lanes {
				l.position, l.of = from, lanes
			}
		}
		return nil
	})
}

func (s *fakeLanes) Acquire(ctx context.Context, lane Lane, owner string, ttl time.Duration) (lease Lease, err error) {
	err = s.do(ctx, func() error {
		if lane.Of != s.of {
			return &LanesChangedError{lane.Destination, s.of}
		}
		l := s.lanes[lane.Index]
		if left := l.expires.Sub(s.now()); l.owner != "" && l.owner != owner && left > 0 {
			return &LeaseHeldError{Lane: lane, Owner: l.owner, Expires: left}
		}
		l.epoch++
		l.owner, l.expires = owner, s.now().Add(ttl)
		lease = Lease{Lane: lane, Owner: owner, Epoch: l.epoch}
		return nil
	})
	return lease, err
}

// held returns the lane if the lease is good.
func (s *fakeLanes) held(lease Lease) *fakeLane {
	l := s.lanes[lease.Lane.Index]
	if l.epoch != lease.Epoch || l.owner != lease.Owner {
		return nil
	}
	return l
}

func (s *fakeLanes) Renew(ctx context.Context, lease Lease, ttl time.Duration) error {
	return s.do(ctx, func() error {
		l := s.held(lease)
		if l == nil {
			return ErrLeaseLost
		}
		l.expires = s.now().Add(ttl)
		return nil
	})
}

func (s *fakeLanes) Release(ctx context.Context, lease Lease) error {
	return s.do(ctx, func() error {
		if l := s.held(lease); l != nil {
			l.owner, l.expires = "", s.now()
		}
		return nil
	})
}

func (s *fakeLanes) Open(ctx context.Context, lease Lease) (opened Log, err error) {
	err = s.do(ctx, func() error {
		at := s.lanes[lease.Lane.Index]
		log := &fakeLaneLog{s: s, lease: lease}
		if at.of == lease.Lane.Of {
			log.at = at.position
		}
		opened = log
		return nil
	})
	return opened, err
}

// owners returns who has each lane at the moment, "" where the lease has run out.
func (s *fakeLanes) owners() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	owners := make([]string, s.of)
	for i, l := range s.lanes[:s.of] {
		if l.expires.After(s.now()) {
			owners[i] = l.owner
		}
	}
	return owners
}

// epochs returns the lanes' epochs.
func (s *fakeLanes) epochs() (epochs []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes[:s.of] {
		epochs = append(epochs, l.epoch)
	}
	return epochs
}

type fakeLaneLog struct {
	s     *fakeLanes
	lease Lease
	at    int
}

func (l *fakeLaneLog) Read(ctx context.Context, limit int) (p Page, err error) {
	err = l.s.do(ctx, func() error {
		lane := l.lease.Lane
		for ; l.at < len(l.s.entries) && len(p.Entries) < limit; l.at++ {
			if e := l.s.entries[l.at]; e.Event.Slot()%lane.Of == lane.Index {
				p.Entries = append(p.Entries, e)
			}
		}
		p.After, p.Full = l.at, l.at < len(l.s.entries)
		return nil
	})
	return p, err
}

func (l *fakeLaneLog) Checkpoint(ctx context.Context, at Position, _ []Parked) error {
	return l.s.do(ctx, func() error {
		held := l.s.held(l.lease)
		if held == nil {
			l.s.stale++
			return ErrLeaseLost
		}
		held.position, held.of = at.(int), l.lease.Lane.Of
		return nil
	})
}

func (l *fakeLaneLog) ParkedKeys(context.Context) ([]string, error)   { return nil, nil }
func (l *fakeLaneLog) Released(context.Context, int) ([]Entry, error) { return nil, nil }
func (l *fakeLaneLog) Close(context.Context) error                    { return nil }
func (l *fakeLaneLog) Unpark(context.Context, []Entry, []Parked, []string) ([]string, error) {
	return nil, nil
}

// process is a relay's way to the store and the broker: it can be stopped as by SIGSTOP, and die.
type process struct {
	*fakeLanes
	broker *fakeBroker

	mu       sync.Mutex
	dead     bool
	goes     chan struct{} // closed while the process runs
	sessions []*fakeSession
}

func newProcess(store *fakeLanes, broker *fakeBroker) *process {
	p := &process{fakeLanes: store, broker: broker, goes: make(chan struct{})}
	close(p.goes)
	return p
}

// pause stops the process until goOn.
func (p *process) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.goes = make(chan struct{})
}

func (p *process) goOn() { close(p.goes) }

// kill ends it: nothing that it does has an effect any more.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	for _, s := range p.sessions {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Close(ended)
	}
}

// step is at the beginning of everything that the process does to the world.
func (p *process) step() error {
	p.mu.Lock()
	goes := p.goes
	p.mu.Unlock()
	<-goes
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return errInjected
	}
	return nil
}

func (p *process) Check(ctx context.Context) error {
	if err := p.step(); err != nil {
		return err
	}
	return p.fakeLanes.Check(ctx)
}

func (p *process) Join(ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration) (Membership, error) {
	if err := p.step(); err != nil {
		return Membership{}, err
	}
	return p.fakeLanes.Join(ctx, destination, owner, instance, lanes, ttl)
}

func (p *process) Leave(ctx context.Context, destination, owner, instance string) error {
	if err := p.step(); err != nil {
		return err
	}
	return p.fakeLanes.Leave(ctx, destination, owner, instance)
}

func (p *process) Acquire(ctx context.Context, lane Lane, owner string, ttl time.Duration) (Lease, error) {
	if err := p.step(); err != nil {
		return Lease{}, err
	}
	return p.fakeLanes.Acquire(ctx, lane, owner, ttl)
}

func (p *process) Renew(ctx context.Context, lease Lease, ttl time.Duration) error {
	if err := p.step(); err != nil {
		return err
	}
	return p.fakeLanes.Renew(ctx, lease, ttl)
}

func (p *process) Release(ctx context.Context, lease Lease) error {
	if err := p.step(); err != nil {
		return err
	}
	return p.fakeLanes.Release(ctx, lease)
}

func (p *process) Open(ctx context.Context, lease Lease) (Log, error) {
	if err := p.step(); err != nil {
		return nil, err
	}
	l, err := p.fakeLanes.Open(ctx, lease)
	if err != nil {
		return nil, err
	}
	return &processLog{l.(*fakeLaneLog), p}, nil
}

type processLog struct {
	*fakeLaneLog
	p *process
}

func (l *processLog) Read(ctx context.Context, limit int) (Page, error) {
	if err := l.p.step(); err != nil {
		return Page{}, err
	}
	return l.fakeLaneLog.Read(ctx, limit)
}

func (l *processLog) Checkpoint(ctx context.Context, at Position, parked []Parked) error {
	if err := l.p.step(); err != nil {
		return err
	}
	return l.fakeLaneLog.Checkpoint(ctx, at, parked)
}

// publisher is the process's way to the broker.
func (p *process) publisher() Publisher { return processPublisher{p} }

type processPublisher struct{ p *process }

func (b processPublisher) Open(ctx context.Context) (Session, error) {
	if err := b.p.step(); err != nil {
		return nil, err
	}
	s, err := b.p.broker.Open(ctx)
	if err != nil {
		return nil, err
	}
	b.p.mu.Lock()
	b.p.sessions = append(b.p.sessions, s.(*fakeSession))
	b.p.mu.Unlock()
	return processSession{s, b.p}, nil
}

type processSession struct {
	Session
	p *process
}

func (s processSession) Send(ctx context.Context, tag uint64, e *Entry) error {
	if err := s.p.step(); err != nil {
		return err
	}
	return s.Session.Send(ctx, tag, e)
}
