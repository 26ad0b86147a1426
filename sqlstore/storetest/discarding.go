package storetest

import (
	"fmt"
	"slices"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// What an operator discarded is published to nobody, also where it is read again: behind the oldest place of the lanes, when their
// number has changed.

// ofLane returns events e0, e1 …, each of a key of its own, which are of one of two lanes.
func ofLane(lane, n int) (events []surepost.Event) {
	for i := 0; len(events) < n; i++ {
		if e := event(fmt.Sprint("e", i), fmt.Sprint("k", i)); e.Slot()%2 == lane {
			events = append(events, e)
		}
	}
	return events
}

// passAndPark lets the log's lane pass what is there, and park these.
func (s *suite[TX]) passAndPark(l relay.Log, ids ...string) {
	s.Helper()
	for {
		page := s.read(l, 4)
		var parked []relay.Parked
		for _, e := range page.Entries {
			if slices.Contains(ids, e.Event.ID) {
				parked = append(parked, relay.Parked{Entry: e, Reason: "x"})
			}
		}
		s.checkpoint(l, page.After, parked...)
		if !page.Full {
			return
		}
	}
}

func (s *suite[TX]) discardOf(destination string, ids ...string) {
	s.Helper()
	n, err := s.Store.DiscardParked(s.ctx, relay.ParkedFilter{Destination: destination, IDs: ids}, "the suite")
	if int(n) != len(ids) || err != nil {
		s.Fatalf("discarded %d events (%v), want %q", n, err, ids)
	}
}

func (s *suite[TX]) wantParkedOf(what, destination string, want ...string) {
	s.Helper()
	list, err := s.Store.Parked(s.ctx, relay.ParkedFilter{Destination: destination}, 1000)
	s.must("list parked events", err)
	var got []string
	for _, p := range list {
		got = append(got, p.Event.ID)
	}
	if !slices.Equal(got, want) {
		s.Fatalf("%s: the parked events are %q, want %q", what, got, want)
	}
}

func (s *suite[TX]) discardedStay(store relay.LaneStore) {
	events, behind := ofLane(0, 9), ofLane(1, 1)
	parked := idsOf([]surepost.Event{events[0], events[1], events[4], events[7], events[8]})
	s.write(behind...)
	s.write(events...)
	s.join(store, "a", "1", 2, long)
	s.passAndPark(s.openLog(store, s.acquire(store, laneOf(0, 2), "a")), parked...)
	// Lane 1 has gone nowhere, so that all is read again.
	s.discardOf(shared, parked[0], parked[2])
	s.must("change the number of lanes", store.SetLanes(s.ctx, shared, 1))
	l := s.openLog(store, s.acquire(store, laneOf(0, 1), "a"))
	s.discardOf(shared, parked[3:]...) // the log is open, and hasn't come to them
	want := append(idsOf(behind), idsOf(events[1:4])...)
	want = append(want, idsOf(events[5:7])...)
	got := s.readAll(l, 2)
	s.wantIDs("what is read again", got, want...)
	s.wantParkedOf("after four of five were discarded", shared, parked[1])

	// The position behind them is to be stored, as behind what is published.
	l = s.openLog(s.Another(s.T), s.acquire(store, laneOf(0, 1), "a"))
	var all []relay.Entry
	for range events {
		if len(all) < len(want) {
			all = append(all, s.read(l, 1).Entries...)
		}
	}
	s.wantIDs("up to what was discarded last", all, want...)
	page := s.read(l, 10)
	if len(page.Entries) > 0 || !page.Full {
		s.Fatalf("a page of nothing but what was discarded has %d events, and says that there may be more: %v", len(page.Entries), page.Full)
	}
	if next := s.read(l, 10); len(next.Entries) > 0 || next.Full {
		s.Fatalf("the page behind it has %d events, and says that there may be more: %v", len(next.Entries), next.Full)
	}
	s.checkpoint(l, page.After)
	s.write(event("new", ""))
	s.wantIDs("behind the checkpoint", s.readAll(s.openLog(store, s.acquire(store, laneOf(0, 1), "a")), 10), "new")
}

func (s *suite[TX]) discardedMeanwhile(store relay.LaneStore) {
	events := ofLane(0, 3)
	events[2].Key = "" // without a key, it may be of either lane
	parked := idsOf(events)
	s.write(events...)
	s.join(store, "a", "1", 2, long)
	for i := range 2 {
		l := s.openLog(store, s.acquire(store, laneOf(i, 2), "a"))
		if i == events[0].Slot()%2 {
			s.passAndPark(l, parked...)
			continue
		}
		for _, e := range s.readAll(l, 10) {
			parked = slices.DeleteFunc(parked, func(id string) bool { return id == e.Event.ID })
		}
	}
	s.must("change the number of lanes", store.SetLanes(s.ctx, shared, 1))
	l := s.openLog(store, s.acquire(store, laneOf(0, 1), "a"))
	page := s.read(l, 10)
	s.wantIDs("what is read again", page.Entries, idsOf(events)...)
	s.discardOf(shared, parked[0])
	var again []relay.Parked
	for _, e := range page.Entries {
		again = append(again, relay.Parked{Entry: e, Behind: true, Reason: "its key has a parked event"})
	}
	s.checkpoint(l, page.After, again...)
	left := idsOf(events[1:])
	s.wantParkedOf("after one was discarded that was on its way to be parked again", shared, left...)

	// The relay may take its key for one with a parked event. The next one finds that it is clear.
	next := event("next", events[0].Key)
	s.write(next)
	page = s.read(l, 10)
	s.wantIDs("what was written since", page.Entries, "next")
	s.checkpoint(l, page.After, relay.Parked{Entry: page.Entries[0], Behind: true, Reason: "its key has a parked event"})
	released, err := l.Released(s.ctx, 10)
	s.must("read what is released", err)
	if i := slices.IndexFunc(released, func(e relay.Entry) bool { return e.Event.ID == "next" }); i < 0 {
		s.Fatalf("behind an event that was discarded, nothing is released: %q", ids(released))
	} else {
		s.unpark(l, released[i:i+1], nil, []string{next.Key}, next.Key)
	}
}

func (s *suite[TX]) discardedElsewhere(store relay.ReplayStore) {
	events := ofLane(0, 5)
	s.write(events...)
	l := s.lead("a")
	s.passAndPark(l, events[1].ID, events[2].ID)
	s.discard(2, events[1].ID, events[2].ID)
	replay := func() {
		s.Helper()
		_, err := store.CreateReplay(s.ctx, "again", relay.EventFilter{}, "")
		s.must("create a replay", err)
		again := s.openLane("again", 0, 1)
		got, _ := s.readReplay(again, 2)
		s.wantIDs("a replay", got, idsOf(events)...)
		s.must("close the log", again.Close(s.ctx))
	}
	replay()
	if several, ok := s.Store.(relay.LaneStore); ok { // what was discarded of the replay itself
		s.must("change the number of lanes", several.SetLanes(s.ctx, "again", 2))
		s.passAndPark(s.openLane("again", 0, 2), events[0].ID, events[3].ID)
		s.discardOf("again", events[0].ID, events[3].ID)
		s.must("change the number of lanes", several.SetLanes(s.ctx, "again", 1))
		got, _ := s.readReplay(s.openLane("again", 0, 1), 2)
		s.wantIDs("a replay with new lanes", got, events[1].ID, events[2].ID, events[4].ID)
	}
	s.leaveLane("again")
	s.must("remove the replay", store.RemoveDestination(s.ctx, "again"))
	replay() // of the same name
}
