package memstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/relay"
)

// lease says who has a lane.
type lease struct {
	owner   string // "" for nobody
	epoch   int64
	expires time.Time
}

func share(lane relay.Lane) relay.Lane {
	return relay.Lane{Destination: lane.Destination, Index: lane.Index}
}

// Check implements relay.Store. Nothing can be wrong with it.
func (s *Store) Check(ctx context.Context) error { return ctx.Err() }

// Acquire implements relay.Store.
func (s *Store) Acquire(
	ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
) (got relay.Lease, err error) {
	err = s.do(ctx, func() error {
		if d := s.destination(lane.Destination, lane.Of); d.lanes != lane.Of {
			return &relay.LanesChangedError{Destination: lane.Destination, Lanes: d.lanes}
		}
		l := s.leases[share(lane)]
		if l == nil {
			l = &lease{}
			s.leases[share(lane)] = l
		}
		if left := time.Until(l.expires); l.owner != "" && l.owner != owner && left > 0 {
			return &relay.LeaseHeldError{Lane: lane, Owner: l.owner, Expires: left}
		}
		l.owner, l.expires = owner, time.Now().Add(ttl)
		l.epoch++
		got = relay.Lease{Lane: lane, Owner: owner, Epoch: l.epoch}
		return nil
	})
	return got, err
}

// Renew implements relay.Store.
func (s *Store) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	return s.guarded(ctx, lease, func() { s.leases[share(lease.Lane)].expires = time.Now().Add(ttl) })
}

// Release implements relay.Store.
func (s *Store) Release(ctx context.Context, lease relay.Lease) error {
	return s.do(ctx, func() error {
		if s.holds(lease) {
			l := s.leases[share(lease.Lane)]
			l.owner, l.expires = "", time.Now()
		}
		return nil
	})
}

func (s *Store) holds(lease relay.Lease) bool {
	l := s.leases[share(lease.Lane)]
	return l != nil && l.epoch == lease.Epoch && l.owner == lease.Owner
}

// guarded runs work with the store locked, unless the lease was lost.
func (s *Store) guarded(ctx context.Context, lease relay.Lease, work func()) error {
	return s.do(ctx, func() error {
		if !s.holds(lease) {
			return relay.ErrLeaseLost
		}
		work()
		return nil
	})
}

// place is how far a lane has read. The log is in the order of commits, so a number is enough: what commits late
// comes behind it.
type place struct {
	read    int   // entries, those included that were removed from the log since
	highest int64 // number among them
}

// Open implements relay.Store.
func (s *Store) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	l := &log{store: s, lease: lease}
	err := s.do(ctx, func() error {
		l.at = s.places[lease.Lane]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// log reads one lane.
type log struct {
	store *Store
	lease relay.Lease
	at    place
}

// Read implements relay.Log.
func (l *log) Read(ctx context.Context, limit int) (page relay.Page, err error) {
	lane := l.lease.Lane
	highest, left := l.at.highest, 0
	err = l.store.do(ctx, func() error {
		end, replay := l.end()
		l.at.read = max(l.at.read, l.store.removed) // a lane is behind that only if it is new, or its lease was lost
		for ; l.at.read < end && !page.Full; l.at.read++ {
			entry := l.store.log[l.at.read-l.store.removed]
			if entry.Event.Slot()%lane.Of != lane.Index || replay != nil && !replay.Filter.Matches(&entry.Event) {
				continue
			}
			l.at.highest = max(l.at.highest, entry.Seq)
			if l.store.discarded[parkedAt{lane.Destination, entry.Seq}] {
				left++
				continue
			}
			page.Entries = append(page.Entries, l.marked(copyEntry(entry)))
			page.Full = len(page.Entries) == limit
		}
		page.Full = page.Full || left > 0 && len(page.Entries) == 0 // so that what was left out is passed
		if replay != nil {
			page.Done = l.at.read == end
			page.Full = !page.Done
		}
		return nil
	})
	if err != nil {
		return relay.Page{}, err
	}
	// In the order of numbers, which is each key's order too: a key's writers wait for each other before they draw.
	slices.SortFunc(page.Entries, bySeq)
	for page.Stragglers < len(page.Entries) && page.Entries[page.Stragglers].Seq < highest {
		page.Stragglers++
	}
	page.After = l.at
	return page, nil
}

// Checkpoint implements relay.Log.
func (l *log) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	to, ok := at.(place)
	if !ok {
		return fmt.Errorf("memstore: a position of type %T isn't one of this log's", at)
	}
	return l.store.guarded(ctx, l.lease, func() {
		l.store.places[l.lease.Lane] = to
		for _, p := range parked {
			if !l.store.discarded[parkedAt{l.lease.Lane.Destination, p.Seq}] { // after it was read again
				l.store.park(l.lease.Lane.Destination, p)
			}
		}
		l.store.passed(l.lease.Lane.Destination)
	})
}

// Close implements relay.Log.
func (l *log) Close(context.Context) error { return nil }
