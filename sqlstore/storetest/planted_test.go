package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

// bug is a mistake that a store may make, and the promises whose tests must find it.
type bug struct {
	name  string
	plant func(b *backend)
	by    []string
}

// backend is memstore with mistakes: each function replaces the method of its name.
type backend struct {
	Backend[*memstore.Tx]
	good  *memstore.Store
	store *broken
}

type broken struct {
	*memstore.Store
	brokenReplays
	brokenRetention
	append   func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error
	lockKeys func(ctx context.Context, tx *memstore.Tx, keys []string) error
	transact func(ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error) error
	record   func(ctx context.Context, tx *memstore.Tx, consumer, id string) (bool, error)
	start    func(ctx context.Context, consumer, id string, limit int) (int, error)
	finish   func(ctx context.Context, consumer, id, failure string) error
	acquire  func(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error)
	renew    func(ctx context.Context, lease relay.Lease, ttl time.Duration) error
	release  func(ctx context.Context, lease relay.Lease) error
	open     func(ctx context.Context, lease relay.Lease) (relay.Log, error)
	log      func(l *brokenLog) // changes a log that was opened
	parked   func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error)
	join     func(ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration) (relay.Membership, error)
	leave    func(ctx context.Context, destination, owner, instance string) error
	setLanes func(ctx context.Context, destination string, lanes int) error
	discard  func(ctx context.Context, f relay.ParkedFilter, by string) (int64, error)
	retry    func(ctx context.Context, f relay.ParkedFilter, by string) (int64, error)
	actions  func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedAction, error)

	schedule      func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error
	cancel        func(ctx context.Context, tx *memstore.Tx, ids []string) (int, error)
	moveDue       func(ctx context.Context, limit int) (int, time.Duration, error)
	written       func(ctx context.Context, tx *memstore.Tx) ([]surepost.Event, error)
	scheduled     func(ctx context.Context, f relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error)
	revoke        func(ctx context.Context, f relay.ScheduledFilter, by string) (int64, error)
	cancellations func(ctx context.Context, f relay.ScheduledFilter, limit int) ([]relay.Cancellation, error)
}

type brokenLog struct {
	relay.Log
	lease      relay.Lease
	read       func(ctx context.Context, limit int) (relay.Page, error)
	checkpoint func(ctx context.Context, at relay.Position, parked []relay.Parked) error
	parkedKeys func(ctx context.Context) ([]string, error)
	released   func(ctx context.Context, limit int) ([]relay.Entry, error)
	unpark     func(ctx context.Context, done []relay.Entry, again []relay.Parked, keys []string) ([]string, error)
	close      func(ctx context.Context) error
}

// newBackend returns memstore behind functions that are still good.
func newBackend() *backend {
	good := memstore.New()
	s := &broken{
		Store: good, append: good.Append, lockKeys: good.LockKeys, transact: good.Transact, record: good.Record,
		start: good.StartAttempt, finish: good.FinishAttempt, acquire: good.Acquire, renew: good.Renew,
		release: good.Release, open: good.Open, log: func(*brokenLog) {}, parked: good.Parked, discard: good.DiscardParked,
		join: good.Join, leave: good.Leave, setLanes: good.SetLanes,
		retry: good.RetryParked, actions: good.ParkedActions, schedule: good.Schedule, cancel: good.Cancel, moveDue: good.MoveDue,
		written: good.Written, scheduled: good.Scheduled, revoke: good.CancelScheduled, cancellations: good.Cancellations,
	}
	var n atomic.Int64
	return &backend{good: good, store: s, Backend: Backend[*memstore.Tx]{
		Store:    s,
		Begin:    good.Begin,
		Commit:   func(ctx context.Context, tx *memstore.Tx) error { return tx.Commit(ctx) },
		Rollback: func(ctx context.Context, tx *memstore.Tx) error { return tx.Rollback(ctx) },
		Effect: func(ctx context.Context, tx *memstore.Tx, name string) error {
			return tx.Put(ctx, fmt.Sprint(n.Add(1)), name)
		},
		Effects: func(context.Context) (effects []string, err error) {
			for _, key := range good.Rows() {
				effects = append(effects, good.Row(key).(string))
			}
			return effects, nil
		},
	}}
}

func (s *broken) Append(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
	return s.append(ctx, tx, events)
}

func (s *broken) LockKeys(ctx context.Context, tx *memstore.Tx, keys []string) error {
	return s.lockKeys(ctx, tx, keys)
}

func (s *broken) Transact(
	ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error,
) error {
	return s.transact(ctx, consumer, ids, work)
}

func (s *broken) Record(ctx context.Context, tx *memstore.Tx, consumer, id string) (bool, error) {
	return s.record(ctx, tx, consumer, id)
}

func (s *broken) StartAttempt(ctx context.Context, consumer, id string, limit int) (int, error) {
	return s.start(ctx, consumer, id, limit)
}

func (s *broken) FinishAttempt(ctx context.Context, consumer, id, failure string) error {
	return s.finish(ctx, consumer, id, failure)
}

func (s *broken) Acquire(
	ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
) (relay.Lease, error) {
	return s.acquire(ctx, lane, owner, ttl)
}

func (s *broken) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	return s.renew(ctx, lease, ttl)
}

func (s *broken) Release(ctx context.Context, lease relay.Lease) error { return s.release(ctx, lease) }

func (s *broken) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	inner, err := s.open(ctx, lease)
	if err != nil {
		return nil, err
	}
	l := &brokenLog{
		Log: inner, lease: lease, read: inner.Read, checkpoint: inner.Checkpoint, parkedKeys: inner.ParkedKeys,
		released: inner.Released, unpark: inner.Unpark, close: inner.Close,
	}
	s.log(l)
	return l, nil
}

func (s *broken) Parked(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
	return s.parked(ctx, f, limit)
}

func (s *broken) DiscardParked(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
	return s.discard(ctx, f, by)
}

func (s *broken) RetryParked(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
	return s.retry(ctx, f, by)
}

func (s *broken) ParkedActions(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedAction, error) {
	return s.actions(ctx, f, limit)
}

func (s *broken) Schedule(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
	return s.schedule(ctx, tx, events)
}

func (s *broken) Cancel(ctx context.Context, tx *memstore.Tx, ids []string) (int, error) {
	return s.cancel(ctx, tx, ids)
}

func (s *broken) MoveDue(ctx context.Context, limit int) (int, time.Duration, error) {
	return s.moveDue(ctx, limit)
}

func (s *broken) Written(ctx context.Context, tx *memstore.Tx) ([]surepost.Event, error) {
	return s.written(ctx, tx)
}

func (s *broken) Scheduled(ctx context.Context, f relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error) {
	return s.scheduled(ctx, f, limit)
}

func (s *broken) CancelScheduled(ctx context.Context, f relay.ScheduledFilter, by string) (int64, error) {
	return s.revoke(ctx, f, by)
}

func (s *broken) Cancellations(ctx context.Context, f relay.ScheduledFilter, limit int) ([]relay.Cancellation, error) {
	return s.cancellations(ctx, f, limit)
}

func (s *broken) Join(
	ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
) (relay.Membership, error) {
	return s.join(ctx, destination, owner, instance, lanes, ttl)
}

func (s *broken) Leave(ctx context.Context, destination, owner, instance string) error {
	return s.leave(ctx, destination, owner, instance)
}

func (s *broken) SetLanes(ctx context.Context, destination string, lanes int) error {
	return s.setLanes(ctx, destination, lanes)
}

func (l *brokenLog) Read(ctx context.Context, limit int) (relay.Page, error) {
	return l.read(ctx, limit)
}

func (l *brokenLog) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	return l.checkpoint(ctx, at, parked)
}

func (l *brokenLog) ParkedKeys(ctx context.Context) ([]string, error) { return l.parkedKeys(ctx) }

func (l *brokenLog) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	return l.released(ctx, limit)
}

func (l *brokenLog) Unpark(
	ctx context.Context, done []relay.Entry, again []relay.Parked, keys []string,
) ([]string, error) {
	return l.unpark(ctx, done, again, keys)
}

func (l *brokenLog) Close(ctx context.Context) error { return l.close(ctx) }

// onWrite plants a change of every event that is written.
func onWrite(change func(e *surepost.Event)) func(*backend) {
	return func(b *backend) {
		b.store.append = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			changed := slices.Clone(events)
			for i := range changed {
				change(&changed[i])
			}
			return b.good.Append(ctx, tx, changed)
		}
	}
}

// onRead plants a change of every page.
func onRead(change func(l *brokenLog, page *relay.Page)) func(*backend) {
	return func(b *backend) {
		b.store.log = func(l *brokenLog) {
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				page, err := l.Log.Read(ctx, limit)
				if err == nil {
					change(l, &page)
				}
				return page, err
			}
		}
	}
}

// onLog plants a change of every log that is opened.
func onLog(change func(b *backend, l *brokenLog)) func(*backend) {
	return func(b *backend) { b.store.log = func(l *brokenLog) { change(b, l) } }
}

// soon is long enough for other goroutines to get in between.
const soon = time.Millisecond

// bugs are in the order of the promises.
var bugs = []bug{
	{"times to the millisecond", onWrite(func(e *surepost.Event) { e.Time = e.Time.Truncate(time.Millisecond) }),
		[]string{"an event comes out as it went in"}},
	{"names without trailing spaces", onWrite(func(e *surepost.Event) { e.Key = strings.TrimRight(e.Key, " ") }),
		[]string{"an event comes out as it went in"}},
	{"names in lower case", onWrite(func(e *surepost.Event) { e.Source = strings.ToLower(e.Source) }),
		[]string{"an event comes out as it went in"}},
	{"JSON made tidy", onWrite(func(e *surepost.Event) {
		var b bytes.Buffer
		raw, _ := e.RawData() // valid, as the suite's events are
		_ = json.Compact(&b, raw)
		e.Data = json.RawMessage(b.Bytes())
	}), []string{"an event comes out as it went in"}},
	{"data cut at 64 KiB", onWrite(func(e *surepost.Event) {
		if raw, _ := e.RawData(); len(raw) > 1<<16 {
			e.Data = raw[:1<<16]
		}
	}), []string{"large events are written whole"}},
	{"a call's events the other way round", func(b *backend) {
		b.store.append = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			turned := slices.Clone(events)
			slices.Reverse(turned)
			return b.good.Append(ctx, tx, turned)
		}
	}, []string{"the events of a transaction keep their order"}},
	{"events written in a transaction of their own", func(b *backend) {
		b.store.append = func(ctx context.Context, _ *memstore.Tx, events []surepost.Event) error {
			return b.good.Do(ctx, func(tx *memstore.Tx) error { return b.good.Append(ctx, tx, events) })
		}
	}, []string{
		"what rolls back was never there", "what isn't committed isn't read", "an effect and its event share their fate",
		"the work's events share its fate", "random interleavings lose and repeat nothing",
	}},
	{"each store for itself", func(b *backend) { b.store.Store = memstore.New(); b.store.open = b.store.Store.Open },
		[]string{"every store of the database reads it"}},
	{"keys aren't locked", func(b *backend) {
		b.store.lockKeys = func(context.Context, *memstore.Tx, []string) error { return nil }
	}, []string{"a writer waits for a locked key"}},
	{"keys locked in any order", func(b *backend) {
		b.store.lockKeys = func(ctx context.Context, tx *memstore.Tx, keys []string) error {
			for _, i := range rand.Perm(len(keys)) {
				if err := b.good.LockKeys(ctx, tx, keys[i:i+1]); err != nil {
					return err
				}
				time.Sleep(soon)
			}
			return nil
		}
	}, []string{"writers that lock many keys don't wait in a circle"}},
	{"not safe for many goroutines", func(b *backend) {
		var writing atomic.Int32
		b.store.append = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			defer writing.Add(-1)
			if writing.Add(1) > 1 {
				return nil
			}
			time.Sleep(soon)
			return b.good.Append(ctx, tx, events)
		}
	}, []string{"many write at the same time"}},
	{"a write that was cancelled went well", func(b *backend) {
		b.store.append = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			if ctx.Err() != nil {
				return nil
			}
			return b.good.Append(ctx, tx, events)
		}
	}, []string{"a cancelled write is an error"}},

	{"a cursor of seq > last", func(b *backend) {
		b.store.log = func(l *brokenLog) {
			var last int64
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				page, err := l.Log.Read(ctx, limit)
				page.Entries = slices.DeleteFunc(page.Entries, func(e relay.Entry) bool { return e.Seq <= last })
				for _, e := range page.Entries {
					last = e.Seq
				}
				return page, err
			}
		}
	}, []string{
		"what commits late isn't skipped", "many late events come in pages", "random interleavings lose and repeat nothing",
		"an open transaction holds up nobody",
	}},
	{"pages the other way round", onRead(func(_ *brokenLog, page *relay.Page) { slices.Reverse(page.Entries) }),
		[]string{"random interleavings lose and repeat nothing", "pages repeat and skip nothing"}},
	{"stragglers aren't counted", onRead(func(_ *brokenLog, page *relay.Page) { page.Stragglers = 0 }),
		[]string{"what commits late isn't skipped", "random interleavings lose and repeat nothing"}},
	{"an event is lost now and then", onRead(func(_ *brokenLog, page *relay.Page) {
		page.Entries = slices.DeleteFunc(page.Entries, func(e relay.Entry) bool { return e.Seq%20 == 7 })
	}), []string{"writing and reading at once keeps each key's order", "random interleavings lose and repeat nothing"}},
	{"reads as far as the oldest open transaction", func(b *backend) {
		var open atomic.Int32
		b.Begin = func(ctx context.Context) (*memstore.Tx, error) { open.Add(1); return b.good.Begin(ctx) }
		b.Commit = func(ctx context.Context, tx *memstore.Tx) error { open.Add(-1); return tx.Commit(ctx) }
		b.store.log = func(l *brokenLog) {
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				if open.Load() > 0 {
					return relay.Page{}, nil
				}
				return l.Log.Read(ctx, limit)
			}
		}
	}, []string{"an open transaction holds up nobody"}},
	{"never more than one page", onRead(func(_ *brokenLog, page *relay.Page) { page.Full = false }),
		[]string{"pages repeat and skip nothing"}},
	{"pages of any size", func(b *backend) {
		b.store.log = func(l *brokenLog) {
			l.read = func(ctx context.Context, limit int) (relay.Page, error) { return l.Log.Read(ctx, 2*limit) }
		}
	}, []string{"pages repeat and skip nothing"}},
	{"the next number taken for one that was drawn", func(b *backend) {
		b.store.log = func(l *brokenLog) {
			skip := false
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				page, err := l.Log.Read(ctx, limit)
				if skip && len(page.Entries) > 0 {
					page.Entries, skip = page.Entries[1:], false
				} else if len(page.Entries) == 0 {
					skip = true
				}
				return page, err
			}
		}
	}, []string{"an empty page is a place too"}},
	{"readers share their memory", func(b *backend) {
		var mu sync.Mutex
		shared := map[int64]relay.Entry{}
		onRead(func(_ *brokenLog, page *relay.Page) {
			mu.Lock()
			defer mu.Unlock()
			for i, e := range page.Entries {
				if had, ok := shared[e.Seq]; ok {
					page.Entries[i] = had
				} else {
					shared[e.Seq] = e
				}
			}
		})(b)
	}, []string{"what was read can't be changed"}},
	{"an end of the context taken for a lost lease", func(b *backend) {
		b.store.renew = func(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
			if b.good.Renew(ctx, lease, ttl) != nil {
				return relay.ErrLeaseLost
			}
			return nil
		}
	}, []string{"a context that ends isn't a lost lease"}},
	{"a second close is another's", func(b *backend) {
		var open atomic.Int32
		b.store.log = func(l *brokenLog) {
			open.Add(1)
			l.close = func(context.Context) error { open.Add(-1); return nil }
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				if open.Load() < 1 {
					return relay.Page{}, errors.New("closed")
				}
				return l.Log.Read(ctx, limit)
			}
		}
	}, []string{"a log can be closed twice"}},
	{"a lane has one cursor in memory", func(b *backend) {
		var shared relay.Log
		b.store.open = func(ctx context.Context, lease relay.Lease) (l relay.Log, err error) {
			if shared == nil {
				shared, err = b.good.Open(ctx, lease)
			}
			return shared, err
		}
	}, []string{"logs don't disturb each other"}},

	{"checkpoints aren't stored", onLog(func(_ *backend, l *brokenLog) {
		l.checkpoint = func(context.Context, relay.Position, []relay.Parked) error { return nil }
	}), []string{"a log goes on at its checkpoint", "take-overs never go back"}},
	{"acknowledged when read", onLog(func(_ *backend, l *brokenLog) {
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			if err != nil {
				return page, err
			}
			return page, l.Log.Checkpoint(ctx, page.After, nil)
		}
	}), []string{"without a checkpoint everything comes again", "random interleavings lose and repeat nothing"}},
	{"opened again behind what was read", func(b *backend) {
		var mu sync.Mutex
		read := 0
		b.store.log = func(l *brokenLog) {
			mu.Lock()
			_, _ = l.Log.Read(context.Background(), read) // can't fail
			mu.Unlock()
			l.read = func(ctx context.Context, limit int) (relay.Page, error) {
				page, err := l.Log.Read(ctx, limit)
				mu.Lock()
				read += len(page.Entries)
				mu.Unlock()
				return page, err
			}
		}
	}, []string{"without a checkpoint everything comes again", "a checkpoint passes nothing that was read after it"}},
	{"a checkpoint of the newest place", onLog(func(_ *backend, l *brokenLog) {
		var newest relay.Position
		l.read = func(ctx context.Context, limit int) (relay.Page, error) {
			page, err := l.Log.Read(ctx, limit)
			newest = page.After
			return page, err
		}
		l.checkpoint = func(ctx context.Context, _ relay.Position, parked []relay.Parked) error {
			return l.Log.Checkpoint(ctx, newest, parked)
		}
	}), []string{"a checkpoint passes nothing that was read after it", "random interleavings lose and repeat nothing"}},
	{"the epoch is forgotten", func(b *backend) {
		var newest atomic.Pointer[brokenLog]
		b.store.log = func(l *brokenLog) {
			if n := newest.Load(); n == nil || l.lease.Epoch >= n.lease.Epoch {
				newest.Store(l)
			}
			l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
				time.Sleep(soon / 4) // so that two owners meet
				return newest.Load().Log.Checkpoint(ctx, at, parked)
			}
			l.unpark = func(ctx context.Context, e []relay.Entry, p []relay.Parked, keys []string) ([]string, error) {
				return newest.Load().Log.Unpark(ctx, e, p, keys)
			}
		}
	}, []string{
		"a lost lease stores no checkpoint", "of two owners one stores checkpoints", "a lost lease unparks nothing",
	}},
	{"parked before the epoch is looked at", func(b *backend) {
		b.store.log = func(l *brokenLog) {
			l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
				own, err := b.good.Acquire(ctx, relay.Lane{Destination: "back door", Of: 1}, "x", time.Hour)
				if err != nil {
					return err
				}
				door, err := b.good.Open(ctx, own)
				if err == nil {
					err = door.Checkpoint(ctx, at, parked)
				}
				if err != nil {
					return err
				}
				return l.Log.Checkpoint(ctx, at, parked)
			}
		}
		b.store.parked = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
			f.Destination = "back door"
			return b.good.Parked(ctx, f, limit)
		}
	}, []string{"a lost lease stores no checkpoint"}},
	{"parked events of all destinations", func(b *backend) {
		b.store.parked = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
			f.Destination = ""
			return b.good.Parked(ctx, f, limit)
		}
	}, []string{"destinations have places of their own"}},
	{"declared and not refused", func(b *backend) { b.OneDestination, b.OneLane = true, true },
		[]string{"destinations have places of their own", "lanes share the log without overlap"}},
	{"a lane reads every slot", func(b *backend) {
		b.store.open = func(ctx context.Context, lease relay.Lease) (relay.Log, error) {
			lease.Lane.Index, lease.Lane.Of = 0, 1
			return b.good.Open(ctx, lease)
		}
	}, []string{"lanes share the log without overlap"}},
	{"declared one writer and lets in many", func(b *backend) { b.OneWriter = true },
		[]string{"what commits late isn't skipped", "many late events come in pages"}},

	{"a lease for everybody", func(b *backend) {
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			lease, err := b.good.Acquire(ctx, lane, owner, ttl)
			var held *relay.LeaseHeldError
			if errors.As(err, &held) {
				return b.good.Acquire(ctx, lane, held.Owner, ttl)
			}
			return lease, err
		}
	}, []string{"a lease is held against others", "of many who ask one gets the lease"}},
	{"a lease of half its time", func(b *backend) {
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			return b.good.Acquire(ctx, lane, owner, ttl/2)
		}
	}, []string{"a lease runs out, and no sooner"}},
	{"a lease that never ends", func(b *backend) {
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, _ time.Duration,
		) (relay.Lease, error) {
			return b.good.Acquire(ctx, lane, owner, time.Hour)
		}
	}, []string{"a lease runs out, and no sooner"}},
	{"an owner waits for its own lease", func(b *backend) {
		var n atomic.Int64
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			return b.good.Acquire(ctx, lane, fmt.Sprint(owner, n.Add(1)), ttl)
		}
	}, []string{"an owner takes its own lease again"}},
	{"a renewal changes nothing", func(b *backend) {
		b.store.renew = func(context.Context, relay.Lease, time.Duration) error { return nil }
	}, []string{"a renewed lease stays", "a lost lease can't be renewed"}},
	{"a renewal adds to what is left", func(b *backend) {
		b.store.renew = func(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
			return b.good.Renew(ctx, lease, 2*ttl)
		}
	}, []string{"a renewed lease stays"}},
	{"a lost lease is renewed", func(b *backend) {
		b.store.renew = func(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
			if err := b.good.Renew(ctx, lease, ttl); !errors.Is(err, relay.ErrLeaseLost) {
				return err
			}
			return nil
		}
	}, []string{"a lost lease can't be renewed"}},
	{"a released lease stays", func(b *backend) {
		b.store.release = func(context.Context, relay.Lease) error { return nil }
	}, []string{"a released lease is free at once"}},
	{"a release ends whose lease it is", func(b *backend) {
		b.store.release = func(ctx context.Context, lease relay.Lease) error {
			for lease.Epoch = range int64(20) {
				for _, lease.Owner = range []string{"old", "new"} {
					if err := b.good.Release(ctx, lease); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}, []string{"releasing a lost lease does nothing"}},
	{"a lease that ran out is taken for lost", func(b *backend) {
		var mu sync.Mutex
		ends := map[int64]time.Time{}
		b.store.acquire = func(
			ctx context.Context, lane relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			lease, err := b.good.Acquire(ctx, lane, owner, ttl)
			mu.Lock()
			ends[lease.Epoch] = time.Now().Add(ttl)
			mu.Unlock()
			return lease, err
		}
		b.store.log = func(l *brokenLog) {
			l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
				mu.Lock()
				late := time.Now().After(ends[l.lease.Epoch])
				mu.Unlock()
				if late {
					return relay.ErrLeaseLost
				}
				return l.Log.Checkpoint(ctx, at, parked)
			}
		}
	}, []string{"a lease that nobody took is still good"}},
	{"one lease for all lanes", func(b *backend) {
		b.store.acquire = func(
			ctx context.Context, _ relay.Lane, owner string, ttl time.Duration,
		) (relay.Lease, error) {
			return b.good.Acquire(ctx, lane, owner, ttl)
		}
	}, []string{"lanes are leased apart"}},
	{"a renewal waits for the log to be closed", func(b *backend) {
		var open sync.RWMutex
		b.store.log = func(l *brokenLog) {
			open.RLock()
			unlock := sync.OnceFunc(open.RUnlock)
			l.close = func(context.Context) error { unlock(); return nil }
		}
		b.store.renew = func(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
			for !open.TryLock() {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				time.Sleep(soon)
			}
			defer open.Unlock()
			return b.good.Renew(ctx, lease, ttl)
		}
	}, []string{"renewals don't wait for the log"}},

	{"reasons cut short", onLog(func(_ *backend, l *brokenLog) {
		l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
			short := slices.Clone(parked)
			for i := range short {
				short[i].Reason = short[i].Reason[:min(len(short[i].Reason), 20)]
			}
			return l.Log.Checkpoint(ctx, at, short)
		}
	}), []string{"a parked event is kept as it was"}},
	{"parked after the checkpoint", onLog(func(_ *backend, l *brokenLog) {
		l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
			if err := l.Log.Checkpoint(ctx, at, nil); err != nil {
				return err
			}
			time.Sleep(soon)
			return l.Log.Checkpoint(ctx, at, parked)
		}
	}), []string{"parking is stored with its checkpoint or not at all"}},
	{"parked keys in lower case", onLog(func(_ *backend, l *brokenLog) {
		l.parkedKeys = func(ctx context.Context) ([]string, error) {
			keys, err := l.Log.ParkedKeys(ctx)
			for i := range keys {
				keys[i] = strings.ToLower(keys[i])
			}
			return keys, err
		}
	}), []string{"parked keys are known to the next relay"}},
	{"everything parked is released", releasing(func(relay.ParkedEvent) bool { return true }),
		[]string{"nothing is released unasked"}},
	{"released without those before", releasing(func(p relay.ParkedEvent) bool { return p.Retrying }),
		[]string{"nothing is released before an earlier event of its key", "a retried event is released with what waits behind it"}},
	{"released the other way round", onLog(func(_ *backend, l *brokenLog) {
		l.released = func(ctx context.Context, limit int) ([]relay.Entry, error) {
			entries, err := l.Log.Released(ctx, limit)
			slices.Reverse(entries)
			return entries, err
		}
	}), []string{"a retried event is released with what waits behind it", "what is released comes up to the limit"}},
	{"released without a limit", onLog(func(_ *backend, l *brokenLog) {
		l.released = func(ctx context.Context, _ int) ([]relay.Entry, error) { return l.Log.Released(ctx, 1000) }
	}), []string{"what is released comes up to the limit"}},
	{"discarding takes the key's other events too", func(b *backend) {
		b.store.discard = func(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
			list, err := b.good.Parked(ctx, f, 1)
			if err == nil && len(list) == 1 && list[0].Event.Key != "" {
				return b.good.DiscardParked(ctx, relay.ParkedFilter{Key: list[0].Event.Key}, by)
			}
			return b.good.DiscardParked(ctx, f, by)
		}
	}, []string{"a discarded event frees what waits behind it"}},
	{"published events stay parked", onLog(func(_ *backend, l *brokenLog) {
		l.unpark = func(ctx context.Context, _ []relay.Entry, p []relay.Parked, keys []string) ([]string, error) {
			return l.Log.Unpark(ctx, nil, p, keys)
		}
	}),
		[]string{"unparking removes what was published"}},
	{"what failed again isn't parked anew", onLog(func(_ *backend, l *brokenLog) {
		l.unpark = func(ctx context.Context, e []relay.Entry, _ []relay.Parked, keys []string) ([]string, error) {
			return l.Log.Unpark(ctx, e, nil, keys)
		}
	}),
		[]string{"an event that fails again is parked anew"}},
	{"every key is clear", onLog(func(_ *backend, l *brokenLog) {
		l.unpark = func(ctx context.Context, e []relay.Entry, p []relay.Parked, keys []string) ([]string, error) {
			_, err := l.Log.Unpark(ctx, e, p, keys)
			return keys, err
		}
	}), []string{"unparking tells which keys are clear"}},
	{"the filter's type is ignored", func(b *backend) {
		b.store.discard = func(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
			f.Type = ""
			return b.good.DiscardParked(ctx, f, by)
		}
	}, []string{"an operator selects parked events"}},

	{"one operator at a time, or an error", func(b *backend) {
		var busy atomic.Int32
		b.store.parked = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
			defer busy.Add(-1)
			if busy.Add(1) > 1 {
				return nil, errors.New("busy")
			}
			time.Sleep(soon)
			return b.good.Parked(ctx, f, limit)
		}
	}, []string{"operators and the relay work at the same time"}},

	{"discarding isn't recorded", func(b *backend) {
		b.store.actions = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedAction, error) {
			list, err := b.good.ParkedActions(ctx, f, limit)
			return slices.DeleteFunc(list, func(a relay.ParkedAction) bool { return a.Action == relay.ParkedDiscard }), err
		}
	}, []string{"what an operator does to parked events is recorded"}},
	{"recorded by nobody in particular", func(b *backend) {
		b.store.retry = func(ctx context.Context, f relay.ParkedFilter, _ string) (int64, error) {
			return b.good.RetryParked(ctx, f, "operator")
		}
	}, []string{"what an operator does to parked events is recorded", "nobody acts without a name"}},
	{"what was asked for is recorded, not what changed", func(b *backend) {
		var asked []relay.ParkedAction
		b.store.retry = func(ctx context.Context, f relay.ParkedFilter, by string) (int64, error) {
			for _, id := range f.IDs {
				asked = append(asked, relay.ParkedAction{Action: relay.ParkedRetry, EventID: id, By: by})
			}
			return b.good.RetryParked(ctx, f, by)
		}
		b.store.actions = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedAction, error) {
			list, err := b.good.ParkedActions(ctx, f, limit)
			list = slices.DeleteFunc(list, func(a relay.ParkedAction) bool { return a.Action == relay.ParkedRetry })
			return append(list, asked...), err
		}
	}, []string{"what changes nothing isn't recorded"}},
	{"the reason is a pattern of LIKE", func(b *backend) {
		b.store.parked = func(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
			pattern := regexp.QuoteMeta(f.Reason)
			f.Reason = ""
			list, err := b.good.Parked(ctx, f, limit)
			like := regexp.MustCompile(strings.NewReplacer("%", ".*", "_", ".").Replace(pattern))
			return slices.DeleteFunc(list, func(p relay.ParkedEvent) bool { return !like.MatchString(p.Reason) }), err
		}
	}, []string{"a part of the reason selects parked events, literally"}},

	{"delayed events are written at once", func(b *backend) { b.store.schedule = b.good.Append },
		[]string{"a delayed event isn't published early", "a delayed event can be cancelled"}},
	{"due by a writer's clock that is ahead", func(b *backend) {
		b.store.schedule = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			early := slices.Clone(events)
			for i := range early {
				if !early[i].NotBefore.IsZero() {
					early[i].NotBefore = early[i].NotBefore.Add(-300 * time.Millisecond)
				}
			}
			return b.good.Schedule(ctx, tx, early)
		}
	}, []string{"a delayed event isn't published early"}},
	{"delayed events lose their headers", func(b *backend) {
		b.store.schedule = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			bare := slices.Clone(events)
			for i := range bare {
				bare[i].Headers = nil
			}
			return b.good.Schedule(ctx, tx, bare)
		}
	}, []string{"a delayed event comes out as it went in"}},
	{"whatever has a NotBefore is delayed", func(b *backend) {
		b.store.schedule = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			later := slices.Clone(events)
			for i := range later {
				if at := time.Now().Add(time.Minute); !later[i].NotBefore.IsZero() && later[i].NotBefore.Before(at) {
					later[i].NotBefore = at
				}
			}
			return b.good.Schedule(ctx, tx, later)
		}
	}, []string{"what is due already isn't delayed"}},
	{"moved in the order of writing", func(b *backend) {
		b.store.schedule = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			coarse := slices.Clone(events)
			for i := range coarse {
				coarse[i].NotBefore = coarse[i].NotBefore.Truncate(time.Millisecond)
			}
			return b.good.Schedule(ctx, tx, coarse)
		}
	}, []string{"delayed events enter the log in the order in which they are due"}},
	{"all that is due is moved at once", func(b *backend) {
		b.store.moveDue = func(ctx context.Context, _ int) (int, time.Duration, error) { return b.good.MoveDue(ctx, 1000) }
	}, []string{"delayed events enter the log in the order in which they are due"}},
	{"moved into the log first, out of the schedule later", func(b *backend) {
		b.store.moveDue = func(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
			due, err := b.good.Scheduled(ctx, relay.ScheduledFilter{Until: time.Now()}, limit)
			time.Sleep(soon)
			for _, d := range due {
				d.Event.NotBefore = time.Time{}
				err = errors.Join(err, b.good.Do(ctx, func(tx *memstore.Tx) error {
					return b.good.Append(ctx, tx, []surepost.Event{d.Event})
				}))
			}
			for _, d := range due {
				err = errors.Join(err, b.good.Do(ctx, func(tx *memstore.Tx) error {
					_, err := b.good.Cancel(ctx, tx, []string{d.Event.ID})
					return err
				}))
			}
			return len(due), 0, err
		}
	}, []string{"a delayed event is moved once, however many move it", "an event is moved or cancelled, never both"}},
	{"delayed in a transaction of its own", func(b *backend) {
		b.store.schedule = func(ctx context.Context, _ *memstore.Tx, events []surepost.Event) error {
			return b.good.Do(ctx, func(tx *memstore.Tx) error { return b.good.Schedule(ctx, tx, events) })
		}
	}, []string{"a delayed event shares the fate of its transaction", "a transaction is told what it has delayed"}},
	{"cancelled in a transaction of its own", func(b *backend) {
		b.store.cancel = func(ctx context.Context, _ *memstore.Tx, ids []string) (n int, err error) {
			err = b.good.Do(ctx, func(tx *memstore.Tx) (err error) {
				n, err = b.good.Cancel(ctx, tx, ids)
				return err
			})
			return n, err
		}
	}, []string{"a delayed event can be cancelled", "what is being cancelled holds up nothing but its key"}},
	{"counts what was there before it cancelled", func(b *backend) {
		b.store.cancel = func(ctx context.Context, tx *memstore.Tx, ids []string) (int, error) {
			list, err := b.good.Scheduled(ctx, relay.ScheduledFilter{IDs: ids}, 1000)
			if err != nil {
				return 0, err
			}
			time.Sleep(soon)
			_, err = b.good.Cancel(ctx, tx, ids)
			return len(list), err
		}
	}, []string{"an event is moved or cancelled, never both"}},
	{"later events of the key pass one that is being cancelled", func(b *backend) {
		b.store.schedule = func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
			keyless := slices.Clone(events)
			for i := range keyless {
				keyless[i].Key = ""
			}
			return b.good.Schedule(ctx, tx, keyless)
		}
	}, []string{"what is being cancelled holds up nothing but its key"}},
	{"what is delayed isn't seen in its transaction", func(b *backend) {
		b.store.written = func(ctx context.Context, tx *memstore.Tx) ([]surepost.Event, error) {
			written, err := b.good.Written(ctx, tx)
			return slices.DeleteFunc(written, func(e surepost.Event) bool { return !e.NotBefore.IsZero() }), err
		}
	}, []string{"a transaction is told what it has delayed"}},
	{"Until is included", func(b *backend) {
		b.store.scheduled = func(ctx context.Context, f relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error) {
			if !f.Until.IsZero() {
				f.Until = f.Until.Add(time.Microsecond)
			}
			return b.good.Scheduled(ctx, f, limit)
		}
	}, []string{"an operator selects delayed events"}},
	{"cancellations are listed oldest first", func(b *backend) {
		b.store.cancellations = func(ctx context.Context, f relay.ScheduledFilter, limit int) ([]relay.Cancellation, error) {
			list, err := b.good.Cancellations(ctx, f, limit)
			slices.Reverse(list)
			return list, err
		}
	}, []string{"an operator's cancelling is recorded"}},
	{"cancelled without a record", func(b *backend) {
		b.store.revoke = func(ctx context.Context, f relay.ScheduledFilter, _ string) (n int64, err error) {
			list, err := b.good.Scheduled(ctx, f, 1000)
			if err != nil {
				return 0, err
			}
			err = b.good.Do(ctx, func(tx *memstore.Tx) error {
				for _, d := range list {
					m, err := b.good.Cancel(ctx, tx, []string{d.Event.ID})
					if n += int64(m); err != nil {
						return err
					}
				}
				return nil
			})
			return n, err
		}
	}, []string{"an operator's cancelling is recorded", "nobody acts without a name"}},

	{"deduped without the consumer's name", func(b *backend) {
		b.store.transact = func(ctx context.Context, _ string, ids []string, work func(*memstore.Tx, []bool) error) error {
			return b.good.Transact(ctx, "", ids, work)
		}
	}, []string{"an event is handled once per consumer", "different events don't wait for each other"}},
	{"handled as often as it comes", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			return b.good.Transact(ctx, c, ids, func(tx *memstore.Tx, first []bool) error {
				return work(tx, slices.Repeat([]bool{true}, len(ids)))
			})
		}
	}, []string{"an event is handled once per consumer"}},
	{"ids in lower case", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			lower := slices.Clone(ids)
			for i := range lower {
				lower[i] = strings.ToLower(lower[i])
			}
			return b.good.Transact(ctx, c, lower, work)
		}
	}, []string{"events and consumers are told apart byte by byte"}},
	{"committed although the work failed", func(b *backend) {
		b.store.transact = func(
			ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error,
		) (failed error) {
			err := b.good.Transact(ctx, c, ids, func(tx *memstore.Tx, first []bool) error {
				failed = work(tx, first)
				return nil
			})
			return errors.Join(failed, err)
		}
	}, []string{"work that fails leaves nothing"}},
	{"the work's error wrapped", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			if err := b.good.Transact(ctx, c, ids, work); err != nil {
				return fmt.Errorf("transact: %w", err)
			}
			return nil
		}
	}, []string{"work that fails leaves nothing"}},
	{"committed although the work panicked", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			tx, err := b.good.Begin(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = tx.Commit(ctx) }() // ended already, unless work panicked
			first := make([]bool, len(ids))
			for i, id := range ids {
				if first[i], err = b.good.Record(ctx, tx, c, id); err != nil {
					return errors.Join(err, tx.Rollback(ctx))
				}
			}
			if err := work(tx, first); err != nil {
				_ = tx.Rollback(ctx)
				return err
			}
			return tx.Commit(ctx)
		}
	}, []string{"work that panics leaves nothing"}},
	{"recorded in a transaction of its own", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			var first []bool
			err := b.good.Transact(ctx, c, ids, func(_ *memstore.Tx, f []bool) error { first = f; return nil })
			if err != nil {
				return err
			}
			return b.good.Do(ctx, func(tx *memstore.Tx) error { return work(tx, first) })
		}
	}, []string{
		"work that fails leaves nothing", "the record and the effect share their fate",
		"a second copy waits and finds the work done", "a second copy works if the first fails",
	}},
	{"recorded after the work", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			var seen []bool
			err := b.good.Transact(ctx, c, ids, func(_ *memstore.Tx, f []bool) error { seen = f; return errGiveUp })
			if err != errGiveUp {
				return err
			}
			return b.good.Do(ctx, func(tx *memstore.Tx) error {
				time.Sleep(soon)
				if err := work(tx, seen); err != nil {
					return err
				}
				for _, id := range ids {
					if _, err := b.good.Record(ctx, tx, c, id); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}, []string{"copies at the same moment have one effect", "a second copy waits and finds the work done"}},
	{"waits without end", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			return b.good.Transact(context.WithoutCancel(ctx), c, ids, work)
		}
	}, []string{"a second copy stops waiting when its context ends"}},
	{"one event at a time", func(b *backend) {
		var mu sync.Mutex
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			mu.Lock()
			defer mu.Unlock()
			return b.good.Transact(ctx, c, ids, work)
		}
	}, []string{"different events don't wait for each other"}},
	{"a batch's answers in the order of recording", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			return b.good.Transact(ctx, c, slices.Sorted(slices.Values(ids)), work)
		}
	}, []string{"a batch is told which events are new"}},
	{"a batch recorded in its own order", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			return b.good.Do(ctx, func(tx *memstore.Tx) (err error) {
				first := make([]bool, len(ids))
				for i, id := range ids {
					if first[i], err = b.good.Record(ctx, tx, c, id); err != nil {
						return err
					}
					time.Sleep(soon / 10)
				}
				return work(tx, first)
			})
		}
	}, []string{"batches that overlap don't wait in a circle"}},
	{"a failed commit goes unnoticed", func(b *backend) {
		b.store.transact = func(ctx context.Context, c string, ids []string, work func(*memstore.Tx, []bool) error) error {
			worked := false
			err := b.good.Transact(ctx, c, ids, func(tx *memstore.Tx, first []bool) error {
				err := work(tx, first)
				worked = err == nil
				return err
			})
			if worked {
				return nil
			}
			return err
		}
	}, []string{"a commit that fails is an error"}},
	{"a record that the caller can't roll back", func(b *backend) {
		b.store.record = func(ctx context.Context, _ *memstore.Tx, consumer, id string) (first bool, err error) {
			err = b.good.Do(ctx, func(tx *memstore.Tx) (err error) {
				first, err = b.good.Record(ctx, tx, consumer, id)
				return err
			})
			return first, err
		}
	}, []string{"a record in the caller's transaction shares its fate"}},

	{"attempts without a limit", func(b *backend) {
		b.store.start = func(ctx context.Context, consumer, id string, _ int) (int, error) {
			return b.good.StartAttempt(ctx, consumer, id, 1<<30)
		}
	}, []string{"attempts are counted started and finished"}},
	{"attempts of all consumers together", func(b *backend) {
		b.store.start = func(ctx context.Context, _, id string, limit int) (int, error) {
			return b.good.StartAttempt(ctx, "", id, limit)
		}
	}, []string{"attempts are counted for each consumer and event"}},
	{"attempts read, then written", func(b *backend) {
		b.store.start = func(ctx context.Context, consumer, id string, limit int) (int, error) {
			before, err := b.good.StartAttempt(ctx, consumer, id, 0)
			if err != nil || before >= limit {
				return before, err
			}
			time.Sleep(soon)
			_, err = b.good.StartAttempt(ctx, consumer, id, 1<<30)
			return before, err
		}
	}, []string{"attempts at the same moment are all counted"}},
	{"a failure that isn't UTF-8 is an error", func(b *backend) {
		b.store.finish = func(ctx context.Context, consumer, id, failure string) error {
			if strings.ToValidUTF8(failure, "") != failure {
				return errors.New("invalid byte sequence")
			}
			return b.good.FinishAttempt(ctx, consumer, id, failure)
		}
	}, []string{"any failure can be noted"}},
}

// releasing plants that whatever is chosen is released.
func releasing(chosen func(relay.ParkedEvent) bool) func(*backend) {
	return onLog(func(b *backend, l *brokenLog) {
		l.released = func(ctx context.Context, limit int) (entries []relay.Entry, err error) {
			list, err := b.good.Parked(ctx, relay.ParkedFilter{}, limit)
			for _, p := range list {
				if chosen(p) {
					entries = append(entries, p.Entry)
				}
			}
			return entries, err
		}
	})
}
