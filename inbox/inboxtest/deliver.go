package inboxtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox/outboxtest"
)

// Option says more about a delivery.
type Option func(*delivery)

// Effect names an effect of the handler and counts it, as others see it: outside of the handler's transaction. One
// handling must change the count; how often the event is delivered must not. Give one for each table that the handler writes.
func Effect(name string, count func() int) Option {
	return func(d *delivery) { d.effects = append(d.effects, effect{name, count}) }
}

// Writes demands that the handler writes these events, and no others, in this order. Their causation and correlation ids are checked in
// any case. The inbox's store must be an outboxtest.Store, as all of Surepost's are.
func Writes(want ...outboxtest.Event) Option {
	return func(d *delivery) { d.writes, d.writesGiven = want, true }
}

// Timeout is how long one delivery may take. Default 10 s: a handler that waits for what its own transaction has locked
// waits for ever.
func Timeout(limit time.Duration) Option {
	return func(d *delivery) { d.limit = limit }
}

type effect struct {
	name  string
	count func() int
}

// delivery is what a Deliver demands.
type delivery struct {
	effects     []effect
	writes      []outboxtest.Event
	writesGiven bool
	limit       time.Duration
}

// Deliver delivers an event to the inbox, as often and as badly as brokers and databases do, and fails the test at once
// unless its effect happens once:
//
//  1. The handler succeeds, and its transaction is rolled back before the commit, as by a crash: nothing may be left.
//  2. Two deliveries at once: one is handled, the other is a duplicate.
//  3. Two more, one after the other: duplicates, as after a commit whose answer was lost.
//
// What counts as effect is what the options say: at least one [Effect], or [Writes]. What the event leaves empty is filled in
// as an outbox would do it; leave its id empty, so that it is a new event in each run. The handler gets it as from a broker,
// with Data as JSON.
//
// Deliver returns the event that was handled.
func Deliver[TX any](t testing.TB, in *inbox.Inbox[TX], event surepost.Event, options ...Option) surepost.Event {
	t.Helper()
	d := delivery{limit: 10 * time.Second}
	for _, o := range options {
		o(&d)
	}
	if len(d.effects) == 0 && !d.writesGiven {
		t.Fatal("inboxtest: Deliver has no effect to look at: pass inboxtest.Effect for what the handler changes, or inboxtest.Writes for its events")
	}
	c := &course[TX]{t: t, inbox: in, delivery: d}
	first := c.complete(event)

	before := c.counts()
	c.rolledBack(first, before)
	c.twiceAtOnce(first)
	once := c.counts()
	c.wantChange(before, once)
	for range 2 {
		c.duplicate(first, once)
	}
	return first
}

// course is one Deliver.
type course[TX any] struct {
	t     testing.TB
	inbox *inbox.Inbox[TX]
	delivery
}

// complete returns the event as a consumer gets it.
func (c *course[TX]) complete(e surepost.Event) surepost.Event {
	c.t.Helper()
	if e.CorrelationID == "" && e.ID == "" {
		e.CorrelationID = "inboxtest-flow" // not its id, so that follow-up events can't have it by chance
	}
	complete, err := e.Prepare(c.t.Context(), surepost.Defaults{Source: "inboxtest"}, surepost.Limits{})
	if err != nil {
		c.t.Fatalf("inboxtest: no outbox would write this event: %v", err)
	}
	return complete
}

func (c *course[TX]) counts() []int {
	counts := make([]int, len(c.effects))
	for i, e := range c.effects {
		counts[i] = e.count()
	}
	return counts
}

// same checks that no effect has changed.
func (c *course[TX]) same(before []int, when, remedy string) {
	c.t.Helper()
	for i, now := range c.counts() {
		if now != before[i] {
			c.t.Fatalf("inboxtest: %s: %d before, %d %s: %s", c.effects[i].name, before[i], now, when, remedy)
		}
	}
}

func (c *course[TX]) wantChange(before, after []int) {
	c.t.Helper()
	for i := range before {
		if before[i] == after[i] {
			c.t.Fatalf("inboxtest: %s: still %d after the event was handled, at the second attempt: the handler did nothing, because it "+
				"remembers the first attempt, which was rolled back, outside of its transaction; or the effect counts something else",
				c.effects[i].name, after[i])
		}
	}
}

// handle delivers the event to an inbox, within the limit.
func (c *course[TX]) handle(in *inbox.Inbox[TX], e surepost.Event) (inbox.Result, error) {
	type answer struct {
		result inbox.Result
		err    error
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), c.limit)
	defer cancel()
	answers := make(chan answer, 1)
	go func() {
		result, err := in.Handle(ctx, e)
		answers <- answer{result, err}
	}()
	grace := time.NewTimer(c.limit + time.Second)
	defer grace.Stop()
	select {
	case a := <-answers:
		if ctx.Err() != nil && a.err != nil {
			a.err = fmt.Errorf("%w: %w", errTimeout, a.err)
		}
		return a.result, a.err
	case <-grace.C:
		return 0, errTimeout
	}
}

var (
	errInjected = errors.New("inboxtest: a fault for the test's sake")
	errTimeout  = errors.New("the handler didn't end in time (inboxtest.Timeout): does it use the database beside its transaction, " +
		"and wait for what that has locked?")
)

// rolledBack lets the handler succeed and its transaction fail.
func (c *course[TX]) rolledBack(e surepost.Event, before []int) {
	c.t.Helper()
	var written []surepost.Event
	var asked error
	known := false // what was written
	faulty := c.inbox.Around(func(s inbox.Store[TX]) inbox.Store[TX] {
		return around[TX]{s, func(ctx context.Context, tx TX) error {
			if store, ok := s.(outboxtest.Store[TX]); ok {
				known = true
				written, asked = store.Written(ctx, tx)
			}
			return errInjected
		}, nil}
	})
	result, err := c.handle(faulty, e)
	switch {
	case result == inbox.Skipped:
		c.t.Fatalf("inboxtest: the inbox has no handler for events of type %q, only for: %s", e.Type, strings.Join(c.inbox.Types(), ", "))
	case result == inbox.Duplicate:
		c.t.Fatalf("inboxtest: event %s was handled before: leave its id empty, or start with an empty database", e.ID)
	case asked != nil:
		c.t.Fatalf("inboxtest: the store can't tell what the handler has written: %v (has the handler gone on after an error of its transaction?)", asked)
	case err == nil:
		c.t.Fatalf("inboxtest: the transaction failed, and the inbox says that the event was %s", result)
	case !errors.Is(err, errInjected):
		c.t.Fatalf("inboxtest: the handler failed: %v", err)
	}
	c.same(before, "after the transaction was rolled back", "the handler works outside of its transaction: use tx for all of it")
	c.checkWritten(e, written, known)
}

// checkWritten checks the events that the handler wrote.
func (c *course[TX]) checkWritten(e surepost.Event, written []surepost.Event, known bool) {
	c.t.Helper()
	if !known {
		if c.writesGiven {
			c.t.Fatal("inboxtest: Writes: the inbox's store can't tell what a transaction has written: implement outboxtest.Store")
		}
		return
	}
	if c.writesGiven {
		outboxtest.RequireOnlyWritten(c.t, c.t.Context(), fixed[TX]{written}, *new(TX), c.writes...)
	}
	for _, w := range written {
		if w.CausationID != e.ID || w.CorrelationID != e.CorrelationID {
			c.t.Fatalf("inboxtest: the handler's event %s (key %q) has the causation id %q, want the incoming event's id %q; and the correlation id %q, "+
				"want %q: write it with the handler's context (or with surepost.WithHandling, in a handler of batches)",
				w.Type, w.Key, w.CausationID, e.ID, w.CorrelationID, e.CorrelationID)
		}
	}
}

// fixed are events that were asked for before.
type fixed[TX any] struct{ events []surepost.Event }

func (f fixed[TX]) Written(context.Context, TX) ([]surepost.Event, error) { return f.events, nil }

// twiceAtOnce delivers the event twice, the second before the first has committed.
func (c *course[TX]) twiceAtOnce(e surepost.Event) {
	c.t.Helper()
	var arrived sync.WaitGroup
	arrived.Add(2)
	both := make(chan struct{})
	go func() { arrived.Wait(); close(both) }()
	meeting := c.inbox.Around(func(s inbox.Store[TX]) inbox.Store[TX] {
		return around[TX]{s, func(ctx context.Context, _ TX) error {
			select { // the transaction stays open until the other one is on its way
			case <-both:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, arrived.Done}
	})
	results := make([]inbox.Result, 2)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i], errs[i] = c.handle(meeting, e) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			c.t.Fatalf("inboxtest: the second attempt failed (the first was rolled back, then came two deliveries at once; this one's result would be %s): %v",
				results[1-i], err)
		}
	}
	if results[0] == results[1] || results[0]+results[1] != inbox.Handled+inbox.Duplicate {
		c.t.Fatalf("inboxtest: of two deliveries at once one was %s and one %s, want one handled and one duplicate", results[0], results[1])
	}
}

// duplicate delivers an event that was handled.
func (c *course[TX]) duplicate(e surepost.Event, before []int) {
	c.t.Helper()
	result, err := c.handle(c.inbox, e)
	if err != nil || result != inbox.Duplicate {
		c.t.Fatalf("inboxtest: delivered again, the event was %s (%v), want duplicate", result, err)
	}
	c.same(before, "after the event was delivered again", "the handler's work happens more often than its event")
}

// around is a store that calls arrive before a transaction and before its commit.
type around[TX any] struct {
	inbox.Store[TX]
	commit func(ctx context.Context, tx TX) error
	arrive func()
}

func (a around[TX]) Transact(
	ctx context.Context, consumer string, ids []string, work func(tx TX, first []bool) error,
) error {
	if a.arrive != nil {
		a.arrive()
	}
	return a.Store.Transact(ctx, consumer, ids, func(tx TX, first []bool) error {
		if err := work(tx, first); err != nil {
			return err
		}
		if !first[0] {
			return nil // a duplicate, which has done nothing
		}
		return a.commit(ctx, tx)
	})
}
