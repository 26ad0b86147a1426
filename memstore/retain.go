package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

var (
	_ relay.Retainer = (*Store)(nil)
	_ inbox.Pruner   = (*Store)(nil)
)

// Retain implements relay.Retainer. An event's time in the log begins with its commit, and it goes when that is over.
func (s *Store) Retain(ctx context.Context, r relay.Retention) (report relay.RetentionReport, err error) {
	if r.Keep <= 0 {
		return report, fmt.Errorf("memstore: Retention.Keep is %v: use a positive duration", r.Keep)
	}
	err = s.do(ctx, func() error {
		since := time.Now().Add(-r.Keep)
		old := slices.IndexFunc(s.committed, func(at time.Time) bool { return !at.Before(since) })
		if old < 0 {
			old = len(s.log)
		}
		passed := s.passedByAll(old, &report)
		report.Removed = int64(passed)
		s.removed += passed
		s.log, s.committed = slices.Delete(s.log, 0, passed), slices.Delete(s.committed, 0, passed)
		return nil
	})
	return report, err
}

// passedByAll returns how many of the log's first entries every lane of every destination has passed, and reports who hasn't
// passed all of them. The store is locked.
func (s *Store) passedByAll(first int, report *relay.RetentionReport) (passed int) {
	passed = first
	hold := func(lane relay.Lane, reason string) {
		report.Held = append(report.Held, relay.Holdup{Lane: lane, Reason: reason})
	}
	for name, d := range s.destinations {
		upTo := s.removed + first
		if d.replay != nil {
			upTo = min(upTo, d.replay.entries)
		}
		for i := range d.lanes {
			lane := relay.Lane{Destination: name, Index: i, Of: d.lanes}
			if read := max(s.places[lane].read, s.removed); read < upTo {
				passed = min(passed, read-s.removed)
				hold(lane, fmt.Sprintf("lane %s hasn't passed all old events: run its relay, or remove the destination", lane))
			}
		}
	}
	if len(s.destinations) == 0 && first > 0 {
		hold(relay.Lane{}, "no destination has ever read the log: run a relay")
		return 0
	}
	slices.SortFunc(report.Held, func(a, b relay.Holdup) int {
		return cmp.Or(cmp.Compare(a.Lane.Destination, b.Lane.Destination), cmp.Compare(a.Lane.Index, b.Lane.Index))
	})
	return passed
}

// PruneInbox implements inbox.Pruner. Nothing stays for longer than the window.
func (s *Store) PruneInbox(ctx context.Context, window time.Duration) (report inbox.PruneReport, err error) {
	if window <= 0 {
		return report, fmt.Errorf("memstore: the dedupe window is %v: use a positive duration", window)
	}
	err = s.do(ctx, func() error {
		since := time.Now().Add(-window)
		for r, at := range s.records {
			if at.Before(since) {
				delete(s.records, r)
				report.Removed++
			}
		}
		for r, a := range s.attempts {
			if a.last.Before(since) {
				delete(s.attempts, r)
				report.Attempts++
			}
		}
		return nil
	})
	return report, err
}
