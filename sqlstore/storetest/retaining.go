package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// retaining is what relay.Retainer asks for.
func retaining[TX any]() []promise[TX] {
	of := func(name string, test func(*retention[TX])) promise[TX] {
		return promise[TX]{name, func(s *suite[TX]) {
			store, ok := s.Store.(relay.Retainer)
			if ok == s.NoRetention {
				s.Fatalf("that the store is a relay.Retainer is %v, and Backend.NoRetention is %v", ok, s.NoRetention)
			}
			if ok {
				test(&retention[TX]{suite: s, store: store})
			}
		}}
	}
	return []promise[TX]{
		of("what a destination hasn't passed isn't removed", (*retention[TX]).behind),
		of("what a lane hasn't passed isn't removed", (*retention[TX]).lanesBehind),
		of("what a replay has yet to publish isn't removed", (*retention[TX]).replayBehind),
		of("what commits late isn't removed unread", (*retention[TX]).late),
		of("no event goes before its time", (*retention[TX]).young),
		of("what is parked or delayed outlasts the log", (*retention[TX]).outlasts),
		of("what is removed is gone, and reading goes on", (*retention[TX]).gone),
		of("a relay at work loses nothing to retention", (*retention[TX]).atWork),
		of("removing that was cut off is made up for", (*retention[TX]).cutOff),
		of("many who remove at once are in nobody's way", (*retention[TX]).atOnce),
		of("a retention that isn't positive is refused", (*retention[TX]).notPositive),
	}
}

// retention is a promise's test, and what it has seen of retention.
type retention[TX any] struct {
	*suite[TX]
	store  relay.Retainer
	probes int
	asides []string // the destinations that have looked at the log so far

	removed int64
	emptied int
}

// aLittle is a retention that is over when Retain is called.
const aLittle = time.Microsecond

// retain calls Retain once, and reports whether it has removed anything.
func (r *retention[TX]) retain(keep time.Duration) (report relay.RetentionReport, some bool) {
	r.Helper()
	report, err := r.store.Retain(r.ctx, relay.Retention{Keep: keep})
	r.must("remove old events", err)
	r.removed += report.Removed
	r.emptied += report.Emptied
	return report, report.Removed > 0 || report.Emptied > 0
}

// pass reads a destination's log to its end, and stores how far it came.
func (r *retention[TX]) pass(destination string) []relay.Entry {
	r.Helper()
	l := r.openLane(destination, 0, 1)
	entries := r.passLog(l)
	r.must("close the log", l.Close(r.ctx))
	return entries
}

func (r *retention[TX]) passLog(l relay.Log) (entries []relay.Entry) {
	r.Helper()
	for {
		page := r.read(l, 100)
		entries = append(entries, page.Entries...)
		r.checkpoint(l, page.After)
		if !page.Full {
			return entries
		}
	}
}

// left returns the ids of the events that the log still has, in its order: what a new destination is given. It passes them, and is in
// nobody's way as long as aside is called after each write.
func (r *retention[TX]) left() []string {
	r.Helper()
	r.probes++
	name := fmt.Sprint("probe ", r.probes)
	r.asides = append(r.asides, name)
	return ids(r.pass(name))
}

// aside lets the destinations that have looked at the log pass what is new.
func (r *retention[TX]) aside() {
	r.Helper()
	for _, name := range r.asides {
		r.pass(name)
	}
}

// wantLeft demands that the log has these events.
func (r *retention[TX]) wantLeft(what string, want ...string) {
	r.Helper()
	got := r.left()
	slices.Sort(got)
	want = slices.Clone(want)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.Fatalf("%s: the log has %s, want %s", what, shorten(got), shorten(want))
	}
}

// empties calls Retain until the log, which isn't empty yet, is.
func (r *retention[TX]) empties(what string) {
	r.Helper()
	for {
		report, some := r.retain(aLittle)
		if some && len(r.left()) == 0 {
			return
		}
		if r.ctx.Err() != nil {
			r.Fatalf("%s: the log isn't emptied: %s", what, report)
		}
		time.Sleep(time.Millisecond)
	}
}

// stays calls Retain some times and demands that somebody is said to be in the way: this destination.
func (r *retention[TX]) stays(what, destination string) {
	r.Helper()
	for n := range 6 {
		time.Sleep(time.Millisecond)
		report, _ := r.retain(aLittle)
		held := slices.ContainsFunc(report.Held, func(h relay.Holdup) bool {
			return h.Reason != "" && (destination == "" || h.Lane.Destination == destination)
		})
		if n > 1 && !held { // bulk removal may take a call to begin with
			r.Fatalf("%s: Retain reports %+v, and nothing of destination %q", what, report, destination)
		}
		if !strings.Contains(report.String(), "held up") && n > 1 {
			r.Fatalf("%s: the report reads %q", what, report)
		}
	}
}

func (r *retention[TX]) behind() {
	events := numbered("e", 30)
	r.write(events...)
	r.stays("nobody has read", "")
	first, second := r.openLane(lane.Destination, 0, 1), r.openLane("second", 0, 1)
	r.stays("a new destination", "second")
	page := r.read(first, 10)
	r.checkpoint(first, page.After)
	r.stays("the first has passed ten", lane.Destination)
	r.passLog(first)
	page = r.read(second, 20)
	r.wantIDs("the second's first page", page.Entries, idsOf(events[:20])...)
	r.stays("the second has read twenty, and stored nothing", "second")
	r.checkpoint(second, page.After)
	r.stays("the second has passed twenty", "second")
	second = r.openLane("second", 0, 1)
	r.wantIDs("behind the second's checkpoint", r.readAll(second, 100), idsOf(events[20:])...)
	second = r.openLane("second", 0, 1)
	r.passLog(second)
	r.empties("all have passed all")
	if r.pass("second"); r.removed != int64(len(events)) && r.emptied == 0 {
		r.Errorf("%d events were removed, and %d leaves emptied; there were %d", r.removed, r.emptied, len(events))
	}
}

func (r *retention[TX]) lanesBehind() {
	lanes := 1
	l := r.openLane("several", 0, 1) // so that the destination is there
	if several, ok := r.Store.(relay.LaneStore); ok && !r.OneLane {
		lanes = 3
		r.must("close the log", l.Close(r.ctx))
		r.leaveLane("several")
		r.must("change the number of lanes", several.SetLanes(r.ctx, "several", lanes))
	}
	events := numbered("e", 30)
	r.write(events...)
	r.pass(lane.Destination)
	var got []string
	for i := range lanes {
		r.stays(fmt.Sprint("lane ", i, " has passed nothing"), "several")
		got = append(got, ids(r.passLog(r.openLane("several", i, lanes)))...)
	}
	slices.Sort(got)
	want := idsOf(events)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.Fatalf("the lanes got %s, want %s", shorten(got), shorten(want))
	}
	r.empties("all lanes have passed all")
}

func (r *retention[TX]) replayBehind() {
	events := numbered("e", 30)
	r.write(events...)
	r.pass(lane.Destination)
	if replays, ok := r.Store.(relay.ReplayStore); ok {
		_, err := replays.CreateReplay(r.ctx, "again", relay.EventFilter{IDs: idsOf(events)[5:25]}, "the suite")
		r.must("create a replay", err)
		r.stays("the replay has to come", "again")
		l := r.openLane("again", 0, 1)
		page := r.read(l, 7)
		r.checkpoint(l, page.After)
		r.stays("the replay has begun", "again")
		rest, end := r.readReplay(l, 7)
		r.wantIDs("the replay", append(page.Entries, rest...), idsOf(events)[5:25]...)
		r.checkpoint(l, end)
	}
	r.empties("all have passed all")
	if replays, ok := r.Store.(relay.ReplayStore); ok {
		if _, err := replays.CreateReplay(r.ctx, "once more", relay.EventFilter{}, "the suite"); !errors.Is(err, relay.ErrNothingSelected) {
			r.Errorf("a replay of a log that is empty: %v", err)
		}
	}
}

// late commits events under numbers that others have passed.
func (r *retention[TX]) late() {
	if r.OneWriter { // nothing commits late
		r.write(event("late", "a"))
		r.stays("nobody has read", "")
		r.wantIDs("the log", r.pass(lane.Destination), "late")
		return
	}
	l := r.lead("reader")
	late := make([]TX, 3)
	for i := range late {
		late[i] = r.begin()
		r.append(late[i], event(fmt.Sprint("late", i), "a"))
		r.write(event(fmt.Sprint("e", i), "b"))
	}
	r.wantIDs("before the commits", r.passLog(l), "e0", "e1", "e2")
	for i, tx := range late {
		for range 2 { // while it is open
			r.retain(aLittle)
		}
		r.commit(tx)
		for range 2 { // and when it is committed and unread
			r.retain(aLittle)
		}
		r.write(event(fmt.Sprint("more", i), "b"))
		r.wantIDs("after a late commit", r.passLog(l), fmt.Sprint("late", i), fmt.Sprint("more", i))
	}
	r.empties("all have passed all")
}

// young events are those of which Event.Time is long past, as it is of an import.
func (r *retention[TX]) young() {
	const keep, apart, n = 300 * time.Millisecond, 40 * time.Millisecond, 8
	written := map[string]time.Time{}
	for i := range n {
		id := fmt.Sprint("e", i)
		written[id] = time.Now()
		r.write(event(id, "k"))
		r.pass(lane.Destination)
		r.aside()
		r.retain(10 * time.Minute)
		time.Sleep(apart / 2)
		r.retain(keep)
		time.Sleep(apart / 2)
		if i == 1 {
			if r.removed > 0 || r.emptied > 0 && time.Since(written["e0"]) < keep {
				r.Fatalf("%d events and %d leaves are gone at once", r.removed, r.emptied)
			}
		}
	}
	for len(written) > 0 {
		_, some := r.retain(keep)
		asked := time.Now()
		if !some {
			if r.ctx.Err() != nil {
				r.Fatalf("events stay for ever: %v", written)
			}
			time.Sleep(time.Millisecond)
			continue
		}
		left := r.left()
		for id, at := range written {
			if slices.Contains(left, id) {
				continue
			}
			if age := asked.Sub(at); age < keep {
				r.Fatalf("event %s is gone after %v, and was to be kept for %v", id, age, keep)
			}
			delete(written, id)
		}
	}
}

func (r *retention[TX]) outlasts() {
	l, entries := r.park()
	delayed := []surepost.Event{r.delayed("d1", "a", time.Hour), r.delayed("d2", "", 2*time.Hour)}
	r.schedule(delayed...)
	r.empties("with events parked and delayed")
	for _, p := range r.wantParked("behind the log", "a1", "b1", "n1", "a2", "n2", "a3") {
		if d := differences(p.Event, entries[p.Event.ID].Event); d != "" {
			r.Errorf("event %s: %s", p.Event.ID, d)
		}
	}
	keys, err := l.ParkedKeys(r.ctx)
	slices.Sort(keys)
	if r.must("read the parked keys", err); !slices.Equal(keys, []string{"a", "b"}) {
		r.Errorf("the parked keys are %q", keys)
	}
	r.retry(3, "a1", "n1", "n2")
	released := r.wantReleased("behind the log", l, "a1", "a2", "a3", "n1", "n2")
	for _, e := range released {
		if d := differences(e.Event, entries[e.Event.ID].Event); d != "" {
			r.Errorf("event %s is released: %s", e.Event.ID, d)
		}
	}
	r.unpark(l, released, nil, []string{"a", "b"}, "a")
	r.wantParked("after the retry", "b1")
	for i, d := range r.wantScheduled("behind the log", "d1", "d2") {
		if diff := differences(d.Event, delayed[i]); diff != "" || !d.Event.NotBefore.Equal(delayed[i].NotBefore) {
			r.Errorf("event %s, due at %s: %s", d.Event.ID, d.Event.NotBefore, diff)
		}
	}
}

func (r *retention[TX]) gone() {
	l := r.lead("reader")
	var highest int64
	for round := range 6 {
		events := numbered(fmt.Sprint("round ", round, " e"), 25)
		for chunk := range slices.Chunk(events, 10) {
			r.write(chunk...)
		}
		r.aside()
		var got []relay.Entry
		if round%2 == 0 {
			got = r.passLog(l)
		} else {
			l = r.reopen(l, "reader")
			got = r.passLog(l)
		}
		r.wantIDs(fmt.Sprint("round ", round), got, idsOf(events)...)
		for _, e := range got {
			if e.Seq <= highest {
				r.Fatalf("event %s has the number %d, and %d was given out before it", e.Event.ID, e.Seq, highest)
			}
			highest = e.Seq
		}
		removed, emptied := r.removed, r.emptied
		r.empties("all have passed all")
		if n := r.removed - removed; n != int64(len(events)) && (n > 0 || r.emptied == emptied) {
			r.Fatalf("%d events were removed, and %d leaves emptied; there were %d", n, r.emptied-emptied, len(events))
		}
		if report, some := r.retain(aLittle); some || len(report.Held) > 0 {
			r.Fatalf("of an empty log, Retain reports %s", report)
		}
	}
	r.wantIDs("the open log, at the end", r.readAll(l, 10))
	r.wantIDs("the reopened log, at the end", r.readAll(r.reopen(l, "reader"), 10))
}

// removing starts goroutines that call Retain until stop is called.
func (r *retention[TX]) removing(n int) (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	tasks := make([]task, n)
	for i := range tasks {
		store := r.Another(r.T).(relay.Retainer)
		tasks[i] = r.start("one who removes old events", func() error {
			for ctx.Err() == nil {
				if _, err := store.Retain(r.ctx, relay.Retention{Keep: aLittle}); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
			return nil
		})
	}
	return func() {
		r.Helper()
		cancel()
		for _, t := range tasks {
			r.must(t.what, r.ends(t))
		}
	}
}

func (r *retention[TX]) atWork() {
	_, seed := r.random()
	second := r.openLane("second", 0, 1)
	l := r.lead("reader")
	stop := r.removing(2)
	var mu sync.Mutex
	committed := map[string]bool{}
	const writers, each = 4, 12
	var writing []task
	for n := range writers {
		rnd := newRandom(seed, n)
		writing = append(writing, r.start("a writer", func() error {
			for i := range each {
				events := numbered(fmt.Sprintf("writer %d event %d.", n, i), 1+rnd.IntN(3))
				giveUp, late := rnd.IntN(5) == 0, time.Duration(rnd.IntN(8))*time.Millisecond
				err := r.transact(func(tx TX) error {
					if err := r.Store.Append(r.ctx, tx, events); err != nil {
						return err
					}
					time.Sleep(late)
					if giveUp {
						return errGiveUp
					}
					return nil
				})
				if err != nil && !(giveUp && errors.Is(err, errGiveUp)) {
					return err
				}
				mu.Lock()
				for _, e := range events {
					committed[e.ID] = err == nil
				}
				mu.Unlock()
			}
			return nil
		}))
	}
	got := map[string]map[string]bool{"first": {}, "second": {}}
	pass := func(name string, l relay.Log) {
		r.Helper()
		page := r.read(l, 7)
		for _, e := range page.Entries {
			got[name][e.Event.ID] = true
		}
		r.checkpoint(l, page.After)
	}
	for i, busy := 0, true; busy; i++ {
		busy = slices.ContainsFunc(writing, func(t task) bool { return len(t.done) == 0 })
		pass("first", l)
		if i%3 == 0 {
			pass("second", second)
		}
		if i%10 == 9 {
			l = r.reopen(l, "reader")
		}
	}
	for _, t := range writing {
		r.must(t.what, r.ends(t))
	}
	stop() // before the last event, so that it is there to be removed
	r.write(event("last", "k"))
	committed["last"] = true
	for name, l := range map[string]relay.Log{"first": l, "second": second} {
		for _, e := range r.passLog(l) {
			got[name][e.Event.ID] = true
		}
		for id, there := range committed {
			if there != got[name][id] {
				r.Errorf("the %s destination: event %s was committed: %v, and read: %v", name, id, there, got[name][id])
			}
		}
	}
	r.empties("at the end")
}

func (r *retention[TX]) cutOff() {
	rnd, _ := r.random()
	l := r.lead("reader")
	cut := 0
	for round := range 40 {
		events := numbered(fmt.Sprint("round ", round, " e"), 5)
		r.write(events...)
		r.wantIDs("what is new", r.passLog(l), idsOf(events)...)
		ctx, cancel := context.WithTimeout(r.ctx, time.Duration(rnd.IntN(3000))*time.Microsecond)
		if round%4 == 0 {
			cancel()
		}
		if _, err := r.store.Retain(ctx, relay.Retention{Keep: aLittle}); err != nil {
			cut++
		}
		cancel()
	}
	if cut < 10 {
		r.Errorf("%d of 40 calls were cut off, and the context of ten had ended before", cut)
	}
	r.write(event("last", "k"))
	r.passLog(l)
	r.empties("after calls that were cut off")
}

func (r *retention[TX]) atOnce() {
	events := numbered("e", 500)
	r.write(events...)
	l := r.lead("reader")
	r.passLog(l)
	time.Sleep(time.Millisecond)
	removers := make([]relay.Retainer, 6)
	for i := range removers {
		removers[i] = r.Another(r.T).(relay.Retainer)
	}
	var mu sync.Mutex
	emptied := 0
	var removed int64
	r.all("one who removes old events", len(removers), func(n int) error {
		for range 5 {
			report, err := removers[n].Retain(r.ctx, relay.Retention{Keep: aLittle})
			if err != nil {
				return err
			}
			mu.Lock()
			emptied += report.Emptied
			removed += report.Removed
			mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if removed == 0 && emptied == 0 {
		r.empties("all at once have left it")
		removed, emptied = r.removed, r.emptied
	}
	if removed != int64(len(events)) && (removed > 0 || emptied == 0) {
		r.Errorf("%d events were removed, and %d leaves emptied, of %d events", removed, emptied, len(events))
	}
	r.wantLeft("after all")
	r.write(event("more", "k"))
	r.wantIDs("what is new", r.passLog(l), "more")
}

func (r *retention[TX]) notPositive() {
	r.write(numbered("e", 3)...)
	r.pass(lane.Destination)
	for _, keep := range []time.Duration{0, -1, -time.Hour} {
		for range 4 {
			if report, err := r.store.Retain(r.ctx, relay.Retention{Keep: keep}); err == nil {
				r.Fatalf("a retention of %v is taken: %s", keep, report)
			}
		}
	}
	r.wantLeft("after refusals", idsOf(numbered("e", 3))...)
}
