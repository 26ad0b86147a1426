package storetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

func init() { bugs = append(bugs, laneBugs...) }

// onJoin plants a change of what relays see.
func onJoin(change func(m *relay.Membership)) func(*backend) {
	return func(b *backend) {
		b.store.join = func(
			ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
		) (relay.Membership, error) {
			m, err := b.good.Join(ctx, destination, owner, instance, lanes, ttl)
			change(&m)
			return m, err
		}
	}
}

// lanesOf looks at a destination's number of lanes.
func lanesOf(ctx context.Context, good *memstore.Store, destination string) int {
	m, _ := good.Join(ctx, destination, "looker", "x", 1, 0) // can't fail
	return m.Lanes
}

// laneBugs are in the order of the promises.
var laneBugs = []bug{
	{"a relay that left is still counted", func(b *backend) {
		b.store.leave = func(context.Context, string, string, string) error { return nil }
	}, []string{"relays of a destination see each other"}},
	{"anybody takes a relay off", func(b *backend) {
		b.store.leave = func(ctx context.Context, destination, owner, _ string) error {
			for _, instance := range []string{"1", "2", "3"} {
				_ = b.good.Leave(ctx, destination, owner, instance)
			}
			return nil
		}
	}, []string{"relays of a destination see each other"}},
	{"who only looks is counted", func(b *backend) {
		b.store.join = func(
			ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
		) (relay.Membership, error) {
			return b.good.Join(ctx, destination, owner, instance, lanes, max(ttl, time.Hour))
		}
	}, []string{"relays of a destination see each other", "a name is one relay's"}},
	{"instances aren't told apart", func(b *backend) {
		b.store.join = func(
			ctx context.Context, destination, owner, _ string, lanes int, ttl time.Duration,
		) (relay.Membership, error) {
			return b.good.Join(ctx, destination, owner, "any", lanes, ttl)
		}
	}, []string{"a name is one relay's"}},
	{"the newest relay sets the number of lanes", func(b *backend) {
		b.store.join = func(
			ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
		) (relay.Membership, error) {
			if m, err := b.good.Join(ctx, destination, owner, instance, lanes, ttl); err != nil {
				return m, err
			}
			if err := b.good.SetLanes(ctx, destination, lanes); err != nil {
				return relay.Membership{}, err
			}
			return b.good.Join(ctx, destination, owner, instance, lanes, ttl)
		}
	}, []string{"a destination keeps its number of lanes"}},
	{"a lane of any number is leased", func(b *backend) {
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			lease, err := b.good.Acquire(ctx, lane, owner, ttl)
			var changed *relay.LanesChangedError
			if errors.As(err, &changed) {
				return relay.Lease{Lane: lane, Owner: owner, Epoch: 1 << 40}, nil
			}
			return lease, err
		}
	}, []string{"a destination keeps its number of lanes", "a change of lanes ends the old leases"}},
	{"every lease looks expired", onJoin(func(m *relay.Membership) {
		for i := range m.Leases {
			m.Leases[i].Expired = true
		}
	}), []string{"leases are seen as they stand"}},
	{"a lease's expiry is told from now", onJoin(func(m *relay.Membership) {
		for i := range m.Leases {
			m.Leases[i].ExpiresAt = time.Now()
		}
	}), []string{"leases are seen as they stand"}},
	{"lanes that are done with are shown", onJoin(func(m *relay.Membership) {
		for len(m.Leases) > 0 && len(m.Leases) <= m.Lanes {
			m.Leases = append(m.Leases, m.Leases[0])
		}
	}), []string{"leases are seen as they stand", "a change of lanes ends the old leases"}},
	{"old leases can be renewed", func(b *backend) {
		b.store.renew = func(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
			err := b.good.Renew(ctx, lease, ttl)
			if lanesOf(ctx, b.good, lease.Lane.Destination) != lease.Lane.Of {
				return nil
			}
			return err
		}
	}, []string{"a change of lanes ends the old leases"}},
	{"old lanes write on", onLog(func(b *backend, l *brokenLog) {
		l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
			if err := l.Log.Checkpoint(ctx, at, parked); err != nil && !errors.Is(err, relay.ErrLeaseLost) {
				return err
			}
			return nil
		}
	}), []string{"a change of lanes ends the old leases"}},
	{"the number of lanes is looked at before the lease is taken", func(b *backend) {
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			if lanes := lanesOf(ctx, b.good, lane.Destination); lanes != lane.Of {
				return relay.Lease{}, &relay.LanesChangedError{Destination: lane.Destination, Lanes: lanes}
			}
			time.Sleep(soon)
			now := lane
			now.Of = lanesOf(ctx, b.good, lane.Destination)
			lease, err := b.good.Acquire(ctx, now, owner, ttl)
			lease.Lane = lane
			return lease, err
		}
	}, []string{"a change of lanes and an acquisition come one after the other"}},
	{"the same number begins anew", func(b *backend) {
		b.store.setLanes = func(ctx context.Context, destination string, lanes int) error {
			if lanesOf(ctx, b.good, destination) == lanes {
				if err := b.good.SetLanes(ctx, destination, lanes+1); err != nil {
					return err
				}
			}
			return b.good.SetLanes(ctx, destination, lanes)
		}
	}, []string{"a change of lanes that isn't one changes nothing"}},
	{"the place of an empty page isn't stored", onLog(func(_ *backend, l *brokenLog) {
		empty := false
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			empty = len(page.Entries) == 0
			return page, err
		}
		l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
			if empty {
				return nil
			}
			return l.Log.Checkpoint(ctx, at, parked)
		}
	}), []string{"a change of lanes repeats nothing that all have passed"}},
	{"parked events are lane 0's", onLog(func(b *backend, l *brokenLog) {
		l.parkedKeys = func(ctx context.Context) ([]string, error) {
			if l.lease.Lane.Index > 0 {
				return nil, nil
			}
			return l.Log.ParkedKeys(ctx)
		}
	}), []string{"parked events stay with their slots"}},
	{"what was discarded is read again", onLog(func(b *backend, l *brokenLog) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit-1)
			list, _ := b.good.ParkedActions(ctx, relay.ParkedFilter{Destination: l.lease.Lane.Destination}, 1) // can't fail
			for _, a := range list {
				for _, e := range b.good.Events() {
					if e.ID == a.EventID && page.Full {
						page.Entries = append(page.Entries, relay.Entry{Seq: a.Seq, Event: e})
					}
				}
			}
			return page, err
		}
	}), []string{"what was discarded doesn't come back with new lanes"}},
	{"what was discarded isn't passed", onLog(func(_ *backend, l *brokenLog) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			page.Full = page.Full && len(page.Entries) > 0
			return page, err
		}
	}), []string{"what was discarded doesn't come back with new lanes"}},
	{"what was discarded is parked again", func(b *backend) {
		var again []relay.ParkedEvent
		b.store.log = func(l *brokenLog) {
			l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
				list, _ := b.good.ParkedActions(ctx, relay.ParkedFilter{Destination: l.lease.Lane.Destination}, 10) // can't fail
				for _, p := range parked {
					if slices.ContainsFunc(list, func(a relay.ParkedAction) bool { return a.Seq == p.Seq }) {
						again = append(again, relay.ParkedEvent{Entry: p.Entry})
					}
				}
				return l.Log.Checkpoint(ctx, at, parked)
			}
		}
		b.store.parked = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
			list, err := b.good.Parked(ctx, f, limit)
			return append(again, list...), err
		}
	}, []string{"what is discarded while it is read again isn't parked again"}},
	{"new lanes begin at the end of the log", func(b *backend) {
		b.store.setLanes = func(ctx context.Context, destination string, lanes int) error {
			old := lanesOf(ctx, b.good, destination)
			for i := range old {
				lease, err := b.good.Acquire(ctx, relay.Lane{Destination: destination, Index: i, Of: old}, "a", long)
				if err != nil {
					return err
				}
				l, err := b.good.Open(ctx, lease)
				if err != nil {
					return err
				}
				page, err := l.Read(ctx, 1<<20)
				if err != nil {
					return err
				}
				if err := l.Checkpoint(ctx, page.After, nil); err != nil {
					return err
				}
			}
			return b.good.SetLanes(ctx, destination, lanes)
		}
	}, []string{"changes of lanes lose and turn round nothing"}},
}
