package memstore

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

// parkedAt is where an event is parked.
type parkedAt struct {
	destination string
	seq         int64
}

// park parks an event, or parks it anew.
func (s *Store) park(destination string, p relay.Parked) {
	s.parked[parkedAt{destination, p.Seq}] = &relay.ParkedEvent{
		Destination: destination, Entry: copyEntry(p.Entry), Behind: p.Behind, Reason: p.Reason, At: time.Now().UTC(),
	}
}

// list returns the destination's parked events, oldest first. The store is locked.
func (s *Store) list(destination string, only func(*relay.ParkedEvent) bool) []*relay.ParkedEvent {
	var list []*relay.ParkedEvent
	for _, p := range s.parked {
		if p.Destination == destination && only(p) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *relay.ParkedEvent) int { return cmp.Compare(a.Seq, b.Seq) })
	return list
}

func (l *log) parked() []*relay.ParkedEvent {
	lane := l.lease.Lane
	return l.store.list(lane.Destination, func(p *relay.ParkedEvent) bool {
		return p.Event.Slot()%lane.Of == lane.Index
	})
}

// ParkedKeys implements relay.Log.
func (l *log) ParkedKeys(ctx context.Context) (keys []string, err error) {
	err = l.store.do(ctx, func() error {
		for _, p := range l.parked() {
			if key := p.Event.Key; key != "" && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
		return nil
	})
	return keys, err
}

// Released implements relay.Log.
func (l *log) Released(ctx context.Context, limit int) (entries []relay.Entry, err error) {
	err = l.store.do(ctx, func() error {
		stays := map[string]bool{} // keys of which an event stays parked
		for _, p := range l.parked() {
			key := p.Event.Key
			switch {
			case len(entries) == limit:
				return nil
			case stays[key]:
			case p.Retrying || p.Behind && key != "":
				entries = append(entries, copyEntry(p.Entry))
			default:
				stays[key] = key != ""
			}
		}
		return nil
	})
	return entries, err
}

// Unpark implements relay.Log.
func (l *log) Unpark(
	ctx context.Context, published []relay.Entry, again []relay.Parked, keys []string,
) (clear []string, err error) {
	destination := l.lease.Lane.Destination
	err = l.store.guarded(ctx, l.lease, func() {
		for _, e := range published {
			delete(l.store.parked, parkedAt{destination, e.Seq})
		}
		for _, p := range again {
			if l.store.parked[parkedAt{destination, p.Seq}] != nil { // nobody has discarded it meanwhile
				l.store.park(destination, p)
			}
		}
		for _, key := range keys {
			of := func(p *relay.ParkedEvent) bool { return p.Event.Key == key }
			if len(l.store.list(destination, of)) == 0 {
				clear = append(clear, key)
			}
		}
	})
	return clear, err
}

// Parked lists parked events, oldest first, at most limit.
func (s *Store) Parked(
	ctx context.Context, filter relay.ParkedFilter, limit int,
) (events []relay.ParkedEvent, err error) {
	err = s.do(ctx, func() error {
		for _, p := range s.selected(filter) {
			if len(events) == limit {
				break
			}
			found := *p
			found.Entry = copyEntry(p.Entry)
			events = append(events, found)
		}
		return nil
	})
	return events, err
}

func (s *Store) selected(f relay.ParkedFilter) []*relay.ParkedEvent {
	return s.list(cmp.Or(f.Destination, relay.DefaultDestination), func(p *relay.ParkedEvent) bool {
		return (f.Key == "" || p.Event.Key == f.Key) && (f.Type == "" || p.Event.Type == f.Type) &&
			(len(f.IDs) == 0 || slices.Contains(f.IDs, p.Event.ID)) && strings.Contains(p.Reason, f.Reason)
	})
}
