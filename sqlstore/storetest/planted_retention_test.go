package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

func init() { bugs = append(bugs, retentionBugs...) }

// brokenRetention are mistakes with what is old; each function, if set, replaces the method of its name.
type brokenRetention struct {
	retain     func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error)
	pruneInbox func(ctx context.Context, window time.Duration) (inbox.PruneReport, error)
}

func (s *broken) Retain(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
	if s.retain != nil {
		return s.retain(ctx, r)
	}
	return s.Store.Retain(ctx, r)
}

func (s *broken) PruneInbox(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
	if s.pruneInbox != nil {
		return s.pruneInbox(ctx, window)
	}
	return s.Store.PruneInbox(ctx, window)
}

// removal is what a mistaken Retain knows of the log.
type removal struct {
	relay.Retention
	log    []relay.Entry              // all that the good store still has
	read   map[string]int64           // by destination: the highest number that it was given
	passed map[relay.Lane]int64       // the highest number before its checkpoint
	events map[string]map[string]bool // by destination: the events that it has passed
}

// removesEvents plants a Retain that says of each event of the log whether it goes, whatever the good store would do.
func removesEvents(goes func(r removal, e relay.Entry) bool) func(*backend) {
	return func(b *backend) {
		var mu sync.Mutex
		gone := map[string]bool{}
		know := removal{read: map[string]int64{}, passed: map[relay.Lane]int64{}, events: map[string]map[string]bool{}}
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			report, err := b.good.Retain(ctx, r)
			if err != nil {
				return report, err
			}
			// A log of nobody's lane begins at the beginning.
			l, err := b.good.Open(ctx, relay.Lease{Lane: relay.Lane{Destination: "the planted bug's", Of: 1}})
			if err != nil {
				return report, err
			}
			page, err := l.Read(ctx, 1_000_000)
			if err != nil {
				return report, err
			}
			mu.Lock()
			defer mu.Unlock()
			know.Retention, know.log = r, page.Entries
			for _, e := range page.Entries {
				if !gone[e.Event.ID] && goes(know, e) {
					gone[e.Event.ID] = true
					report.Removed++
				}
			}
			return report, nil
		}
		b.store.log = func(l *brokenLog) {
			lane := l.lease.Lane
			ends := map[relay.Position]int64{}
			events := map[relay.Position][]string{}
			var all []string
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				page, err := l.Log.Read(ctx, limit)
				mu.Lock()
				defer mu.Unlock()
				page.Entries = slices.DeleteFunc(page.Entries, func(e relay.Entry) bool { return gone[e.Event.ID] })
				for _, e := range page.Entries {
					know.read[lane.Destination] = max(know.read[lane.Destination], e.Seq)
					all = append(all, e.Event.ID)
				}
				if err == nil {
					ends[page.After], events[page.After] = know.read[lane.Destination], slices.Clone(all)
				}
				return page, err
			}
			l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
				err := l.Log.Checkpoint(ctx, at, parked)
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					know.passed[lane] = max(know.passed[lane], ends[at])
					if know.events[lane.Destination] == nil {
						know.events[lane.Destination] = map[string]bool{}
					}
					for _, id := range events[at] {
						know.events[lane.Destination][id] = true
					}
				}
				return err
			}
		}
	}
}

// onRetain plants something that happens beside a good Retain.
func onRetain(also func(ctx context.Context, good *memstore.Store)) func(*backend) {
	return func(b *backend) {
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			also(ctx, b.good)
			return b.good.Retain(ctx, r)
		}
	}
}

// alone returns an error if somebody else is at it. Whoever calls it takes himself off busy in the end.
func alone(busy *atomic.Int32) error {
	if busy.Add(1) > 1 {
		return errors.New("somebody else is at it")
	}
	time.Sleep(soon)
	return nil
}

// retentionBugs are in the order of the promises.
var retentionBugs = []bug{
	{"what one destination has passed goes", removesEvents(func(r removal, e relay.Entry) bool {
		for _, events := range r.events {
			if events[e.Event.ID] {
				return r.Keep == aLittle
			}
		}
		return false
	}), []string{"what a destination hasn't passed isn't removed", "what a lane hasn't passed isn't removed"}},
	{"a destination that has stored nothing doesn't count", removesEvents(func(r removal, e relay.Entry) bool {
		for _, events := range r.events {
			if !events[e.Event.ID] {
				return false
			}
		}
		return r.Keep == aLittle && len(r.log) == 30
	}), []string{"what a destination hasn't passed isn't removed"}},
	{"what was read goes, before it is passed", removesEvents(func(r removal, e relay.Entry) bool {
		for _, highest := range r.read {
			if e.Seq > highest {
				return false
			}
		}
		return len(r.read) > 0
	}), []string{"what a destination hasn't passed isn't removed"}},
	{"nobody is said to be in the way", func(b *backend) {
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			report, err := b.good.Retain(ctx, r)
			report.Held = nil
			return report, err
		}
	}, []string{
		"what a destination hasn't passed isn't removed", "what a lane hasn't passed isn't removed",
		"what a replay has yet to publish isn't removed",
	}},
	{"a lane speaks for the others", removesEvents(func(r removal, e relay.Entry) bool {
		reached := map[string]int64{}
		for lane, seq := range r.passed {
			reached[lane.Destination] = max(reached[lane.Destination], seq)
		}
		return reached["several"] > 0 && e.Seq <= max(reached["several"], 30)
	}), []string{"what a lane hasn't passed isn't removed"}},
	{"a replay doesn't hold its part", removesEvents(func(r removal, e relay.Entry) bool {
		return r.events["again"] != nil && r.events[relay.DefaultDestination][e.Event.ID]
	}), []string{"what a replay has yet to publish isn't removed"}},
	{"everything up to the highest number that was passed goes", removesEvents(func(r removal, e relay.Entry) bool {
		return e.Seq <= r.passed[lane]
	}), []string{"what commits late isn't removed unread"}},
	{"half of the time is enough", func(b *backend) {
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			if r.Keep > time.Millisecond {
				r.Keep /= 2
			}
			return b.good.Retain(ctx, r)
		}
	}, []string{"no event goes before its time"}},
	{"an event is as old as it says", removesEvents(func(r removal, e relay.Entry) bool {
		return r.events[relay.DefaultDestination][e.Event.ID] && time.Since(e.Event.Time) > r.Keep
	}), []string{"no event goes before its time"}},
	{"parked events go with the log", onRetain(func(ctx context.Context, good *memstore.Store) {
		_, _ = good.DiscardParked(ctx, relay.ParkedFilter{Key: "b"}, "the planted bug")
	}), []string{"what is parked or delayed outlasts the log"}},
	{"delayed events go with the log", onRetain(func(ctx context.Context, good *memstore.Store) {
		_, _ = good.CancelScheduled(ctx, relay.ScheduledFilter{}, "the planted bug")
	}), []string{"what is parked or delayed outlasts the log"}},
	{"nothing ever goes", func(b *backend) {
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			return relay.RetentionReport{Removed: 1}, nil
		}
	}, []string{"what is removed is gone, and reading goes on"}},
	{"more is said to be gone than was there", func(b *backend) {
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			report, err := b.good.Retain(ctx, r)
			if report.Removed > 0 {
				report.Removed++
			}
			return report, err
		}
	}, []string{
		"what is removed is gone, and reading goes on", "many who remove at once are in nobody's way",
		"what a destination hasn't passed isn't removed",
	}},
	{"numbers begin anew in an empty log", func(b *backend) {
		var removed atomic.Int64
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			report, err := b.good.Retain(ctx, r)
			removed.Add(report.Removed)
			return report, err
		}
		b.store.log = func(l *brokenLog) {
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				page, err := l.Log.Read(ctx, limit)
				for i := range page.Entries {
					page.Entries[i].Seq -= removed.Load()
				}
				return page, err
			}
		}
	}, []string{"what is removed is gone, and reading goes on"}},
	{"an open log stays where the log was", func(b *backend) {
		var removed atomic.Int64
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			report, err := b.good.Retain(ctx, r)
			removed.Add(report.Removed)
			return report, err
		}
		b.store.log = func(l *brokenLog) {
			opened := removed.Load()
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				if removed.Load() > opened {
					return relay.Page{}, nil
				}
				return l.Log.Read(ctx, limit)
			}
		}
	}, []string{"what is removed is gone, and reading goes on", "removing that was cut off is made up for"}},
	{"the newest goes with the old", removesEvents(func(r removal, e relay.Entry) bool {
		return e.Seq == r.log[len(r.log)-1].Seq
	}), []string{"a relay at work loses nothing to retention", "what a destination hasn't passed isn't removed"}},
	{"one that was cut off leaves a lock behind", func(b *backend) {
		var locked atomic.Bool
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			if ctx.Err() != nil {
				locked.Store(true)
			}
			if locked.Load() {
				return relay.RetentionReport{}, ctx.Err()
			}
			return b.good.Retain(ctx, r)
		}
	}, []string{"removing that was cut off is made up for"}},
	{"one at a time may remove events", func(b *backend) {
		var busy atomic.Int32
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			defer busy.Add(-1)
			if err := alone(&busy); err != nil {
				return relay.RetentionReport{}, err
			}
			return b.good.Retain(ctx, r)
		}
	}, []string{"many who remove at once are in nobody's way", "a relay at work loses nothing to retention"}},
	{"no retention is taken for a short one", func(b *backend) {
		b.store.retain = func(ctx context.Context, r relay.Retention) (relay.RetentionReport, error) {
			r.Keep = max(r.Keep, 1)
			return b.good.Retain(ctx, r)
		}
	}, []string{"a retention that isn't positive is refused"}},

	{"an inbox forgets everything", func(b *backend) {
		b.store.pruneInbox = func(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
			return b.good.PruneInbox(ctx, min(window, time.Nanosecond))
		}
	}, []string{
		"an inbox forgets what is older than the window, and nothing else", "attempts that nobody finished are forgotten in time",
		"copies are told apart while old records go",
	}},
	{"an inbox forgets nothing", func(b *backend) {
		b.store.pruneInbox = func(context.Context, time.Duration) (inbox.PruneReport, error) { return inbox.PruneReport{}, nil }
	}, []string{
		"an inbox forgets what is older than the window, and nothing else", "attempts that nobody finished are forgotten in time",
		"pruning may be cut off, and done by many",
	}},
	{"a window of whole seconds", func(b *backend) {
		b.store.pruneInbox = func(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
			return b.good.PruneInbox(ctx, max(window.Truncate(time.Second), 1))
		}
	}, []string{"an inbox forgets what is older than the window, and nothing else"}},
	{"attempts stay for ever", func(b *backend) {
		b.store.pruneInbox = func(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
			report, err := b.good.PruneInbox(ctx, window)
			for range report.Attempts { // as if they were still there
				_, _ = b.good.StartAttempt(ctx, "c", "old", 9)
			}
			return report, err
		}
	}, []string{"attempts that nobody finished are forgotten in time"}},
	{"attempts are as old as the first", func(b *backend) {
		first := map[string]time.Time{}
		var mu sync.Mutex
		b.store.start = func(ctx context.Context, consumer, id string, limit int) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if _, known := first[id]; !known {
				first[id] = time.Now()
			}
			return b.good.StartAttempt(ctx, consumer, id, limit)
		}
		b.store.pruneInbox = func(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
			mu.Lock()
			defer mu.Unlock()
			for id, at := range first {
				if time.Since(at) > window {
					for _, consumer := range []string{"c", "another"} {
						_ = b.good.ForgetAttempts(ctx, consumer, id)
					}
				}
			}
			return b.good.PruneInbox(ctx, window)
		}
	}, []string{"attempts that nobody finished are forgotten in time"}},
	{"one at a time may prune", func(b *backend) {
		var busy atomic.Int32
		b.store.pruneInbox = func(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
			defer busy.Add(-1)
			if err := alone(&busy); err != nil {
				return inbox.PruneReport{}, err
			}
			return b.good.PruneInbox(ctx, window)
		}
	}, []string{"pruning may be cut off, and done by many"}},
	{"no window is taken for a short one", func(b *backend) {
		b.store.pruneInbox = func(ctx context.Context, window time.Duration) (inbox.PruneReport, error) {
			return b.good.PruneInbox(ctx, max(window, 1))
		}
	}, []string{"a window that isn't positive is refused"}},
}
