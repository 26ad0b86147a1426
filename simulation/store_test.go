package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/relay"
)

// store is a process's way to the database, a relay.LaneStore: the statements of sqlstore/internal/postgres, lease.go and
// lanes.go.
type store struct {
	db    *database
	actor *sim.Actor
	memo  map[int]cursor // planted: where the process's logs stood when they were closed
}

func newStore(db *database, actor *sim.Actor) *store { return &store{db, actor, map[int]cursor{}} }

// call runs a statement of the connections that renew themselves.
func call[T any](ctx context.Context, s *store, what, on string, statement func() (T, error)) (T, error) {
	return sim.Do(ctx, s.actor, what, on, func() (T, error) {
		if s.db.down {
			var none T
			return none, errConnection
		}
		return statement()
	})
}

// do runs a statement without a result.
func (s *store) do(ctx context.Context, what, on string, statement func() error) error {
	_, err := call(ctx, s, what, on, func() (struct{}, error) { return struct{}{}, statement() })
	return err
}

func (s *store) Check(ctx context.Context) error {
	return s.do(ctx, "check", "", func() error { return nil })
}

func (s *store) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	return call(ctx, s, "acquire", lane.String(), func() (relay.Lease, error) {
		db := s.db
		if db.lanes == 0 {
			db.lanes = lane.Of
		}
		if db.lanes != lane.Of {
			return relay.Lease{}, &relay.LanesChangedError{Destination: lane.Destination, Lanes: db.lanes}
		}
		l := db.leases[lane.Index]
		if l.owner != owner && l.owner != "" && l.expires >= db.clock() {
			return relay.Lease{}, &relay.LeaseHeldError{Lane: lane, Owner: l.owner, Expires: l.expires - db.clock()}
		}
		db.writes()
		l = lease{owner, l.epoch + 1, db.clock() + ttl, db.w.Now(), ctx.Err() != nil}
		db.leases[lane.Index] = l
		s.db.w.Detail("epoch %d", l.epoch)
		return relay.Lease{Lane: lane, Owner: owner, Epoch: l.epoch}, nil
	})
}

func (s *store) Renew(ctx context.Context, l relay.Lease, ttl time.Duration) error {
	return s.do(ctx, "renew", l.Lane.String(), func() error {
		if !s.db.held(l) {
			return relay.ErrLeaseLost
		}
		s.db.writes()
		s.db.leases[l.Lane.Index] = lease{l.Owner, l.Epoch, s.db.clock() + ttl, s.db.w.Now(), ctx.Err() != nil}
		return nil
	})
}

func (s *store) Release(ctx context.Context, l relay.Lease) error {
	return s.do(ctx, "release", l.Lane.String(), func() error {
		if s.db.held(l) {
			s.db.writes()
			s.db.leases[l.Lane.Index] = lease{"", l.Epoch, s.db.clock(), s.db.w.Now(), false}
		}
		return nil
	})
}

func (s *store) Join(
	ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
) (relay.Membership, error) {
	return call(ctx, s, "join", "", func() (m relay.Membership, err error) {
		db, now := s.db, s.db.clock()
		if other, there := db.relays[owner]; there && other.instance != instance && other.expires >= now {
			return m, &relay.OwnerTakenError{
				Destination: destination, Owner: owner, Instance: other.instance,
				ExpiresAt: time.Unix(0, 0).Add(other.expires), Expires: other.expires - now,
			}
		}
		db.writes()
		db.relays[owner] = member{instance, now + ttl}
		if db.lanes == 0 {
			db.lanes = lanes
		}
		m.Lanes = db.lanes
		for owner, r := range db.relays {
			if r.expires > now {
				m.Relays = append(m.Relays, owner)
			}
		}
		slices.Sort(m.Relays)
		for i := range db.lanes {
			if l := db.leases[i]; l.epoch > 0 {
				m.Leases = append(m.Leases, relay.LeaseState{
					Lane: relay.Lane{Destination: destination, Index: i, Of: db.lanes}, Owner: l.owner, Epoch: l.epoch,
					ExpiresAt: time.Unix(0, 0).Add(l.expires), Expired: l.expires < now,
				})
			}
		}
		return m, nil
	})
}

func (s *store) Leave(ctx context.Context, _, owner, instance string) error {
	return s.do(ctx, "leave", "", func() error {
		if s.db.relays[owner].instance == instance {
			s.db.writes()
			delete(s.db.relays, owner)
		}
		return nil
	})
}

func (s *store) SetLanes(ctx context.Context, _ string, lanes int) error {
	return s.do(ctx, "set lanes", fmt.Sprint(lanes), func() error { return s.db.setLanes(lanes) })
}

func (db *database) setLanes(lanes int) error {
	old := db.lanes
	switch old {
	case 0:
		return errors.New("there is no such destination")
	case lanes:
		return nil
	}
	db.writes()
	for i := range max(old, lanes) {
		l := db.leases[i]
		if newest, found := db.newest(i); found {
			l.epoch = max(l.epoch, newest.epoch)
		}
		db.leases[i] = lease{"", l.epoch + 1, db.clock(), db.w.Now(), false}
	}
	var cursors []cursor
	for i := range old {
		if c, found := db.newest(i); found {
			cursors = append(cursors, c.at)
		}
	}
	clear(db.checkpoints)
	if len(cursors) == old {
		from := oldest(cursors)
		if db.plant.newestCursor {
			from = slices.MaxFunc(cursors, func(a, b cursor) int { return int(a.hot - b.hot) })
		}
		for i := range lanes {
			db.addCheckpoint(i, checkpoint{db.leases[i].epoch, 0, from})
		}
	}
	db.lanes = lanes
	return nil
}

func (s *store) Open(ctx context.Context, l relay.Lease) (relay.Log, error) {
	log, err := call(ctx, s, "open", l.Lane.String(), func() (*log, error) {
		log := &log{store: s, lease: l, name: l.Lane.String(), at: origin(), server: s.db.server, drawn: s.db.drawn}
		c, found := s.db.newest(l.Lane.Index)
		switch {
		case !s.db.held(l) || s.db.lanes != l.Lane.Of:
			return nil, relay.ErrLeaseLost
		case !found:
			return log, nil
		case c.epoch > l.Epoch:
			return nil, relay.ErrLeaseLost
		case c.epoch == l.Epoch:
			log.n = c.n
		}
		log.at = c.at
		if memo, there := s.memo[l.Lane.Index]; there && s.db.plant.remembers {
			log.at = memo
		}
		s.db.w.Detail("at %v", log.at)
		if s.db.drawn < log.at.hot {
			return nil, fmt.Errorf("%w: the sequence stands at %d behind the checkpoint's %d", relay.ErrHalt, s.db.drawn, log.at.hot)
		}
		return log, nil
	})
	if err != nil {
		return nil, err
	}
	return log, nil
}
