package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// scheduling is what outbox.Scheduler and relay.ScheduleStore ask for, and what an operator is shown of delayed events.
func scheduling[TX any]() []promise[TX] {
	return []promise[TX]{
		{"a delayed event isn't published early", (*suite[TX]).notEarly},
		{"a delayed event comes out as it went in", (*suite[TX]).everyFieldDelayed},
		{"what is due already isn't delayed", (*suite[TX]).dueAlready},
		{"delayed events enter the log in the order in which they are due", (*suite[TX]).inOrderOfDue},
		{"a delayed event is moved once, however many move it", (*suite[TX]).movedOnce},
		{"a delayed event shares the fate of its transaction", (*suite[TX]).delayedRolledBack},
		{"a delayed event can be cancelled", (*suite[TX]).cancelledDelayed},
		{"an event is moved or cancelled, never both", (*suite[TX]).movedOrCancelled},
		{"what is being cancelled holds up nothing but its key", (*suite[TX]).beingCancelled},
		{"a transaction is told what it has delayed", (*suite[TX]).writtenDelayed},
		{"an operator selects delayed events", (*suite[TX]).scheduledFilters},
		{"an operator's cancelling is recorded", (*suite[TX]).recordedCancelling},
	}
}

// soonDue is long enough that an event is written before it is due, on a machine that does much besides.
func soonDue() time.Duration { return min(2*time.Second, limit/4) }

// delayed returns an event that is due in a while.
func (s *suite[TX]) delayed(id, key string, in time.Duration) surepost.Event {
	e := event(id, key)
	e.NotBefore = time.Now().Add(in).UTC().Truncate(time.Microsecond)
	return e
}

// schedule writes delayed events in a transaction of their own.
func (s *suite[TX]) schedule(events ...surepost.Event) {
	s.Helper()
	tx := s.begin()
	s.must("schedule events", s.Store.Schedule(s.ctx, tx, events))
	s.commit(tx)
}

func (s *suite[TX]) wantScheduled(what string, want ...string) []relay.ScheduledEvent {
	s.Helper()
	list, err := s.Another(s.T).Scheduled(s.ctx, relay.ScheduledFilter{}, 1000)
	s.must("list delayed events", err)
	var got []string
	for _, d := range list {
		got = append(got, d.Event.ID)
	}
	if !slices.Equal(got, want) {
		s.Fatalf("%s: delayed are %s, want %s", what, shorten(got), shorten(want))
	}
	return list
}

// moves demands that so many events move now.
func (s *suite[TX]) moves(want int) (next time.Duration) {
	s.Helper()
	n, next, err := s.Store.MoveDue(s.ctx, 1000)
	if n != want || err != nil {
		s.Fatalf("%d events were moved (%v), want %d", n, err, want)
	}
	return next
}

// until waits for a time to be past.
func (s *suite[TX]) until(t time.Time) {
	time.Sleep(time.Until(t) + 10*time.Millisecond) // the store's clock may be read in milliseconds
}

func (s *suite[TX]) notEarly() {
	s.write(event("at once", ""))
	soon, late := s.delayed("soon", "a", soonDue()), s.delayed("late", "a", time.Hour)
	last := s.delayed("last", "", 0)
	last.NotBefore = time.Date(9998, 12, 31, 23, 59, 59, 999999000, time.UTC)
	if _, next, err := s.Store.MoveDue(s.ctx, 10); next != relay.NeverDue || err != nil {
		s.Errorf("of an empty schedule, the next one is due in %v (%v), want NeverDue", next, err)
	}
	s.schedule(late, last, soon)
	l := s.lead("a")
	s.wantIDs("before anything is due", s.readAll(l, 10), "at once")
	s.wantScheduled("before anything is due", "soon", "late", "last")
	for {
		n, next, err := s.Store.MoveDue(s.ctx, 10)
		s.must("move what is due", err)
		now := time.Now()
		if n > 0 {
			if now.Before(soon.NotBefore) {
				s.Fatalf("an event was moved %v early", soon.NotBefore.Sub(now))
			}
			if left := time.Until(late.NotBefore); next > left+time.Second || next < left-10*time.Second {
				s.Errorf("the next one is due in %v, and the store says %v", left, next)
			}
			break
		}
		if left := soon.NotBefore.Sub(now); left < -5*time.Second || next > left+time.Second {
			s.Fatalf("%v before an event is due nothing moves, and the store says that the next one is due in %v", left, next)
		}
		time.Sleep(5 * time.Millisecond)
	}
	got := s.readAll(l, 10)
	s.wantIDs("once it is due", got, "soon")
	if diff := differences(got[0].Event, soon); diff != "" || !got[0].Event.NotBefore.IsZero() {
		s.Errorf("the event isn't what it was: %s; NotBefore is %v, want none", diff, got[0].Event.NotBefore)
	}
	list := s.wantScheduled("once one was moved", "late", "last")
	for i, want := range []surepost.Event{late, last} {
		if !list[i].Event.NotBefore.Equal(want.NotBefore) {
			s.Errorf("%s is due at %v, want %v", want.ID, list[i].Event.NotBefore, want.NotBefore)
		}
		if age := time.Since(list[i].WrittenAt); age < -time.Minute || age > limit+time.Minute {
			s.Errorf("%s was written %v ago", want.ID, age)
		}
	}
}

func (s *suite[TX]) everyFieldDelayed() {
	due := time.Now().Add(soonDue()).UTC().Truncate(time.Microsecond)
	var events []surepost.Event
	all := names()
	for i, kind := range slices.Sorted(maps.Keys(all)) {
		name := all[kind]
		e := event(name, name)
		e.Type, e.Version, e.Source, e.CausationID = name, name, name, name
		e.NotBefore = due
		switch i % 3 {
		case 0:
			e.CorrelationID, e.Category = "flow of "+kind, surepost.Integration
			e.Headers = map[string]string{"of": name, "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
		case 1:
			e.Key, e.CausationID = "", ""
		}
		events = append(events, e)
	}
	large := event("large", "large")
	large.NotBefore, large.Data = due, json.RawMessage(`"`+strings.Repeat("ä", 100_000)+`"`)
	events = append(events, large)
	s.schedule(events...)
	list, err := s.Store.Scheduled(s.ctx, relay.ScheduledFilter{}, 1000)
	s.must("list delayed events", err)
	s.until(due)
	s.moves(len(events))
	got := s.readAll(s.lead("a"), 1000)
	if len(got) != len(events) || len(list) != len(events) {
		s.Fatalf("%d events were listed and %d came, want %d", len(list), len(got), len(events))
	}
	for i, want := range events {
		if diff := differences(list[i].Event, want); diff != "" {
			s.Errorf("listed event %s: %s", quote(want.ID), diff)
		}
		if diff := differences(got[i].Event, want); diff != "" {
			s.Errorf("event %s: %s", quote(want.ID), diff)
		}
	}
}

func (s *suite[TX]) dueAlready() {
	past, now := s.delayed("past", "a", -time.Hour), event("now", "a")
	ancient := s.delayed("ancient", "a", 0)
	ancient.NotBefore = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	s.schedule(past, now, s.delayed("future", "a", time.Hour), ancient)
	s.wantScheduled("of four", "future")
	s.wantIDs("without a move", s.readAll(s.lead("a"), 10), "past", "now", "ancient")
}

func (s *suite[TX]) inOrderOfDue() {
	rnd, _ := s.random()
	base := time.Now().Add(soonDue()).UTC().Truncate(time.Microsecond)
	var events []surepost.Event
	for i := range 60 {
		e := event(fmt.Sprint("e", i), fmt.Sprint("key ", rnd.IntN(3)))
		e.NotBefore = base.Add(time.Duration(rnd.IntN(10)) * time.Microsecond) // many at the same time
		events = append(events, e)
	}
	for i := 0; i < len(events); {
		n := min(1+rnd.IntN(9), len(events)-i)
		s.schedule(events[i : i+n]...)
		i += n
	}
	s.until(base.Add(10 * time.Microsecond))
	const most = 7
	for moved := 0; moved < len(events); {
		n, next, err := s.Store.MoveDue(s.ctx, most)
		if err != nil || n == 0 || n > most {
			s.Fatalf("after %d of %d events, %d were moved (%v), want 1 to %d", moved, len(events), n, err, most)
		}
		if moved += n; moved < len(events) && next > 0 {
			s.Fatalf("after %d of %d events, the store says that the next one is due in %v", moved, len(events), next)
		}
	}
	slices.SortStableFunc(events, func(a, b surepost.Event) int { return a.NotBefore.Compare(b.NotBefore) })
	s.wantIDs("all", s.readAll(s.lead("a"), 100), idsOf(events)...)
}

func (s *suite[TX]) movedOnce() {
	const perKey, keys = 40, 5
	base := time.Now().Add(soonDue()).UTC().Truncate(time.Microsecond)
	var events []surepost.Event
	for i := range perKey * keys {
		e := event(fmt.Sprint("e", i), fmt.Sprint("key ", i%keys))
		e.NotBefore = base.Add(time.Duration(i) * time.Millisecond)
		events = append(events, e)
	}
	s.schedule(events...)
	stores := []Store[TX]{s.Store, s.Another(s.T), s.Another(s.T)}
	var mu sync.Mutex
	moved := 0
	s.all("a mover", 6, func(n int) error {
		for {
			here, _, err := stores[n%len(stores)].MoveDue(s.ctx, 9)
			mu.Lock()
			moved += here
			done := moved >= len(events)
			mu.Unlock()
			if err != nil || done {
				return err
			}
			if err := s.ctx.Err(); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	})
	if moved != len(events) {
		s.Errorf("the movers say that they have moved %d events, want %d", moved, len(events))
	}
	got := map[string][]string{}
	for _, e := range s.readAll(s.lead("a"), 100) {
		got[e.Event.Key] = append(got[e.Event.Key], e.Event.ID)
	}
	for k := range keys {
		var want []string
		for i := k; i < len(events); i += keys {
			want = append(want, events[i].ID)
		}
		if key := fmt.Sprint("key ", k); !slices.Equal(got[key], want) {
			s.Errorf("of %s came %s, want %s", key, shorten(got[key]), shorten(want))
		}
	}
	s.wantScheduled("at the end")
}

func (s *suite[TX]) delayedRolledBack() {
	tx := s.begin()
	s.must("schedule an event", s.Store.Schedule(s.ctx, tx, []surepost.Event{s.delayed("never", "a", time.Hour), event("nor", "a")}))
	s.must("do business work", s.Effect(s.ctx, tx, "never"))
	s.wantScheduled("before the end of its transaction")
	s.rollback(tx)

	tx = s.begin()
	open := s.delayed("open", "a", soonDue())
	s.must("schedule an event", s.Store.Schedule(s.ctx, tx, []surepost.Event{open}))
	s.until(open.NotBefore)
	if !s.OneWriter { // where a mover may wait for the one
		s.moves(0) // it is due, and its transaction is open
	}
	s.commit(tx)
	s.moves(1)
	s.wantIDs("at the end", s.readAll(s.lead("a"), 10), "open")
	s.wantEffects("at the end")
	s.wantScheduled("at the end")
}

func (s *suite[TX]) cancels(tx TX, want int, ids ...string) {
	s.Helper()
	n, err := s.Store.Cancel(s.ctx, tx, ids)
	if n != want || err != nil {
		s.Fatalf("cancelling %q took back %d events (%v), want %d", ids, n, err, want)
	}
}

func (s *suite[TX]) cancelledDelayed() {
	all := names()
	var events []surepost.Event
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		events = append(events, s.delayed(all[kind], "a", time.Hour))
	}
	s.schedule(events...)
	tx := s.begin()
	s.cancels(tx, 2, "CASE", "case ", "nobody")
	s.rollback(tx)
	tx = s.begin()
	s.cancels(tx, 2, "case", all["accent apart"])
	s.cancels(tx, 0, "case")
	s.cancels(tx, 0, "nobody", "Case", "")
	s.must("schedule an event", s.Store.Schedule(s.ctx, tx, []surepost.Event{s.delayed("own", "a", time.Hour), event("at once", "a")}))
	s.cancels(tx, 1, "own", "at once") // that one is in the log
	s.commit(tx)
	var want []string
	for _, e := range events {
		if e.ID != "case" && e.ID != all["accent apart"] {
			want = append(want, e.ID)
		}
	}
	s.wantScheduled("after two were cancelled", want...)
	tx = s.begin()
	s.cancels(tx, len(want), idsOf(events)...)
	s.commit(tx)
	s.wantScheduled("after all were cancelled")
	s.wantIDs("the log", s.readAll(s.lead("a"), 10), "at once")
	if list, err := s.Store.Cancellations(s.ctx, relay.ScheduledFilter{}, 10); len(list) != 0 || err != nil {
		s.Errorf("what the service itself cancelled is recorded as an operator's: %+v (%v)", list, err)
	}
}

func (s *suite[TX]) movedOrCancelled() {
	other := s.Another(s.T)
	l := s.lead("a")
	moved, took := 0, 0
	for round := range 25 {
		id := fmt.Sprint("e", round)
		e := s.delayed(id, "a", 20*time.Millisecond)
		s.schedule(e)
		s.until(e.NotBefore)
		mover := s.start("a mover", func() error {
			_, _, err := other.MoveDue(s.ctx, 10)
			return err
		})
		time.Sleep(time.Duration(round%5) * time.Millisecond) // now the one is first, now the other
		cancelled := 0
		err := s.transact(func(tx TX) (err error) {
			if cancelled, err = s.Store.Cancel(s.ctx, tx, []string{id}); err == nil && round%5 == 4 {
				time.Sleep(2 * time.Millisecond)
			}
			return err
		})
		s.must("cancel", err)
		s.must("move", s.ends(mover))
		_, _, err = s.Store.MoveDue(s.ctx, 10) // what the first one left alone
		s.must("move", err)
		got := ids(s.readAll(l, 10))
		switch {
		case cancelled == 1 && len(got) == 0:
			took++
		case cancelled == 0 && slices.Equal(got, []string{id}):
			moved++
		default:
			s.Fatalf("Cancel counted %d, and the log has got %q", cancelled, got)
		}
	}
	s.Logf("%d were moved and %d cancelled", moved, took)
}

func (s *suite[TX]) beingCancelled() {
	a1 := s.delayed("a1", "a", soonDue())
	b1, a2, a3, n1 := a1, a1, a1, a1
	b1.ID, b1.Key, b1.CorrelationID = "b1", "b", "b1"
	a2.ID, a2.CorrelationID, a3.ID, a3.CorrelationID = "a2", "a2", "a3", "a3"
	n1.ID, n1.Key, n1.CorrelationID = "n1", "", "n1"
	s.schedule(a1, a2, b1, a3, n1)
	s.until(a1.NotBefore)
	tx := s.begin()
	s.cancels(tx, 1, "a2")
	lead := func() relay.Log { return s.lead("a") } // later: with one writer it would wait for the open transaction
	if s.OneWriter {
		mover := s.start("a mover", func() error {
			_, _, err := s.Store.MoveDue(s.ctx, 10)
			return err
		})
		s.waits(mover, "the one writer")
		s.rollback(tx)
		s.must("move", s.ends(mover))
		s.wantIDs("in the end", s.readAll(lead(), 10), "a1", "a2", "b1", "a3", "n1")
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, min(limit/2, 10*time.Second))
	defer cancel()
	n, _, err := s.Store.MoveDue(ctx, 10)
	if n != 3 || err != nil {
		s.Fatalf("%d events were moved (%v), want 3: a1, b1 and n1", n, err)
	}
	log := lead()
	s.wantIDs("while a2 is being cancelled", s.readAll(log, 10), "a1", "b1", "n1")
	s.rollback(tx)
	s.moves(2)
	s.wantIDs("after it wasn't", s.readAll(log, 10), "a2", "a3")
}

func (s *suite[TX]) writtenDelayed() {
	s.schedule(s.delayed("of another", "a", time.Hour))
	tx := s.begin()
	d1, d2, d3 := s.delayed("d1", "a", time.Hour), s.delayed("d2", "a", time.Minute), s.delayed("d3", "", time.Hour)
	s.must("schedule events", s.Store.Schedule(s.ctx, tx, []surepost.Event{d1, event("now", "a"), d2}))
	s.append(tx, event("append", ""))
	s.must("schedule an event", s.Store.Schedule(s.ctx, tx, []surepost.Event{d3}))
	s.cancels(tx, 2, "d2", "of another")
	written, err := s.Store.Written(s.ctx, tx)
	s.must("ask what was written", err)
	if want := []string{"now", "append", "d1", "d3"}; !slices.Equal(idsOf(written), want) {
		s.Fatalf("written were %q, want %q", idsOf(written), want)
	}
	for i, want := range []surepost.Event{event("now", "a"), event("append", ""), d1, d3} {
		if diff := differences(written[i], want); diff != "" || !written[i].NotBefore.Equal(want.NotBefore) {
			s.Errorf("written %s: %s; NotBefore is %v, want %v", want.ID, diff, written[i].NotBefore, want.NotBefore)
		}
	}
	s.rollback(tx)
}

func (s *suite[TX]) scheduledFilters() {
	base := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	add := func(id, key, typ, source string, minutes int) surepost.Event {
		e := event(id, key)
		e.Type, e.Source, e.NotBefore = typ, source, base.Add(time.Duration(minutes)*time.Minute)
		return e
	}
	s.schedule(add("3", "a", "T", "s", 3), add("1", "a", "U", "s", 1), add("2", "b", "T", "s", 2), add("4", "", "t", "S", 4))
	at := func(minutes int) time.Time { return base.Add(time.Duration(minutes) * time.Minute) }
	for _, c := range []struct {
		filter relay.ScheduledFilter
		want   []string
	}{
		{relay.ScheduledFilter{}, []string{"1", "2", "3", "4"}},
		{relay.ScheduledFilter{Key: "a"}, []string{"1", "3"}},
		{relay.ScheduledFilter{Key: "A"}, nil},
		{relay.ScheduledFilter{Type: "T"}, []string{"2", "3"}},
		{relay.ScheduledFilter{Source: "S"}, []string{"4"}},
		{relay.ScheduledFilter{IDs: []string{"3", "2", "nobody"}}, []string{"2", "3"}},
		{relay.ScheduledFilter{Since: at(2)}, []string{"2", "3", "4"}},
		{relay.ScheduledFilter{Until: at(2)}, []string{"1"}},
		{relay.ScheduledFilter{Since: at(2), Until: at(4), Type: "T", IDs: []string{"3", "4"}}, []string{"3"}},
		{relay.ScheduledFilter{Since: at(4), Until: at(2)}, nil},
	} {
		for _, most := range []int{100, 1} {
			list, err := s.Store.Scheduled(s.ctx, c.filter, most)
			s.must("list delayed events", err)
			var got []string
			for _, d := range list {
				got = append(got, d.Event.ID)
			}
			if want := c.want[:min(most, len(c.want))]; !slices.Equal(got, want) {
				s.Errorf("filter %+v with the limit %d selects %q, want %q", c.filter, most, got, want)
			}
		}
	}
	if n, err := s.Store.CancelScheduled(s.ctx, relay.ScheduledFilter{Since: at(2), Until: at(4)}, "the suite"); n != 2 || err != nil {
		s.Errorf("cancelled %d events (%v), want 2", n, err)
	}
	s.wantScheduled("after two were cancelled", "1", "4")
}

func (s *suite[TX]) recordedCancelling() {
	e := s.delayed("e", "a", time.Hour)
	s.schedule(e, s.delayed("f", "", time.Hour))
	who := names()["four-byte runes"]
	for _, c := range []struct {
		id   string
		by   string
		want int64
	}{{"e", who, 1}, {"e", "another", 0}, {"f", "another", 1}, {"nobody", "another", 0}} {
		n, err := s.Store.CancelScheduled(s.ctx, relay.ScheduledFilter{IDs: []string{c.id}}, c.by)
		if n != c.want || err != nil {
			s.Fatalf("cancelling %s took back %d events (%v), want %d", c.id, n, err, c.want)
		}
	}
	s.wantScheduled("at the end")
	list, err := s.Another(s.T).Cancellations(s.ctx, relay.ScheduledFilter{}, 100)
	s.must("list cancelled events", err)
	if len(list) != 2 || list[0].EventID != "f" || list[0].By != "another" || list[0].Key != "" {
		s.Fatalf("recorded are %+v, want f by another and e by %s", list, who)
	}
	got := list[1]
	if got.EventID != "e" || got.By != who || got.Type != e.Type || got.Key != "a" || got.Source != e.Source || !got.NotBefore.Equal(e.NotBefore) {
		s.Errorf("recorded is %+v of %+v", got, e)
	}
	if age := time.Since(got.At); age < -time.Minute || age > limit+time.Minute {
		s.Errorf("recorded is %+v, %v ago", got, age)
	}
	for _, f := range []relay.ScheduledFilter{{Key: "a"}, {IDs: []string{"e"}}} {
		if list, err := s.Store.Cancellations(s.ctx, f, 100); len(list) != 1 || err != nil {
			s.Errorf("%+v selects %+v (%v), want one", f, list, err)
		}
	}
	if list, err := s.Store.Cancellations(s.ctx, relay.ScheduledFilter{}, 1); len(list) != 1 || err != nil {
		s.Errorf("with the limit 1, listed are %+v (%v)", list, err)
	}
}
