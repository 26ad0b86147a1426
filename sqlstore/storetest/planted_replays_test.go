package storetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

func init() { bugs = append(bugs, replayBugs...) }

// brokenReplays are mistakes with destinations and replays; each function, if set, replaces the method of its name.
type brokenReplays struct {
	destinations      func(ctx context.Context) ([]relay.Destination, error)
	createDestination func(ctx context.Context, name string, from relay.Start) error
	removeDestination func(ctx context.Context, name string) error
	createReplay      func(ctx context.Context, name string, f relay.EventFilter, by string) (relay.Destination, error)
	countEvents       func(ctx context.Context, f relay.EventFilter) (map[string]int64, error)
}

func (s *broken) Destinations(ctx context.Context) ([]relay.Destination, error) {
	if s.destinations != nil {
		return s.destinations(ctx)
	}
	return s.Store.Destinations(ctx)
}

func (s *broken) CreateDestination(ctx context.Context, name string, from relay.Start) error {
	if s.createDestination != nil {
		return s.createDestination(ctx, name, from)
	}
	return s.Store.CreateDestination(ctx, name, from)
}

func (s *broken) RemoveDestination(ctx context.Context, name string) error {
	if s.removeDestination != nil {
		return s.removeDestination(ctx, name)
	}
	return s.Store.RemoveDestination(ctx, name)
}

func (s *broken) CreateReplay(
	ctx context.Context, name string, f relay.EventFilter, by string,
) (relay.Destination, error) {
	if s.createReplay != nil {
		return s.createReplay(ctx, name, f, by)
	}
	return s.Store.CreateReplay(ctx, name, f, by)
}

func (s *broken) CountEvents(ctx context.Context, f relay.EventFilter) (map[string]int64, error) {
	if s.countEvents != nil {
		return s.countEvents(ctx, f)
	}
	return s.Store.CountEvents(ctx, f)
}

// onFilter plants a mistake in what a replay takes.
func onFilter(change func(f *relay.EventFilter)) func(*backend) {
	return func(b *backend) {
		b.store.createReplay = func(
			ctx context.Context, name string, f relay.EventFilter, by string,
		) (relay.Destination, error) {
			change(&f)
			return b.good.CreateReplay(ctx, name, f, by)
		}
	}
}

// onReplayLog plants a mistake in the log of replays.
func onReplayLog(change func(l *brokenLog, replay string)) func(*backend) {
	return func(b *backend) {
		b.store.log = func(l *brokenLog) {
			list, _ := b.good.Destinations(context.Background()) // can't fail
			for _, d := range list {
				if d.Name == l.lease.Lane.Destination && d.Replay != nil {
					change(l, d.Name)
				}
			}
		}
	}
}

// removes removes a destination in spite of a refusal for which reason makes room.
func removes(room func(ctx context.Context, good *memstore.Store, name string)) func(*backend) {
	return func(b *backend) {
		b.store.removeDestination = func(ctx context.Context, name string) error {
			err := b.good.RemoveDestination(ctx, name)
			if err == nil || errors.Is(err, relay.ErrNoDestination) {
				return err
			}
			room(ctx, b.good, name)
			return b.good.RemoveDestination(ctx, name)
		}
	}
}

// replayBugs are in the order of the promises.
var replayBugs = []bug{
	{"now is taken for the beginning", func(b *backend) {
		b.store.createDestination = func(ctx context.Context, name string, from relay.Start) error {
			if _, byTime := from.Time(); !byTime {
				from = relay.FromBeginning()
			}
			return b.good.CreateDestination(ctx, name, from)
		}
	}, []string{"a destination begins where it is told"}},
	{"a time is taken for now", func(b *backend) {
		b.store.createDestination = func(ctx context.Context, name string, from relay.Start) error {
			if at, byTime := from.Time(); byTime && at.Before(time.Now()) {
				from = relay.FromNow()
			}
			return b.good.CreateDestination(ctx, name, from)
		}
	}, []string{"a destination begins where it is told"}},
	{"the future is taken for now", func(b *backend) {
		b.store.createDestination = func(ctx context.Context, name string, from relay.Start) error {
			if at, byTime := from.Time(); byTime && at.After(time.Now()) {
				from = relay.FromNow()
			}
			return b.good.CreateDestination(ctx, name, from)
		}
	}, []string{"a destination begins where it is told"}},
	{"a destination that is there passes for a new one", func(b *backend) {
		b.store.createDestination = func(ctx context.Context, name string, from relay.Start) error {
			err := b.good.CreateDestination(ctx, name, from)
			if errors.Is(err, relay.ErrDestinationExists) {
				return nil
			}
			return err
		}
	}, []string{"a destination begins where it is told"}},
	{"destinations come in any order", func(b *backend) {
		b.store.destinations = func(ctx context.Context) ([]relay.Destination, error) {
			list, err := b.good.Destinations(ctx)
			if len(list) > 1 {
				list[0], list[1] = list[1], list[0]
			}
			return list, err
		}
	}, []string{"a destination begins where it is told"}},
	{"a replay's end is exclusive and its filter's isn't", onFilter(func(f *relay.EventFilter) {
		if !f.Until.IsZero() {
			f.Until = f.Until.Add(time.Microsecond)
		}
	}), []string{"a replay is what its filter selects"}},
	{"sources aren't looked at", onFilter(func(f *relay.EventFilter) { f.Sources = nil }),
		[]string{"a replay is what its filter selects"}},
	{"flows aren't looked at", onFilter(func(f *relay.EventFilter) { f.CorrelationID = "" }),
		[]string{"a replay is what its filter selects"}},
	{"replayed events aren't marked", onReplayLog(func(l *brokenLog, _ string) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			for _, e := range page.Entries {
				delete(e.Event.Headers, relay.HeaderReplay)
			}
			return page, err
		}
	}), []string{"a replay is what its filter selects"}},
	{"the dry run counts everything", func(b *backend) {
		b.store.countEvents = func(ctx context.Context, f relay.EventFilter) (map[string]int64, error) {
			f.Keys = nil
			return b.good.CountEvents(ctx, f)
		}
	}, []string{"a replay is what its filter selects"}},
	{"a replay has the events that commit after it", onReplayLog(func(l *brokenLog, replay string) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			if page.Done {
				page.Entries = append(page.Entries, relay.Entry{Seq: 99, Event: relay.Replayed(event("after", "a"), replay)})
			}
			return page, err
		}
	}), []string{"what commits late is no part of a replay"}},
	{"a replay never ends", onReplayLog(func(l *brokenLog, _ string) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			page.Done = false
			return page, err
		}
	}), []string{"a replay goes on from its checkpoint", "a replay is what its filter selects"}},
	{"a replay begins anew each time", onReplayLog(func(l *brokenLog, _ string) {
		l.checkpoint = func(context.Context, relay.Position, []relay.Parked) error { return nil }
	}), []string{"a replay goes on from its checkpoint"}},
	{"a replay is done before it is", func(b *backend) {
		b.store.destinations = func(ctx context.Context) ([]relay.Destination, error) {
			list, err := b.good.Destinations(ctx)
			for _, d := range list {
				if d.Replay != nil {
					d.Replay.DoneAt = time.Now()
				}
			}
			return list, err
		}
	}, []string{"a replay goes on from its checkpoint", "a replay is done with its last lane"}},
	{"a parked event loses its mark", onReplayLog(func(l *brokenLog, _ string) {
		l.released = func(ctx context.Context, limit int) ([]relay.Entry, error) {
			entries, err := l.Log.Released(ctx, limit)
			for _, e := range entries {
				delete(e.Event.Headers, relay.HeaderReplay)
			}
			return entries, err
		}
	}), []string{"a replay goes on from its checkpoint"}},
	{"a replay of nothing is created", func(b *backend) {
		b.store.createReplay = func(
			ctx context.Context, name string, f relay.EventFilter, by string,
		) (relay.Destination, error) {
			d, err := b.good.CreateReplay(ctx, name, f, by)
			if errors.Is(err, relay.ErrNothingSelected) {
				return d, b.good.CreateDestination(ctx, name, relay.FromNow())
			}
			return d, err
		}
	}, []string{"a replay of nothing changes nothing"}},
	{"a replay takes an inverted range for all", onFilter(func(f *relay.EventFilter) {
		if f.Since.After(f.Until) {
			f.Since, f.Until = time.Time{}, time.Time{}
		}
	}), []string{"a replay of nothing changes nothing"}},
	{"parked events go with their destination", removes(func(ctx context.Context, good *memstore.Store, name string) {
		_, _ = good.DiscardParked(ctx, relay.ParkedFilter{Destination: name}, "the planted bug")
	}), []string{"a destination in use isn't removed"}},
	{"the last destination is removed", removes(func(ctx context.Context, good *memstore.Store, _ string) {
		_ = good.CreateDestination(ctx, "x", relay.FromNow())
	}), []string{"a destination in use isn't removed"}},
	{"a relay that is alive loses its destination", removes(func(ctx context.Context, good *memstore.Store, name string) {
		_ = good.Leave(ctx, name, "relay", "1")
	}), []string{"a destination in use isn't removed"}},
	{"a removed destination stays in the list", func(b *backend) {
		b.store.removeDestination = func(ctx context.Context, name string) error { return nil }
	}, []string{"a removed destination is forgotten", "a destination in use isn't removed"}},
	{"what one destination discarded, all did", leavesOut(relay.DefaultDestination), []string{"a replay takes what was discarded elsewhere"}},
	{"discards outlive their destination", leavesOut("again"), []string{"a replay takes what was discarded elsewhere"}},
	{"a replay's own discards are forgotten", onLog(func(b *backend, l *brokenLog) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			if page.Done && l.lease.Lane.Of == 1 {
				list, _ := b.good.ParkedActions(ctx, relay.ParkedFilter{Destination: "again"}, 1) // can't fail
				for _, a := range list {
					page.Entries = append(page.Entries, relay.Entry{Seq: a.Seq, Event: surepost.Event{ID: a.EventID}})
				}
			}
			return page, err
		}
	}), []string{"a replay takes what was discarded elsewhere"}},
}

// leavesOut plants that logs pass over what was ever discarded of these destinations.
func leavesOut(destinations ...string) func(*backend) {
	return onLog(func(b *backend, l *brokenLog) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			for _, name := range destinations {
				list, _ := b.good.ParkedActions(ctx, relay.ParkedFilter{Destination: name}, 100) // can't fail
				page.Entries = slices.DeleteFunc(page.Entries, func(e relay.Entry) bool {
					return slices.ContainsFunc(list, func(a relay.ParkedAction) bool { return a.Seq == e.Seq })
				})
			}
			return page, err
		}
	})
}
