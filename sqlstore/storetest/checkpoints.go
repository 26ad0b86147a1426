package storetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// checkpoints is what relay.Log's Checkpoint and relay.Store's Open ask for.
func checkpoints[TX any]() []promise[TX] {
	return []promise[TX]{
		{"a log goes on at its checkpoint", (*suite[TX]).goesOn},
		{"without a checkpoint everything comes again", (*suite[TX]).comesAgain},
		{"a checkpoint passes nothing that was read after it", (*suite[TX]).readAhead},
		{"take-overs never go back", (*suite[TX]).takeOvers},
		{"a lost lease stores no checkpoint", (*suite[TX]).staleCheckpoint},
		{"of two owners one stores checkpoints", (*suite[TX]).twoOwners},
		{"destinations have places of their own", (*suite[TX]).destinations},
		{"lanes share the log without overlap", (*suite[TX]).lanes},
	}
}

func (s *suite[TX]) goesOn() {
	events := numbered("e", 20)
	s.write(events...)
	l := s.lead("a")
	page := s.read(l, 7)
	s.checkpoint(l, page.After)
	s.wantIDs("the same log", s.read(l, 3).Entries, idsOf(events[7:10])...)
	l = s.reopen(l, "a")
	s.wantIDs("opened again", s.readAll(l, 5), idsOf(events[7:])...)
	other := s.Another(s.T)
	s.must("close the log", l.Close(s.ctx))
	l = s.openLog(other, s.acquire(other, lane, "a"))
	page = s.read(l, 100)
	s.wantIDs("opened by another store", page.Entries, idsOf(events[7:])...)
	s.checkpoint(l, page.After)
	l = s.reopen(l, "a")
	s.wantIDs("at the end", s.readAll(l, 5))
	s.write(event("more", "k"))
	s.wantIDs("what is new", s.readAll(l, 5), "more")
}

func (s *suite[TX]) comesAgain() {
	events := numbered("e", 20)
	s.write(events...)
	for range 3 {
		l := s.lead("a")
		s.wantIDs("a log without a checkpoint", s.readAll(l, 6), idsOf(events)...)
		s.must("close the log", l.Close(s.ctx))
	}
	l := s.lead("a")
	page := s.read(l, 5)
	s.readAll(l, 5)
	s.checkpoint(l, page.After)
	for range 3 {
		l = s.reopen(l, "a")
		s.wantIDs("behind the checkpoint", s.readAll(l, 6), idsOf(events[5:])...)
	}
}

func (s *suite[TX]) readAhead() {
	events := numbered("e", 30)
	s.write(events...)
	l := s.lead("a")
	var places []relay.Position
	for range 6 {
		places = append(places, s.read(l, 5).After)
	}
	for i, at := range places {
		s.checkpoint(l, at)
		if i%2 == 0 {
			continue
		}
		again := s.openLog(s.Store, s.acquire(s.Store, lane, "a"))
		s.wantIDs(fmt.Sprint("behind page ", i), s.readAll(again, 100), idsOf(events[5*(i+1):])...)
		// The old log has lost its lease: the new one reads ahead in its place.
		s.must("close the log", l.Close(s.ctx))
		s.must("close the log", again.Close(s.ctx))
		l = s.lead("a")
		places = places[:i+1]
		for range 5 - i {
			places = append(places, s.read(l, 5).After)
		}
	}
	s.wantIDs("at the end", s.readAll(s.reopen(l, "a"), 5))
}

func (s *suite[TX]) takeOvers() {
	stores := []Store[TX]{s.Store, s.Another(s.T)}
	var all, got []string
	for n := range 12 {
		events := numbered(fmt.Sprint("round ", n, " event "), 6)
		s.write(events...)
		all = append(all, idsOf(events)...)

		store, owner := stores[n%2], fmt.Sprint("owner ", n)
		lease := s.acquire(store, lane, owner)
		l := s.openLog(store, lease)
		for range 1 + n%3 {
			page := s.read(l, 3)
			got = append(got, ids(page.Entries)...)
			s.checkpoint(l, page.After)
		}
		s.read(l, 2) // and isn't stored
		s.must("close the log", l.Close(s.ctx))
		s.must("release the lease", store.Release(s.ctx, lease))
	}
	l := s.lead("last")
	got = append(got, ids(s.readAll(l, 100))...)
	if !slices.Equal(got, all) {
		s.Errorf("over twelve take-overs came %s, want every event once, in order", shorten(got))
	}
}

// overtaken returns a log with a page that was read, whose lease another owner has taken since.
func (s *suite[TX]) overtaken() (stale relay.Log, page relay.Page, old, successor relay.Lease) {
	s.Helper()
	old, err := s.Store.Acquire(s.ctx, lane, "old", 50*time.Millisecond)
	s.must("acquire", err)
	stale = s.openLog(s.Store, old)
	page = s.read(stale, 3)
	other := s.Another(s.T)
	successor = s.acquireWhenFree(other, "new", long)
	if successor.Epoch <= old.Epoch {
		s.Fatalf("epoch %d was given out after epoch %d", successor.Epoch, old.Epoch)
	}
	return stale, page, old, successor
}

func wantLost(s interface {
	Helper()
	Errorf(string, ...any)
}, doing string, err error) {
	s.Helper()
	if !errors.Is(err, relay.ErrLeaseLost) {
		s.Errorf("%s with a lost lease: %v, want relay.ErrLeaseLost", doing, err)
	}
}

func (s *suite[TX]) staleCheckpoint() {
	events := numbered("e", 9)
	s.write(events...)
	stale, page, _, successor := s.overtaken()
	wantLost(s, "a checkpoint", stale.Checkpoint(s.ctx, page.After, []relay.Parked{{Entry: page.Entries[0], Reason: "x"}}))
	l := s.openLog(s.Store, successor)
	s.wantIDs("the successor", s.readAll(l, 4), idsOf(events)...)
	parked, err := s.Store.Parked(s.ctx, relay.ParkedFilter{}, 10)
	if err != nil || len(parked) != 0 {
		s.Errorf("the lost lease has parked %d events (%v)", len(parked), err)
	}

	// The same owner's older lease is as lost.
	stale = l
	at := s.read(s.openLog(s.Store, successor), 2).After
	again := s.acquire(s.Store, lane, "new")
	wantLost(s, "a checkpoint", stale.Checkpoint(s.ctx, at, nil))

	// What the successor has stored stays.
	l = s.openLog(s.Store, again)
	s.checkpoint(l, s.read(l, 5).After)
	if l, err := s.Store.Open(s.ctx, successor); err == nil {
		p, err := l.Read(s.ctx, 1)
		if err == nil {
			wantLost(s, "a checkpoint", l.Checkpoint(s.ctx, p.After, nil))
		}
		_ = l.Close(s.ctx)
	} else {
		wantLost(s, "opening", err)
	}
	s.wantIDs("after all", s.readAll(s.reopen(l, "new"), 4), idsOf(events[5:])...)
}

// twoOwners lets two relays, which hand the lane to each other, checkpoint as fast as they can.
func (s *suite[TX]) twoOwners() {
	events := numbered("e", 120)
	s.write(events...)
	passed := make([][]string, 2) // by each, in the order of its checkpoints
	s.all("a relay", 2, func(n int) error {
		store := s.Store
		for range 20 {
			lease, err := store.Acquire(s.ctx, lane, "both", long) // each fences the other
			if err != nil {
				return err
			}
			l, err := store.Open(s.ctx, lease)
			if errors.Is(err, relay.ErrLeaseLost) {
				continue
			}
			if err != nil {
				return err
			}
			for range 3 {
				page, err := l.Read(s.ctx, 1)
				if err == nil {
					err = l.Checkpoint(s.ctx, page.After, nil)
				}
				if errors.Is(err, relay.ErrLeaseLost) {
					break
				}
				if err != nil {
					return errors.Join(err, l.Close(s.ctx))
				}
				passed[n] = append(passed[n], ids(page.Entries)...)
			}
			if err := l.Close(s.ctx); err != nil {
				return err
			}
		}
		return nil
	})
	got := append(append([]string{}, passed[0]...), passed[1]...)
	got = append(got, ids(s.readAll(s.lead("both"), 50))...)
	slices.Sort(got)
	want := idsOf(events)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("%d events were passed by a checkpoint or left, each must be that once, and they are %d", len(got), len(want))
	}
}

// wantHalt demands that the lane can't be opened, for good.
func (s *suite[TX]) wantHalt(l relay.Lane) {
	s.Helper()
	lease, err := s.Store.Acquire(s.ctx, l, "a", long)
	if err == nil {
		var opened relay.Log
		if opened, err = s.Store.Open(s.ctx, lease); err == nil {
			_ = opened.Close(s.ctx)
		}
	}
	if !errors.Is(err, relay.ErrHalt) {
		s.Errorf("lane %s: %v; want an error that matches relay.ErrHalt, as the Backend declares", l, err)
	}
}

func (s *suite[TX]) destinations() {
	elsewhere := relay.Lane{Destination: "elsewhere", Of: 1}
	if s.OneDestination {
		s.wantHalt(elsewhere)
		return
	}
	events := numbered("e", 10)
	s.write(events...)
	one, two := s.lead("a"), s.openLog(s.Store, s.acquire(s.Store, elsewhere, "b"))
	page := s.read(one, 6)
	s.checkpoint(one, page.After, relay.Parked{Entry: page.Entries[1], Reason: "x"})
	page = s.read(two, 3)
	s.checkpoint(two, page.After)
	one = s.reopen(one, "a")
	s.must("close the log", two.Close(s.ctx))
	two = s.openLog(s.Store, s.acquire(s.Store, elsewhere, "b"))
	s.wantIDs("the one", s.readAll(one, 100), idsOf(events[6:])...)
	s.wantIDs("the other", s.readAll(two, 100), idsOf(events[3:])...)
	for l, want := range map[relay.Log]int{one: 1, two: 0} {
		keys, err := l.ParkedKeys(s.ctx)
		if err != nil || len(keys) != want {
			s.Errorf("the parked keys are %q (%v), want %d", keys, err, want)
		}
	}
	for destination, want := range map[string]int{"": 1, relay.DefaultDestination: 1, "elsewhere": 0} {
		filter := relay.ParkedFilter{Destination: destination}
		parked, err := s.Store.Parked(s.ctx, filter, 10)
		if err != nil || len(parked) != want {
			s.Errorf("destination %q has %d parked events (%v), want %d", destination, len(parked), err, want)
		}
	}
	n, err := s.Store.DiscardParked(s.ctx, relay.ParkedFilter{Destination: "elsewhere"}, "the suite")
	if n != 0 || err != nil {
		s.Errorf("of another destination, %d parked events were discarded (%v)", n, err)
	}

	// One that comes late begins at the beginning.
	late := s.openLog(s.Store, s.acquire(s.Store, relay.Lane{Destination: "late", Of: 1}, "c"))
	s.wantIDs("a late one", s.readAll(late, 100), idsOf(events)...)
}

func (s *suite[TX]) lanes() {
	two := [2]relay.Lane{{Destination: relay.DefaultDestination, Index: 0, Of: 2}, {Destination: relay.DefaultDestination, Index: 1, Of: 2}}
	if s.OneLane {
		for _, l := range two {
			s.wantHalt(l)
		}
		return
	}
	var events []surepost.Event
	var want [2][]string
	for i := range 40 {
		e := event(fmt.Sprint("e", i), fmt.Sprint("key ", i%11))
		if i%5 == 0 {
			e.Key = ""
		}
		events = append(events, e)
		want[e.Slot()%2] = append(want[e.Slot()%2], e.ID)
	}
	s.write(events...)
	for i, lane := range two {
		l := s.openLog(s.Store, s.acquire(s.Store, lane, fmt.Sprint("owner ", i)))
		page := s.read(l, 5)
		s.wantIDs("lane "+lane.String(), page.Entries, want[i][:5]...)
		s.checkpoint(l, page.After, relay.Parked{Entry: keyed(page.Entries), Reason: "x"})
		l = s.openLog(s.Store, s.acquire(s.Store, lane, fmt.Sprint("owner ", i)))
		s.wantIDs("lane "+lane.String(), s.readAll(l, 5), want[i][5:]...)
		if keys, err := l.ParkedKeys(s.ctx); err != nil || !slices.Equal(keys, []string{keyed(page.Entries).Event.Key}) {
			s.Errorf("lane %s has the parked keys %q (%v), want its own", lane, keys, err)
		}
		if _, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{}, "the suite"); err != nil {
			s.Error(err)
		}
		released, err := l.Released(s.ctx, 10)
		s.must("read what is released", err)
		s.wantIDs("what lane "+lane.String()+" has released", released, keyed(page.Entries).Event.ID)
	}
}

// keyed returns the first entry with a key.
func keyed(entries []relay.Entry) relay.Entry {
	return entries[slices.IndexFunc(entries, func(e relay.Entry) bool { return e.Event.Key != "" })]
}
