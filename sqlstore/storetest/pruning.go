package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// pruning is what inbox.Pruner asks for.
func pruning[TX any]() []promise[TX] {
	of := func(name string, test func(*pruner[TX])) promise[TX] {
		return promise[TX]{name, func(s *suite[TX]) {
			store, ok := s.Store.(inbox.Pruner)
			if ok == s.NoPruning {
				s.Fatalf("that the store is an inbox.Pruner is %v, and Backend.NoPruning is %v", ok, s.NoPruning)
			}
			if ok {
				test(&pruner[TX]{suite: s, store: store})
			}
		}}
	}
	return []promise[TX]{
		of("an inbox forgets what is older than the window, and nothing else", (*pruner[TX]).window),
		of("attempts that nobody finished are forgotten in time", (*pruner[TX]).attempts),
		of("copies are told apart while old records go", (*pruner[TX]).meanwhile),
		of("pruning may be cut off, and done by many", (*pruner[TX]).cutOff),
		of("a window that isn't positive is refused", (*pruner[TX]).notPositive),
	}
}

// pruner is a promise's test.
type pruner[TX any] struct {
	*suite[TX]
	store inbox.Pruner
}

// shortWindow is over soon, and long enough to handle some events in.
const shortWindow = 500 * time.Millisecond

func (p *pruner[TX]) prune(window time.Duration) inbox.PruneReport {
	p.Helper()
	report, err := p.store.PruneInbox(p.ctx, window)
	p.must("remove old records", err)
	return report
}

// prunes calls PruneInbox until nothing is in its way.
func (p *pruner[TX]) prunes(window time.Duration) (sum inbox.PruneReport) {
	p.Helper()
	for {
		report := p.prune(window)
		sum.Emptied += report.Emptied
		sum.Removed += report.Removed
		sum.Attempts += report.Attempts
		if len(report.Held) == 0 {
			return sum
		}
		if p.ctx.Err() != nil {
			p.Fatalf("old records stay: %q", report.Held)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// eventIDs are ids of several kinds: those that the outbox makes, which begin with the time, and others.
func eventIDs(name string) []string {
	list := []string{"evt_" + name, name, "0190f0e5-" + name, "ünï-" + name}
	for range 3 {
		list = append(list, surepost.NewID())
	}
	return list
}

func (p *pruner[TX]) handleAll(ids []string, want bool) {
	p.Helper()
	for _, consumer := range []string{"c", "another"} {
		for _, id := range ids {
			p.wantHandled(p.Store, consumer, id, consumer+" "+id, want)
		}
	}
}

func (p *pruner[TX]) window() {
	old := eventIDs("old")
	p.handleAll(old, true)
	if report := p.prune(10 * time.Minute); report.Removed > 0 || report.Emptied > 0 {
		p.Fatalf("of records that are young, %+v were removed", report)
	}
	p.handleAll(old, false)
	for try := 0; ; try++ {
		p.until(time.Now().Add(shortWindow))
		young, began := eventIDs(fmt.Sprint("young ", try)), time.Now()
		p.handleAll(young, true)
		p.prune(shortWindow)
		old = append(old, young...)
		if time.Since(began) < shortWindow { // else they may have been old, on a slow machine
			p.handleAll(young, false)
			break
		}
	}
	p.until(time.Now().Add(shortWindow))
	if sum := p.prunes(shortWindow); sum.Removed+int64(sum.Emptied) == 0 {
		p.Errorf("when all are old, %+v were removed", sum)
	}
	p.handleAll(old, true)
}

// attempts of events that the broker has dead-lettered by itself are forgotten by nobody else.
func (p *pruner[TX]) attempts() {
	start := func(id string, want int) {
		p.Helper()
		p.startAttempt("c", id, 9, want)
		p.startAttempt("another", id, 9, want)
	}
	start("old", 0)
	start("old", 1)
	if report := p.prune(10 * time.Minute); report.Attempts > 0 {
		p.Errorf("%d young attempts were forgotten", report.Attempts)
	}
	start("old", 2)
	for try := 0; ; try++ {
		again := fmt.Sprint("again ", try)
		start(again, 0)
		p.until(time.Now().Add(shortWindow))
		began := time.Now()
		start(again, 1)
		report := p.prune(shortWindow)
		if time.Since(began) >= shortWindow {
			continue // it may have been old, on a slow machine
		}
		if try == 0 && report.Attempts != 2 {
			p.Errorf("%d records of old attempts were forgotten, want 2", report.Attempts)
		}
		start(again, 2)
		break
	}
	start("old", 0)
}

func (p *pruner[TX]) meanwhile() {
	const workers, each, events = 4, 40, 30
	_, seed := p.random()
	ctx, cancel := context.WithCancel(p.ctx)
	pruning := p.start("one who removes old records", func() error {
		store := p.store
		for ctx.Err() == nil {
			if _, err := store.PruneInbox(p.ctx, 2*limit); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	p.all("a worker", workers, func(n int) error {
		rnd := newRandom(seed, n)
		for range each {
			id := fmt.Sprint("e", rnd.IntN(events))
			if _, err := p.handle(p.Store, "c", id, id); err != nil {
				return err
			}
			if rnd.IntN(4) == 0 {
				time.Sleep(time.Millisecond) // for the other's sake, in a store that is fast
			}
		}
		return nil
	})
	cancel()
	p.must(pruning.what, p.ends(pruning))
	effects, err := p.Effects(p.ctx)
	p.must("read the effects", err)
	seen := map[string]bool{}
	for _, e := range effects {
		if seen[e] {
			p.Errorf("event %s was handled twice within the window", e)
		}
		seen[e] = true
	}
	if p.OneWriter {
		return // nobody else does anything while an event is handled
	}
	// What is being handled isn't waited for, and not forgotten.
	first, end := p.inTheWork("slow", "slow")
	p.prune(aLittle)
	end <- nil
	p.must("the slow event", p.ends(first))
	p.wantHandled(p.Store, "c", "slow", "again", false)
}

func (p *pruner[TX]) cutOff() {
	rnd, _ := p.random()
	const n = 300
	var old []string
	for i := range n / 2 {
		old = append(old, surepost.NewID(), fmt.Sprint("evt_", i))
	}
	p.must("handle", p.Store.Transact(p.ctx, "c", old, func(TX, []bool) error { return nil }))
	time.Sleep(2 * time.Millisecond)
	cut := 0
	for round := range 20 {
		ctx, cancel := context.WithTimeout(p.ctx, time.Duration(rnd.IntN(1500))*time.Microsecond)
		if round%2 == 0 {
			cancel()
		}
		if _, err := p.store.PruneInbox(ctx, 10*time.Minute); err != nil {
			cut++
		}
		cancel()
	}
	if cut < 10 {
		p.Errorf("%d of 20 calls were cut off, and the context of ten had ended before", cut)
	}
	var mu sync.Mutex
	var sum inbox.PruneReport
	others := []inbox.Pruner{p.store, p.Another(p.T).(inbox.Pruner), p.Another(p.T).(inbox.Pruner)}
	p.all("one who removes old records", len(others), func(i int) error {
		for range 3 {
			report, err := others[i].PruneInbox(p.ctx, time.Microsecond)
			if err != nil {
				return err
			}
			mu.Lock()
			sum.Emptied += report.Emptied
			sum.Removed += report.Removed
			mu.Unlock()
		}
		return nil
	})
	last := p.prunes(time.Microsecond)
	removed, emptied := sum.Removed+last.Removed, sum.Emptied+last.Emptied
	if removed > n || emptied == 0 && removed != n {
		p.Errorf("%d records were removed, and %d leaves emptied, of %d records", removed, emptied, n)
	}
	p.must("handle again", p.Store.Transact(p.ctx, "c", old, func(_ TX, first []bool) error {
		for i, f := range first {
			if !f {
				return fmt.Errorf("event %s is still remembered", old[i])
			}
		}
		return nil
	}))
}

func (p *pruner[TX]) notPositive() {
	p.handleAll([]string{"e1"}, true)
	p.startAttempt("c", "e1", 9, 0)
	for _, window := range []time.Duration{0, -1, -time.Hour} {
		if report, err := p.store.PruneInbox(p.ctx, window); err == nil {
			p.Errorf("a window of %v is taken: %+v", window, report)
		}
	}
	p.handleAll([]string{"e1"}, false)
	p.startAttempt("c", "e1", 9, 1)
}
