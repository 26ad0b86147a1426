package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// replaying is what relay.ReplayStore asks for.
func replaying[TX any]() []promise[TX] {
	of := func(name string, test func(*suite[TX], relay.ReplayStore)) promise[TX] {
		return promise[TX]{name, func(s *suite[TX]) {
			store, ok := s.Store.(relay.ReplayStore)
			if ok == s.NoReplays {
				s.Fatalf("that the store is a relay.ReplayStore is %v, and Backend.NoReplays is %v", ok, s.NoReplays)
			}
			if ok {
				test(s, store)
			}
		}}
	}
	return []promise[TX]{
		of("a destination begins where it is told", (*suite[TX]).beginnings),
		of("a replay is what its filter selects", (*suite[TX]).selects),
		of("what commits late is no part of a replay", (*suite[TX]).lateForReplay),
		of("a replay goes on from its checkpoint", (*suite[TX]).resumes),
		of("a replay is done with its last lane", (*suite[TX]).lastLane),
		of("a replay of nothing changes nothing", (*suite[TX]).replaysNothing),
		of("a destination in use isn't removed", (*suite[TX]).removals),
		of("a removed destination is forgotten", (*suite[TX]).forgotten),
		of("a replay takes what was discarded elsewhere", (*suite[TX]).discardedElsewhere),
	}
}

// openLane takes a lane's lease and opens its log.
func (s *suite[TX]) openLane(destination string, index, of int) relay.Log {
	s.Helper()
	return s.openLog(s.Store, s.acquire(s.Store, relay.Lane{Destination: destination, Index: index, Of: of}, "reader"))
}

// leaveLane ends the lease of a destination's only lane, so that nobody is alive on it.
func (s *suite[TX]) leaveLane(destination string) {
	s.Helper()
	lease := s.acquire(s.Store, relay.Lane{Destination: destination, Of: 1}, "reader")
	s.must("release the lease", s.Store.Release(s.ctx, lease))
}

// readReplay reads to the end of a replay's log.
func (s *suite[TX]) readReplay(l relay.Log, most int) (entries []relay.Entry, end relay.Position) {
	s.Helper()
	for n := 0; ; n++ {
		page := s.read(l, most)
		entries = append(entries, page.Entries...)
		if page.Done {
			if page.Full {
				s.Error("a page is the last, and says that there may be more")
			}
			return entries, page.After
		}
		if !page.Full {
			s.Fatal("a page of a replay isn't the last, and says that there is no more at the moment: nothing will come")
		}
		if n > 1000 {
			s.Fatal("a thousand pages of a small replay weren't the last")
		}
	}
}

func (s *suite[TX]) beginnings(store relay.ReplayStore) {
	start := event("", "").Time
	at := func(id string, minutes int) surepost.Event {
		e := event(id, id)
		e.Time = start.Add(time.Duration(minutes) * time.Minute)
		return e
	}
	s.write(at("e0", 0), at("e1", 1), at("e2", 2))
	var late TX
	if !s.OneWriter {
		late = s.begin()
		s.append(late, at("late", 0))
	}
	s.write(at("e3", 3), at("backdated", 0))
	froms := map[string]relay.Start{
		"beginning": relay.FromBeginning(), "now": relay.FromNow(), "the second": relay.FromTime(start.Add(time.Minute)),
		"between": relay.FromTime(start.Add(2*time.Minute + time.Second)), "idle": relay.FromTime(start.Add(time.Hour)),
	}
	for name, from := range froms {
		s.must("create the destination that begins at "+name, store.CreateDestination(s.ctx, name, from))
	}
	s.write(at("after", 0))
	want := map[string][]string{
		"beginning": {"e0", "e1", "e2", "e3", "backdated", "after"}, "now": {"after"}, "the second": {"e1", "e2", "e3", "backdated", "after"},
		"between": {"e3", "backdated", "after"}, "idle": {"after"},
	}
	if !s.OneWriter {
		s.commit(late)
	}
	check := func(name string) {
		s.Helper()
		want := slices.Clone(want[name])
		if !s.OneWriter {
			want = append(want, "late")
		}
		got := ids(s.readAll(s.openLane(name, 0, 1), 2))
		slices.Sort(got) // where late comes is the cut's affair
		slices.Sort(want)
		if !slices.Equal(got, want) {
			s.Errorf("the destination that begins at %s has %q, want %q", name, got, want)
		}
	}
	for name := range froms {
		check(name)
	}
	list, err := store.Destinations(s.ctx)
	if err != nil || len(list) != len(froms) {
		s.Fatalf("there are %+v (%v), want the %d that were created", list, err, len(froms))
	}
	for i, d := range list {
		if _, ok := froms[d.Name]; !ok || d.Lanes != 1 || d.CreatedAt.IsZero() || d.Replay != nil || i > 0 && list[i-1].Name >= d.Name {
			s.Errorf("there is %+v", d)
		}
	}
	if err := store.CreateDestination(s.ctx, "now", relay.FromBeginning()); !errors.Is(err, relay.ErrDestinationExists) {
		s.Errorf("creating one that is there: %v", err)
	}
	for what, err := range map[string]error{
		"in the future":  store.CreateDestination(s.ctx, "new", relay.FromTime(time.Now().Add(time.Hour))),
		"without a name": store.CreateDestination(s.ctx, "", relay.FromNow()),
	} {
		if err == nil {
			s.Errorf("a destination %s is created", what)
		}
	}
	check("now")
}

// varied returns events that differ in all that a filter looks at.
func varied(n int) []surepost.Event {
	events := numbered("e", n)
	for i := range events {
		e := &events[i]
		e.Type, e.Source = []string{"A", "B", "C"}[i%3], []string{"s", "t"}[i/2%2]
		e.Key = []string{"", "a", "b", `c "\`, "d"}[i%5]
		e.Time = e.Time.Add(time.Duration(i) * time.Second)
		if i%4 == 0 {
			e.CorrelationID, e.Headers = "flow", map[string]string{"h": "v"}
		}
	}
	return events
}

func (s *suite[TX]) selects(store relay.ReplayStore) {
	events := varied(60)
	s.write(events[:30]...)
	s.write(events[30:]...)
	at := func(i int) time.Time { return events[i].Time }
	for n, f := range []relay.EventFilter{
		{}, {Types: []string{"A"}}, {Types: []string{"B", "C", "D"}}, {Keys: []string{`c "\`, "a"}}, {Sources: []string{"t"}},
		{IDs: []string{"e59", "e0", "e100"}}, {CorrelationID: "flow"}, {CorrelationID: "e1"}, {Since: at(50)}, {Until: at(7)},
		{Since: at(7), Until: at(8)}, {Since: at(7).Add(1), Until: at(8).Add(1)},
		{Types: []string{"A", "B"}, Keys: []string{"a", "b"}, Sources: []string{"s"}, Since: at(10), Until: at(55)},
	} {
		var want []string
		byID, byType := map[string]surepost.Event{}, map[string]int64{}
		for _, e := range events {
			if f.Matches(&e) {
				want = append(want, e.ID)
				byID[e.ID] = e
				byType[e.Type]++
			}
		}
		if counts, err := store.CountEvents(s.ctx, f); err != nil || !maps.Equal(counts, byType) {
			s.Errorf("of %+v there are %v (%v), want %v", f, counts, err, byType)
		}
		name := fmt.Sprint("replay ", n)
		created, err := store.CreateReplay(s.ctx, name, f, "somebody")
		s.must("create a replay", err)
		if created.Name != name || created.Lanes != 1 || created.Replay == nil || created.Replay.CreatedBy != "somebody" || !created.Replay.DoneAt.IsZero() {
			s.Errorf("created is %+v", created)
		}
		got, _ := s.readReplay(s.openLane(name, 0, 1), 4)
		s.wantIDs(fmt.Sprintf("the replay of %+v", f), got, want...)
		for _, e := range got {
			if mark := e.Event.Headers[relay.HeaderReplay]; mark != name {
				s.Errorf("an event of %q has the header %q", name, mark)
			}
			delete(e.Event.Headers, relay.HeaderReplay)
			if d := differences(e.Event, byID[e.Event.ID]); d != "" {
				s.Errorf("event %s, but for the header: %s", e.Event.ID, d)
			}
		}
	}
	for _, e := range s.readAll(s.lead("a"), 100) {
		if _, marked := e.Event.Headers[relay.HeaderReplay]; marked {
			s.Errorf("event %s of the default destination is marked", e.Event.ID)
		}
	}
}

func (s *suite[TX]) lateForReplay(store relay.ReplayStore) {
	s.write(event("e0", "a"))
	var late, open TX
	if !s.OneWriter {
		late, open = s.begin(), s.begin()
		s.append(late, event("late", "a"))
		s.append(open, event("open", "b"))
	}
	s.write(event("e1", "c"))
	_, err := store.CreateReplay(s.ctx, "again", relay.EventFilter{}, "")
	s.must("create a replay", err)
	if !s.OneWriter {
		s.commit(late)
	}
	s.write(event("after", "a"))
	got, _ := s.readReplay(s.openLane("again", 0, 1), 1)
	s.wantIDs("the replay", got, "e0", "e1")
}

func (s *suite[TX]) replay(store relay.ReplayStore, name string) relay.Replay {
	s.Helper()
	list, err := store.Destinations(s.ctx)
	s.must("list the destinations", err)
	i := slices.IndexFunc(list, func(d relay.Destination) bool { return d.Name == name && d.Replay != nil })
	if i < 0 {
		s.Fatalf("there is no replay %q in %+v", name, list)
	}
	return *list[i].Replay
}

func (s *suite[TX]) resumes(store relay.ReplayStore) {
	events := numbered("e", 30)
	s.write(events...)
	f := relay.EventFilter{Keys: []string{"key 0", "key 1"}, Since: events[0].Time.Add(-time.Hour), Until: events[0].Time.Add(time.Hour)}
	_, err := store.CreateReplay(s.ctx, "again", f, "somebody")
	s.must("create a replay", err)
	l := s.openLane("again", 0, 1)
	page := s.read(l, 7)
	parked := page.Entries[2]
	s.checkpoint(l, page.After, relay.Parked{Entry: parked, Reason: "x"})
	l = s.openLane("again", 0, 1)
	rest, end := s.readReplay(l, 7)
	if len(page.Entries)+len(rest) != 20 || rest[0].Event.ID == page.Entries[6].Event.ID {
		s.Errorf("behind the first 7 of 20 there are %d, from %s", len(rest), rest[0].Event.ID)
	}
	if r := s.replay(store, "again"); !r.DoneAt.IsZero() {
		s.Errorf("done at %s, before the last checkpoint", r.DoneAt)
	}
	s.checkpoint(l, end)
	r := s.replay(store, "again")
	if r.DoneAt.IsZero() || r.CreatedBy != "somebody" || !slices.Equal(r.Filter.Keys, f.Keys) || !r.Filter.Since.Equal(f.Since) || !r.Filter.Until.Equal(f.Until) {
		s.Errorf("after the last checkpoint it is %+v", r)
	}
	l = s.openLane("again", 0, 1)
	none, end := s.readReplay(l, 7)
	s.wantIDs("after the end", none)
	s.checkpoint(l, end)
	if again := s.replay(store, "again"); !again.DoneAt.Equal(r.DoneAt) {
		s.Errorf("done at %s, and then at %s", r.DoneAt, again.DoneAt)
	}

	// What was parked and is tried again is marked as well.
	_, err = s.Store.RetryParked(s.ctx, relay.ParkedFilter{Destination: "again"}, "the suite")
	s.must("retry", err)
	released, err := l.Released(s.ctx, 10)
	s.must("read what is released", err)
	s.wantIDs("released", released, parked.Event.ID)
	if mark := released[0].Event.Headers[relay.HeaderReplay]; mark != "again" {
		s.Errorf("an event that was parked has the header %q", mark)
	}
}

func (s *suite[TX]) lastLane(store relay.ReplayStore) {
	s.write(varied(40)...)
	_, err := store.CreateReplay(s.ctx, "again", relay.EventFilter{}, "")
	s.must("create a replay", err)
	lanes := 1
	if several, ok := s.Store.(relay.LaneStore); ok && !s.OneLane {
		lanes = 3
		s.must("change the number of lanes", several.SetLanes(s.ctx, "again", lanes))
	}
	all := 0
	for i := range lanes {
		if r := s.replay(store, "again"); !r.DoneAt.IsZero() {
			s.Fatalf("done at %s, with %d of %d lanes", r.DoneAt, i, lanes)
		}
		l := s.openLane("again", i, lanes)
		entries, end := s.readReplay(l, 6)
		all += len(entries)
		s.checkpoint(l, end)
	}
	if s.replay(store, "again").DoneAt.IsZero() || all != 40 {
		s.Errorf("with all %d lanes at their ends, %d of 40 events have come, and it is %+v", lanes, all, s.replay(store, "again"))
	}
}

func (s *suite[TX]) replaysNothing(store relay.ReplayStore) {
	start := event("", "").Time
	refused := func(what, name string, f relay.EventFilter, is error) {
		s.Helper()
		if _, err := store.CreateReplay(s.ctx, name, f, ""); err == nil || is != nil && !errors.Is(err, is) {
			s.Errorf("a replay of %s: %v", what, err)
		}
	}
	refused("an empty log", "r", relay.EventFilter{}, relay.ErrNothingSelected)
	s.write(numbered("e", 5)...)
	s.must("create a destination", store.CreateDestination(s.ctx, "taken", relay.FromBeginning()))
	refused("what isn't there", "r", relay.EventFilter{Types: []string{"Unheard of"}}, relay.ErrNothingSelected)
	refused("an empty range", "r", relay.EventFilter{Since: start, Until: start}, nil)
	refused("an inverted range", "r", relay.EventFilter{Since: start.Add(time.Hour), Until: start}, nil)
	refused("a taken name", "taken", relay.EventFilter{}, relay.ErrDestinationExists)
	refused("no name", "", relay.EventFilter{}, nil)
	if _, err := store.CountEvents(s.ctx, relay.EventFilter{Since: start, Until: start}); err == nil {
		s.Error("an empty range is counted")
	}
	list, err := store.Destinations(s.ctx)
	if err != nil || len(list) != 1 || list[0].Name != "taken" || list[0].Replay != nil {
		s.Errorf("there are %+v (%v), want the one that was created", list, err)
	}
	s.wantIDs("the one whose name was taken", s.readAll(s.openLane("taken", 0, 1), 10), idsOf(numbered("e", 5))...)
}

func (s *suite[TX]) removals(store relay.ReplayStore) {
	s.write(numbered("e", 10)...)
	refused := func(what, name string, is error) {
		s.Helper()
		if err := store.RemoveDestination(s.ctx, name); err == nil || is != nil && !errors.Is(err, is) {
			s.Errorf("removing %s: %v", what, err)
		}
	}
	refused("what isn't there", "first", relay.ErrNoDestination)
	s.must("create a destination", store.CreateDestination(s.ctx, "first", relay.FromBeginning()))
	_, err := store.CreateReplay(s.ctx, "again", relay.EventFilter{}, "")
	s.must("create a replay", err)
	refused("the only one that isn't a replay", "first", nil)
	s.must("create a destination", store.CreateDestination(s.ctx, "second", relay.FromNow()))
	l := s.openLane("first", 0, 1)
	refused("one whose lane is led", "first", nil)
	page := s.read(l, 4)
	s.checkpoint(l, page.After, relay.Parked{Entry: page.Entries[0], Reason: "x"})
	s.leaveLane("first")
	refused("one with a parked event", "first", nil)
	l = s.openLane("first", 0, 1)
	s.wantIDs("after the refusals", s.readAll(l, 100), idsOf(numbered("e", 10)[4:])...)
	_, err = s.Store.DiscardParked(s.ctx, relay.ParkedFilter{Destination: "first"}, "the suite")
	s.must("discard", err)
	s.leaveLane("first")
	if several, ok := s.Store.(relay.LaneStore); ok {
		_, err := several.Join(s.ctx, "first", "relay", "1", 1, long)
		s.must("join", err)
		refused("one with a relay", "first", nil)
		s.must("leave", several.Leave(s.ctx, "first", "relay", "1"))
	}
	s.must("remove the destination", store.RemoveDestination(s.ctx, "first"))
	refused("what was removed", "first", relay.ErrNoDestination)
	refused("the last that isn't a replay", "second", nil)
	s.must("cancel the replay", store.RemoveDestination(s.ctx, "again"))
}

func (s *suite[TX]) forgotten(store relay.ReplayStore) {
	s.write(numbered("e", 10)...)
	s.must("create a destination", store.CreateDestination(s.ctx, "other", relay.FromNow()))
	_, err := store.CreateReplay(s.ctx, "again", relay.EventFilter{Keys: []string{"key 1"}}, "")
	s.must("create a replay", err)
	l := s.openLane("again", 0, 1)
	_, end := s.readReplay(l, 10)
	s.checkpoint(l, end)
	s.must("close the log", l.Close(context.WithoutCancel(s.ctx)))
	s.leaveLane("again")
	s.must("remove the replay", store.RemoveDestination(s.ctx, "again"))
	list, err := store.Destinations(s.ctx)
	if err != nil || len(list) != 1 || list[0].Name != "other" {
		s.Errorf("there are %+v (%v), want the other alone", list, err)
	}
	s.must("create one of that name", store.CreateDestination(s.ctx, "again", relay.FromBeginning()))
	s.wantIDs("the new one of that name", s.readAll(s.openLane("again", 0, 1), 100), idsOf(numbered("e", 10))...)
}
