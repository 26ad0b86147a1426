package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/surepost/surepost/relay"
)

// leases is what relay.Store's Acquire, Renew and Release ask for.
func leases[TX any]() []promise[TX] {
	return []promise[TX]{
		{"a lease is held against others", (*suite[TX]).leaseHeld},
		{"a lease runs out, and no sooner", (*suite[TX]).leaseRunsOut},
		{"an owner takes its own lease again", (*suite[TX]).ownLease},
		{"a renewed lease stays", (*suite[TX]).renewed},
		{"a lost lease can't be renewed", (*suite[TX]).lostRenewal},
		{"a released lease is free at once", (*suite[TX]).released},
		{"releasing a lost lease does nothing", (*suite[TX]).lostRelease},
		{"a lease that nobody took is still good", (*suite[TX]).expiredAndGood},
		{"of many who ask one gets the lease", (*suite[TX]).manyAsk},
		{"lanes are leased apart", (*suite[TX]).leasedApart},
		{"renewals don't wait for the log", (*suite[TX]).renewalsGoOn},
	}
}

func (s *suite[TX]) wantHeld(l relay.Lane, asks, by string, most time.Duration) {
	s.Helper()
	_, err := s.Another(s.T).Acquire(s.ctx, l, asks, long)
	var held *relay.LeaseHeldError
	switch {
	case !errors.As(err, &held):
		s.Fatalf("%s asked for a lane that %s holds, and got %v; want a *relay.LeaseHeldError", asks, by, err)
	case held.Owner != by || held.Lane != l:
		s.Fatalf("%s was told that %s holds lane %s, want %s and %s", asks, held.Owner, held.Lane, by, l)
	case held.Expires <= 0 || held.Expires > most:
		s.Fatalf("%s was told that the lease expires in %v, want more than 0 and at most %v", asks, held.Expires, most)
	}
}

// acquireWhenFree asks for the lane until it gets it.
func (s *suite[TX]) acquireWhenFree(store relay.Store, owner string, ttl time.Duration) relay.Lease {
	s.Helper()
	for {
		lease, err := store.Acquire(s.ctx, lane, owner, ttl)
		var held *relay.LeaseHeldError
		switch {
		case err == nil:
			return lease
		case !errors.As(err, &held):
			s.Fatalf("acquire lane %s as %s: %v", lane, owner, err)
		}
		select {
		case <-time.After(min(max(held.Expires, time.Millisecond), 20*time.Millisecond)):
		case <-s.ctx.Done():
			s.Fatalf("%s doesn't get the lane: %v", owner, err)
		}
	}
}

func (s *suite[TX]) leaseHeld() {
	lease := s.acquire(s.Store, lane, "a")
	if lease.Lane != lane || lease.Owner != "a" || lease.Epoch < 1 {
		s.Errorf("the lease is %+v, want lane and owner as asked for and an epoch of at least 1", lease)
	}
	s.wantHeld(lane, "b", "a", long)
	s.wantHeld(lane, "A", "a", long) // owners are compared byte by byte
	s.wantHeld(lane, "a ", "a", long)
	s.must("renew", s.Store.Renew(s.ctx, lease, time.Hour))
	s.wantHeld(lane, "b", "a", time.Hour)
}

func (s *suite[TX]) leaseRunsOut() {
	const ttl = 300 * time.Millisecond
	for n := range 3 {
		asked := time.Now()
		old := s.acquireWhenFree(s.Store, fmt.Sprint("owner ", n), ttl)
		next := s.acquireWhenFree(s.Another(s.T), fmt.Sprint("next ", n), ttl)
		// Two clocks are compared here, so a little is given; a lease is meant for seconds.
		if took := time.Since(asked); took < ttl-10*time.Millisecond {
			s.Errorf("a lease of %v ran out after %v", ttl, took)
		}
		if next.Epoch <= old.Epoch {
			s.Errorf("epoch %d was given out after epoch %d", next.Epoch, old.Epoch)
		}
	}
}

func (s *suite[TX]) ownLease() {
	last := s.acquire(s.Store, lane, "a")
	for range 4 {
		lease := s.acquire(s.Another(s.T), lane, "a")
		if lease.Epoch <= last.Epoch {
			s.Errorf("its owner got the lease again under epoch %d, after %d", lease.Epoch, last.Epoch)
		}
		wantLost(s, "a renewal", s.Store.Renew(s.ctx, last, long))
		s.must("renew", s.Store.Renew(s.ctx, lease, long))
		last = lease
	}
}

func (s *suite[TX]) renewed() {
	const ttl = 400 * time.Millisecond
	asked := time.Now()
	lease, err := s.Store.Acquire(s.ctx, lane, "a", ttl)
	s.must("acquire", err)
	s.must("renew", s.Store.Renew(s.ctx, lease, long))
	for time.Since(asked) < ttl+grace { // beyond its first time
		s.wantHeld(lane, "b", "a", long)
		time.Sleep(20 * time.Millisecond)
	}
	// From now on, not added to what was left.
	s.must("renew", s.Store.Renew(s.ctx, lease, time.Minute))
	s.wantHeld(lane, "b", "a", time.Minute)
}

func (s *suite[TX]) lostRenewal() {
	s.write(numbered("e", 3)...)
	_, _, old, successor := s.overtaken()
	wantLost(s, "a renewal", s.Store.Renew(s.ctx, old, long))
	s.wantHeld(lane, "b", "new", long)
	s.must("renew the successor's", s.Store.Renew(s.ctx, successor, long))
	for name, forged := range map[string]relay.Lease{
		"of an epoch to come": {Lane: lane, Owner: successor.Owner, Epoch: successor.Epoch + 1},
		"of another lane":     {Lane: relay.Lane{Destination: "nowhere", Of: 1}, Owner: "new", Epoch: successor.Epoch},
	} {
		if err := s.Store.Renew(s.ctx, forged, long); err == nil {
			s.Errorf("a lease %s, which nobody was given, was renewed", name)
		}
	}
}

func (s *suite[TX]) released() {
	last := int64(0)
	for n := range 4 {
		owner := fmt.Sprint("owner ", n)
		lease := s.acquire(s.Store, lane, owner)
		if lease.Epoch <= last {
			s.Errorf("epoch %d was given out after epoch %d", lease.Epoch, last)
		}
		last = lease.Epoch
		s.wantHeld(lane, "b", owner, long)
		s.must("release", s.Store.Release(s.ctx, lease))
	}
	s.acquire(s.Another(s.T), lane, "b")
}

func (s *suite[TX]) lostRelease() {
	s.write(numbered("e", 3)...)
	_, _, old, successor := s.overtaken()
	s.must("release a lost lease", s.Store.Release(s.ctx, old))
	s.wantHeld(lane, "b", "new", long)
	s.must("renew the successor's", s.Store.Renew(s.ctx, successor, long))
	again := s.acquire(s.Store, lane, "new")
	s.must("release the owner's older lease", s.Store.Release(s.ctx, successor))
	s.wantHeld(lane, "b", "new", long)
	for range 2 {
		s.must("release", s.Store.Release(s.ctx, again))
	}
	s.must("release a lease that was never given out",
		s.Store.Release(s.ctx, relay.Lease{Lane: relay.Lane{Destination: "nowhere", Of: 1}, Owner: "x", Epoch: 7}))
	s.acquire(s.Store, lane, "b")
}

// A relay that was held up for longer than its lease goes on where nobody has taken its place: only a newer epoch ends
// a lease.
func (s *suite[TX]) expiredAndGood() {
	events := numbered("e", 6)
	s.write(events...)
	lease, err := s.Store.Acquire(s.ctx, lane, "a", time.Millisecond)
	s.must("acquire", err)
	l := s.openLog(s.Store, lease)
	page := s.read(l, 3)
	time.Sleep(50 * time.Millisecond) // it has run out
	s.checkpoint(l, page.After)
	s.must("renew", s.Store.Renew(s.ctx, lease, long))
	s.wantHeld(lane, "b", "a", long)
	s.wantIDs("opened again", s.readAll(s.reopen(l, "a"), 10), idsOf(events[3:])...)
}

func (s *suite[TX]) manyAsk() {
	stores := []Store[TX]{s.Store, s.Another(s.T), s.Another(s.T)}
	for round := range 3 {
		var got atomic.Int32
		var winner atomic.Value
		s.all("one who asks", 8, func(n int) error {
			owner := fmt.Sprint("owner ", n)
			lease, err := stores[n%3].Acquire(s.ctx, lane, owner, long)
			var held *relay.LeaseHeldError
			switch {
			case err == nil:
				got.Add(1)
				winner.Store(lease)
			case !errors.As(err, &held):
				return err
			}
			return nil
		})
		if got.Load() != 1 {
			s.Fatalf("round %d: %d of 8 owners got the lease, want one", round, got.Load())
		}
		s.must("release", s.Store.Release(s.ctx, winner.Load().(relay.Lease)))
	}
}

func (s *suite[TX]) leasedApart() {
	held := map[relay.Lane]string{lane: "a"}
	s.acquire(s.Store, lane, "a")
	try := func(l relay.Lane, owner string, only bool) {
		if _, err := s.Store.Acquire(s.ctx, l, owner, long); err == nil {
			held[l] = owner
		} else if !only || !errors.Is(err, relay.ErrHalt) { // refused for good, as declared
			s.Errorf("lane %s is free, and %s got %v", l, owner, err)
		}
	}
	try(relay.Lane{Destination: "elsewhere", Of: 1}, "b", s.OneDestination)
	try(relay.Lane{Destination: "Default", Of: 1}, "c", s.OneDestination)
	for i, owner := range []string{"d", "e"} {
		try(relay.Lane{Destination: "in halves", Index: i, Of: 2}, owner, s.OneLane || s.OneDestination)
	}
	for l, owner := range held {
		s.wantHeld(l, "another", owner, long)
	}
}

func (s *suite[TX]) renewalsGoOn() {
	s.write(numbered("e", 2000)...)
	lease := s.acquire(s.Store, lane, "a")
	l := s.openLog(s.Store, lease)
	reading := s.start("the reader", func() error {
		for {
			page, err := l.Read(s.ctx, 40)
			if err == nil {
				err = l.Checkpoint(s.ctx, page.After, nil)
			}
			if err != nil || !page.Full {
				return err
			}
		}
	})
	for range 20 {
		s.must("renew while the log is read", s.Store.Renew(s.ctx, lease, long))
	}
	s.must("the reader", s.ends(reading))
	s.wantHeld(lane, "b", "a", long)
}
