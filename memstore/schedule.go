package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

var (
	_ outbox.Scheduler[*Tx] = (*Store)(nil)
	_ relay.ScheduleStore   = (*Store)(nil)
)

// scheduled is a delayed event.
type scheduled struct {
	n int64 // in the order of writing
	relay.ScheduledEvent
}

func (d *scheduled) copy() relay.ScheduledEvent {
	c := d.ScheduledEvent
	c.Event, _ = clone(c.Event) // its data was marshalled when it was written
	return c
}

func (d *scheduled) lock() lock { return lock{kind: lockScheduled, name: d.Event.ID} }

// Schedule implements outbox.Scheduler. The clock is the process's.
func (s *Store) Schedule(ctx context.Context, tx *Tx, events []surepost.Event) error {
	copies := make([]surepost.Event, len(events))
	for i, e := range events {
		var err error
		if copies[i], err = clone(e); err != nil {
			return err
		}
	}
	return tx.do(ctx, nil, func() {
		now := time.Now()
		for _, e := range copies {
			if e.NotBefore.After(now) {
				s.written++
				tx.delayed = append(tx.delayed, &scheduled{s.written, relay.ScheduledEvent{Event: e, WrittenAt: now.UTC()}})
				continue
			}
			e.NotBefore = time.Time{}
			s.drawn++
			tx.entries = append(tx.entries, relay.Entry{Seq: s.drawn, Event: e})
		}
	})
}

// Cancel implements outbox.Scheduler.
func (s *Store) Cancel(ctx context.Context, tx *Tx, ids []string) (cancelled int, err error) {
	ids = slices.Clone(ids)
	slices.Sort(ids) // in one order, so that nobody waits in a circle
	locks := make([]lock, len(ids))
	for i, id := range ids {
		locks[i] = lock{kind: lockScheduled, name: id}
	}
	err = tx.do(ctx, locks, func() {
		for _, d := range s.schedule {
			if _, found := slices.BinarySearch(ids, d.Event.ID); found && !tx.revoked[d] {
				tx.revoked[d] = true
				cancelled++
			}
		}
		tx.delayed = slices.DeleteFunc(tx.delayed, func(d *scheduled) bool {
			_, found := slices.BinarySearch(ids, d.Event.ID)
			if found {
				cancelled++
			}
			return found
		})
	})
	return cancelled, err
}

// commitSchedule does to the schedule what the transaction did. The store is locked.
func (s *Store) commitSchedule(tx *Tx) {
	s.schedule = slices.DeleteFunc(s.schedule, func(d *scheduled) bool { return tx.revoked[d] })
	s.schedule = append(s.schedule, tx.delayed...)
	slices.SortFunc(s.schedule, func(a, b *scheduled) int {
		return cmp.Or(a.Event.NotBefore.Compare(b.Event.NotBefore), cmp.Compare(a.n, b.n))
	})
}

// MoveDue implements relay.ScheduleStore.
func (s *Store) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	next = relay.NeverDue
	err = s.do(ctx, func() error {
		now := time.Now()
		waits := map[string]bool{} // keys of which an event is being cancelled
		var left []*scheduled
		for i, d := range s.schedule {
			if d.Event.NotBefore.After(now) || moved == limit {
				if next = d.Event.NotBefore.Sub(now); moved == limit {
					next = 0
				}
				left = append(left, s.schedule[i:]...)
				break
			}
			key := d.Event.Key
			if s.locks[d.lock()] != nil || waits[key] {
				waits[key] = key != ""
				left = append(left, d)
				continue
			}
			moved++
			s.drawn++
			event := d.Event
			event.NotBefore = time.Time{}
			s.commit(relay.Entry{Seq: s.drawn, Event: event})
		}
		s.schedule = left
		return nil
	})
	return moved, next, err
}

// Scheduled lists delayed events in the order in which they become due, at most limit.
func (s *Store) Scheduled(
	ctx context.Context, filter relay.ScheduledFilter, limit int,
) (list []relay.ScheduledEvent, err error) {
	err = s.do(ctx, func() error {
		for _, d := range s.schedule {
			if len(list) < limit && selects(filter, d.Event.ID, d.Event.Key, d.Event.Type, d.Event.Source, d.Event.NotBefore) {
				list = append(list, d.copy())
			}
		}
		return nil
	})
	return list, err
}

// CancelScheduled takes delayed events back, and returns how many. Who does so is recorded (Cancellations). Those that an
// open transaction is cancelling are left to it.
func (s *Store) CancelScheduled(ctx context.Context, filter relay.ScheduledFilter, by string) (n int64, err error) {
	if err := operator.Check(by); err != nil {
		return 0, fmt.Errorf("memstore: cancel delayed events: %w", err)
	}
	err = s.do(ctx, func() error {
		s.schedule = slices.DeleteFunc(s.schedule, func(d *scheduled) bool {
			e := d.Event
			if s.locks[d.lock()] != nil || !selects(filter, e.ID, e.Key, e.Type, e.Source, e.NotBefore) {
				return false
			}
			n++
			s.cancellations = append(s.cancellations, relay.Cancellation{
				By: by, At: time.Now().UTC(), EventID: e.ID, Type: e.Type, Key: e.Key, Source: e.Source, NotBefore: e.NotBefore,
			})
			return true
		})
		return nil
	})
	return n, err
}

// Cancellations lists the delayed events that operators took back (CancelScheduled), newest first, at most limit.
func (s *Store) Cancellations(
	ctx context.Context, filter relay.ScheduledFilter, limit int,
) (list []relay.Cancellation, err error) {
	err = s.do(ctx, func() error {
		for _, c := range slices.Backward(s.cancellations) {
			if len(list) < limit && selects(filter, c.EventID, c.Key, c.Type, c.Source, c.NotBefore) {
				list = append(list, c)
			}
		}
		return nil
	})
	return list, err
}

func selects(f relay.ScheduledFilter, id, key, typ, source string, notBefore time.Time) bool {
	return (f.Key == "" || key == f.Key) && (f.Type == "" || typ == f.Type) && (f.Source == "" || source == f.Source) &&
		(len(f.IDs) == 0 || slices.Contains(f.IDs, id)) &&
		(f.Since.IsZero() || !notBefore.Before(f.Since)) && (f.Until.IsZero() || notBefore.Before(f.Until))
}
