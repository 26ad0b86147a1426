package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/surepost/surepost/internal/chance"
)

// supervisor sees to it that the relay leads its share of the destination's lanes. It is one goroutine; each lane has a
// leader with goroutines of its own.
//
// A lane is taken when its lease is free: never given out, released, or the owner's own. One that ran out is taken only
// if it was seen so at two looks, evictAfter apart, and not renewed in between. By one look nobody is evicted: a database
// that was away, or whose clock jumped, shows the leases of all as run out, until their owners have renewed them.
type supervisor struct {
	*Relay
	log     *slog.Logger
	leaders map[int]*leader // by index
	ended   chan *leader
	checked bool    // the store, since the last error
	pause   backoff // after errors of looking
	again   backoff // after leases that were lost
	chance  *chance.Source

	expired  map[int]sighting  // by lane
	avoid    map[int]time.Time // lanes that failed, until when they are left to others
	finished map[int]bool      // lanes whose log has ended
	away     *absence
	absences int   // in a row, without anything published in between
	before   int64 // events that were published when the last one began
	namesake *OwnerTakenError
	signs    int // of its life
}

// sighting is a lease that had run out when it was first seen so.
type sighting struct {
	lease LeaseState
	at    time.Time
}

// absence is a time in which the relay doesn't count itself among the relays: it couldn't publish.
type absence struct {
	least, until time.Time // it lasts until the one, and until the other where somebody else is there
}

func newSupervisor(ctx context.Context, r *Relay) *supervisor {
	from := func(what string) *chance.Source { return chance.From(ctx, r.config.Owner+what) }
	return &supervisor{
		Relay: r, log: r.config.Logger.With("destination", r.config.Destination, "owner", r.config.Owner),
		leaders: map[int]*leader{}, ended: make(chan *leader),
		pause:   backoff{min: r.config.BackoffMin, max: r.config.BackoffMax, chance: from(" pauses")},
		again:   backoff{min: r.config.BackoffMin, max: r.config.BackoffMax, chance: from(" avoids")},
		chance:  from(" takes"),
		expired: map[int]sighting{}, avoid: map[int]time.Time{}, finished: map[int]bool{},
	}
}

// The rhythm, in parts of the lease. A relay that dies has renewed its lease at most one lease ago when it runs out; it is
// seen so lookEvery later at most, and taken evictAfter after that: 1.6 leases. Renewals come every third of a lease, so
// that everybody who is alive has renewed within evictAfter.
func (s *supervisor) lookEvery() time.Duration  { return s.config.LeaseTTL / 5 }
func (s *supervisor) lookSoon() time.Duration   { return s.config.LeaseTTL / 20 } // for lanes that others are about to release
func (s *supervisor) evictAfter() time.Duration { return s.config.LeaseTTL * 2 / 5 }

func (s *supervisor) run(ctx context.Context) error {
	defer s.setStates(Stopped)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	pulse := s.vitals.begin()
	defer s.vitals.end(pulse)
	for {
		select {
		case <-ctx.Done():
			s.leave(ctx)
			return nil
		case l := <-s.ended:
			pulse.beat(time.Now())
			if err := s.end(l); err != nil && ctx.Err() == nil {
				return s.halt(ctx, cancel, err)
			}
			if s.of > 0 && len(s.finished) == s.of {
				s.finish(ctx, cancel)
				return nil
			}
			timer.Reset(0)
		case <-timer.C:
			pulse.beat(time.Now().Add(s.config.LeaseTTL)) // the store may take as long
			wait, err := s.look(ctx)
			switch {
			case ctx.Err() != nil:
				continue
			case errors.Is(err, ErrHalt):
				return s.halt(ctx, cancel, err)
			case err != nil:
				s.checked = false
				s.failed(Lane{Destination: s.config.Destination}, s.log, "can't see how the lanes stand", err)
				wait = s.pause.next()
			default:
				s.pause.reset()
			}
			s.setStates(Standby)
			timer.Reset(wait)
			pulse.beat(time.Now().Add(wait))
		}
	}
}

// look says that the relay is alive, takes the lanes that it lacks and gives back those that it has too many of. It returns
// when to look again.
func (s *supervisor) look(ctx context.Context) (wait time.Duration, err error) {
	attempt, cancel := context.WithTimeout(ctx, s.config.LeaseTTL)
	defer cancel()
	if !s.checked {
		if _, err := within(attempt, errorOnly(s.store.Check), nil); err != nil {
			s.vitals.store(err)
			return 0, err
		}
		if err := s.isReplay(attempt); err != nil {
			return 0, err
		}
		s.checked = true
	}
	m, err := s.join(attempt)
	var taken *OwnerTakenError
	switch {
	case errors.As(err, &taken):
		return s.meet(taken)
	case err != nil:
		return 0, err
	}
	if _, one := s.store.(oneLane); !one { // which is told by the lease
		s.namesake = nil
	}
	s.count(ctx, m.Lanes)
	s.watch(m, time.Now())
	if s.away != nil {
		if !s.back(attempt, m) {
			return s.lookEvery(), nil
		}
		s.away = nil
		return 0, nil // counted again
	}
	has := m.has(s.config.Owner, len(s.leaders))
	share := shares(m.Lanes, m.Relays, has)[s.config.Owner]
	s.give(share)
	wait, err = s.take(ctx, attempt, m, share)
	switch {
	case errors.As(err, &taken):
		return s.meet(taken)
	case err == nil:
		s.namesake = nil
	}
	return wait, err
}

func (s *supervisor) join(ctx context.Context) (Membership, error) {
	ttl := s.config.LeaseTTL
	if s.away != nil {
		ttl = 0
	}
	m, err := within(ctx, func(ctx context.Context) (Membership, error) {
		return s.store.Join(ctx, s.config.Destination, s.config.Owner, s.instance, s.config.Lanes, ttl)
	}, nil)
	if _, one := s.store.(oneLane); !one { // which didn't ask the store
		s.vitals.store(err)
	}
	return m, err
}

// signsOfLife is how often another relay of this one's name must have renewed: what a process had sent before it was killed may
// arrive long after that.
const signsOfLife = 3

// meet deals with another relay of this one's name. The one that a restarted process was before runs out; one that gives
// signs of life is there by mistake, and both would take each other's lanes as their own.
func (s *supervisor) meet(other *OwnerTakenError) (wait time.Duration, err error) {
	switch was := s.namesake; {
	case was == nil || was.Instance != other.Instance:
		s.signs = 0
	case other.ExpiresAt.After(was.ExpiresAt):
		if s.signs++; s.signs >= signsOfLife {
			return 0, fmt.Errorf("%w: %w", ErrHalt, other)
		}
	}
	if s.namesake == nil {
		s.log.Warn("waiting for a relay of the same name, which may be this one before it was restarted", "expires", other.Expires)
	}
	s.namesake = other
	return min(max(other.Expires, 50*time.Millisecond), s.lookEvery()), nil
}

// count takes in the number of lanes. Where it has changed, all leases are lost.
func (s *supervisor) count(ctx context.Context, lanes int) {
	s.mu.Lock()
	was := s.of
	s.of = lanes
	s.mu.Unlock()
	if was == lanes || was == 0 {
		return
	}
	s.log.Info("the number of lanes has changed", "from", was, "to", lanes)
	for _, l := range s.leaders {
		l.abandon(ErrLeaseLost)
	}
	for len(s.leaders) > 0 {
		s.gone(<-s.ended)
	}
	clear(s.expired)
	clear(s.avoid)
	clear(s.finished)
	s.mu.Lock()
	var old []Lane
	for lane, l := range s.lanes {
		if lane.Of == was && l.State != Stopped {
			old = append(old, lane)
		}
	}
	s.mu.Unlock()
	for _, lane := range old {
		s.setState(lane, Stopped, 0)
	}
}

// watch notes which leases have run out and weren't renewed since.
func (s *supervisor) watch(m Membership, now time.Time) {
	still := map[int]sighting{}
	for _, l := range m.Leases {
		if !l.Expired || l.Owner == "" {
			continue
		}
		seen, ok := s.expired[l.Lane.Index]
		if !ok || seen.lease.Owner != l.Owner || seen.lease.Epoch != l.Epoch || !seen.lease.ExpiresAt.Equal(l.ExpiresAt) {
			seen = sighting{l, now}
		}
		still[l.Lane.Index] = seen
	}
	s.expired = still
}

// give lets lanes go that are more than the share, in good order.
func (s *supervisor) give(share int) {
	staying := 0
	for _, l := range s.leaders {
		if !l.ending {
			staying++
		}
	}
	for index := s.of - 1; index >= 0 && staying > share; index-- {
		if l := s.leaders[index]; l != nil && !l.ending {
			l.log.Info("giving the lane to another relay, which has fewer")
			l.ending = true
			l.stop()
			staying--
		}
	}
}

// take takes free lanes up to the share.
func (s *supervisor) take(ctx, attempt context.Context, m Membership, share int) (wait time.Duration, err error) {
	now := time.Now()
	wait = s.lookEvery()
	sooner := func(d time.Duration) { wait = min(wait, max(d, time.Millisecond)) }
	state := map[int]LeaseState{}
	for _, l := range m.Leases {
		state[l.Lane.Index] = l
	}
	first := s.chance.IntN(m.Lanes) // so that relays that come at once don't ask for the same
	for n := range m.Lanes {
		index := (first + n) % m.Lanes
		if len(s.leaders) >= share {
			return wait, nil
		}
		if s.finished[index] {
			continue
		}
		if until := s.avoid[index]; s.leaders[index] != nil || until.After(now) {
			if s.leaders[index] == nil {
				sooner(until.Sub(now))
			}
			continue
		}
		if l := state[index]; l.Owner != "" && l.Owner != s.config.Owner {
			seen, expired := s.expired[index]
			due := s.evictAfter() - now.Sub(seen.at)
			if !expired {
				continue
			}
			if due > 0 {
				sooner(due)
				continue
			}
			s.log.Warn("taking over a lane whose lease ran out", "lane", index, "from", l.Owner)
		}
		err := s.acquire(ctx, attempt, Lane{s.config.Destination, index, m.Lanes})
		var held *LeaseHeldError
		var changed *LanesChangedError
		switch {
		case errors.As(err, &changed):
			if _, one := s.store.(oneLane); one {
				return 0, fmt.Errorf("%w: %w, and this relay's store knows only one: use the PostgreSQL store itself, or set the number back to 1", ErrHalt, err)
			}
			return 0, nil // look again
		case errors.As(err, &held):
			// A standby looks again when the lease may have run out, and now and then before that in case it is released.
			sooner(max(held.Expires, 50*time.Millisecond) + time.Duration(s.chance.IntN(int(50*time.Millisecond))))
		case err != nil:
			return 0, err
		}
	}
	if _, one := s.store.(oneLane); !one && len(s.leaders) < share {
		sooner(s.lookSoon())
	}
	return wait, nil
}

// acquire asks for a lane's lease, and begins to lead it.
func (s *supervisor) acquire(ctx, attempt context.Context, lane Lane) error {
	asked := time.Now()
	lease, err := within(attempt, func(ctx context.Context) (Lease, error) {
		return s.store.Acquire(ctx, lane, s.config.Owner, s.config.LeaseTTL)
	}, nil) // a lease that comes late runs out
	s.vitals.store(err)
	if err != nil {
		return err
	}
	if err := s.isReplay(attempt); err != nil { // looked at once more: now that the lane is led, it can't be removed
		return err
	}
	l := &leader{
		Relay: s.Relay, lane: lane, lease: lease, asked: asked, wake: make(chan struct{}, 1),
		log:    s.config.Logger.With("lane", lane.String(), "owner", s.config.Owner, "epoch", lease.Epoch),
		chance: chance.From(ctx, fmt.Sprint(s.config.Owner, " ", lane, " ", lease.Epoch)),
	}
	ctx, l.stop = context.WithCancel(ctx)
	var life context.Context
	life, l.abandon = context.WithCancelCause(context.WithoutCancel(ctx))
	s.leaders[lane.Index] = l
	s.mu.Lock()
	s.led[l] = struct{}{}
	s.mu.Unlock()
	go func() {
		l.err = l.lead(ctx, life)
		s.ended <- l
	}()
	return nil
}

// gone takes in that a leader has ended.
func (s *supervisor) gone(l *leader) {
	l.stop()
	l.abandon(nil)
	delete(s.leaders, l.lane.Index)
	s.mu.Lock()
	delete(s.led, l)
	s.mu.Unlock()
	s.setState(l.lane, Standby, 0)
}

// end takes in that a leader has ended by itself, or was told to. It returns an error that ends all of them.
func (s *supervisor) end(l *leader) error {
	s.gone(l)
	var given *givenAwayError
	switch {
	case l.err == nil:
		return nil
	case errors.Is(l.err, errDone):
		l.log.Info("the lane's log has ended")
		s.finished[l.lane.Index] = true
		return nil
	case errors.Is(l.err, ErrHalt):
		l.log.Error("the lane is halted", "err", l.err)
		return l.err
	}
	s.failed(l.lane, l.log, "not leading", l.err)
	s.checked = false
	if !errors.As(l.err, &given) {
		if time.Since(l.asked) > s.config.LeaseTTL {
			s.again.reset()
		}
		s.avoid[l.lane.Index] = time.Now().Add(s.again.next())
		return nil
	}
	// Longer than a standby takes to look again, or this relay would be the first.
	s.avoid[l.lane.Index] = time.Now().Add(s.config.LeaseTTL / 2)
	for _, other := range s.leaders {
		if !other.ending && !other.failing.Load() {
			return nil // the lane is to blame
		}
	}
	s.goAway()
	return nil
}

// goAway leaves all lanes to others, and this relay out of the shares: it can't publish. The longer the more often that
// happens; where nobody else is there it only takes a breath.
func (s *supervisor) goAway() {
	if s.away != nil {
		return // another lane's leader was the first to see it
	}
	published := s.Report().Published
	if published != s.before {
		s.absences, s.before = 0, published
	}
	now, ttl := time.Now(), s.config.LeaseTTL
	s.away = &absence{least: now.Add(ttl / 2), until: now.Add(doubled(ttl/2, 8*ttl, s.absences))}
	s.absences++
	for _, l := range s.leaders {
		l.ending = true
		l.stop()
	}
}

// back reports whether an absence has ended.
func (s *supervisor) back(ctx context.Context, m Membership) bool {
	now := time.Now()
	if now.Before(s.away.least) || len(s.leaders) > 0 {
		return false
	}
	if !slices.ContainsFunc(m.Relays, func(owner string) bool { return owner != s.config.Owner }) {
		return true
	}
	if now.Before(s.away.until) {
		return false
	}
	session, err := s.publisher.Open(ctx)
	if err != nil {
		s.failed(Lane{Destination: s.config.Destination}, s.log, "leaving the lanes to other relays: this one still can't publish", err)
		s.away.until = now.Add(s.config.LeaseTTL / 2)
		return false
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = session.Close(closing) // nothing was sent
	return true
}

// setStates notes what the relay does with the lanes that it doesn't lead.
func (s *supervisor) setStates(state State) {
	var others []Lane
	s.mu.Lock()
	for index := range s.of {
		if lane := (Lane{s.config.Destination, index, s.of}); s.leaders[index] == nil {
			others = append(others, lane)
		}
	}
	s.mu.Unlock()
	for _, lane := range others {
		s.setState(lane, state, 0)
	}
}

// leave waits until the leaders have ended in good order, as they were told to. The relay is taken off first, so that
// others know that its lanes will be theirs.
func (s *supervisor) leave(ctx context.Context) {
	left := make(chan struct{})
	go func() {
		defer close(left)
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_, err := within(leaving, errorOnly(func(ctx context.Context) error {
			return s.store.Leave(ctx, s.config.Destination, s.config.Owner, s.instance)
		}), nil)
		if err != nil {
			s.log.Warn("the relay wasn't taken off the destination: it is counted until its time has run out", "err", err)
		}
	}()
	for len(s.leaders) > 0 {
		s.gone(<-s.ended)
	}
	<-left
}

// finish ends the relay of a log that has ended in all lanes, whoever has come to the end of each.
func (s *supervisor) finish(ctx context.Context, cancel context.CancelFunc) {
	s.log.Info("the log has ended")
	s.mu.Lock()
	s.done = true
	s.mu.Unlock()
	cancel()
	s.leave(ctx)
}

// halt ends the other leaders for an error that time doesn't mend.
func (s *supervisor) halt(ctx context.Context, cancel context.CancelFunc, err error) error {
	s.log.Error("the relay is halted", "err", err)
	cancel()
	s.leave(ctx)
	return err
}
