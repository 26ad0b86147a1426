package memstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/relay"
)

var _ relay.LaneStore = (*Store)(nil)

// destination is a reader of the log.
type destination struct {
	lanes   int
	relays  map[string]member // by owner
	created time.Time
	replay  *replay // nil: it never ends
}

// member is a relay that has joined.
type member struct {
	instance string
	expires  time.Time
}

// destination returns one, which it creates with as many lanes if it is new. The store is locked.
func (s *Store) destination(name string, lanes int) *destination {
	d := s.destinations[name]
	if d == nil {
		d = &destination{lanes: lanes, relays: map[string]member{}, created: time.Now().UTC()}
		s.destinations[name] = d
	}
	return d
}

// Join implements relay.LaneStore.
func (s *Store) Join(
	ctx context.Context, name, owner, instance string, lanes int, ttl time.Duration,
) (m relay.Membership, err error) {
	err = s.do(ctx, func() error {
		now, d := time.Now(), s.destination(name, lanes)
		if other, there := d.relays[owner]; there && other.instance != instance && other.expires.After(now) {
			return &relay.OwnerTakenError{
				Destination: name, Owner: owner, Instance: other.instance, ExpiresAt: other.expires, Expires: other.expires.Sub(now),
			}
		}
		d.relays[owner] = member{instance, now.Add(ttl)}
		m.Lanes = d.lanes
		for owner, r := range d.relays {
			if r.expires.After(now) {
				m.Relays = append(m.Relays, owner)
			}
		}
		slices.Sort(m.Relays)
		for i := range d.lanes {
			lane := relay.Lane{Destination: name, Index: i, Of: d.lanes}
			if l := s.leases[share(lane)]; l != nil {
				m.Leases = append(m.Leases, relay.LeaseState{
					Lane: lane, Owner: l.owner, Epoch: l.epoch, ExpiresAt: l.expires, Expired: !l.expires.After(now),
				})
			}
		}
		return nil
	})
	return m, err
}

// Leave implements relay.LaneStore.
func (s *Store) Leave(ctx context.Context, name, owner, instance string) error {
	return s.do(ctx, func() error {
		if d := s.destinations[name]; d != nil && d.relays[owner].instance == instance {
			delete(d.relays, owner)
		}
		return nil
	})
}

// SetLanes implements relay.LaneStore.
func (s *Store) SetLanes(ctx context.Context, name string, lanes int) error {
	if lanes < 1 || lanes > relay.MaxLanes {
		return fmt.Errorf("memstore: %d lanes: use 1 to %d", lanes, relay.MaxLanes)
	}
	return s.do(ctx, func() error {
		d := s.destinations[name]
		if d == nil {
			return fmt.Errorf("memstore: there is no destination %q: a relay creates its own when it first runs, with Config.Lanes lanes", name)
		}
		if d.lanes == lanes {
			return nil
		}
		for i := range max(d.lanes, lanes) {
			at := share(relay.Lane{Destination: name, Index: i})
			if s.leases[at] == nil {
				s.leases[at] = &lease{}
			}
			s.leases[at].owner, s.leases[at].expires = "", time.Now()
			s.leases[at].epoch++
		}
		// Every entry before the furthest behind has been passed by the lane that it belonged to.
		from := place{read: s.length(), highest: s.drawn}
		for i := range d.lanes {
			old := relay.Lane{Destination: name, Index: i, Of: d.lanes}
			from.read, from.highest = min(from.read, s.places[old].read), min(from.highest, s.places[old].highest)
			delete(s.places, old)
		}
		for i := range lanes {
			s.places[relay.Lane{Destination: name, Index: i, Of: lanes}] = from
		}
		d.lanes = lanes
		return nil
	})
}
