package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/surepost/surepost/relay"
)

// sharing is what relay.LaneStore asks for. A store of one lane refuses others instead.
func sharing[TX any]() []promise[TX] {
	of := func(name string, test func(*suite[TX], relay.LaneStore)) promise[TX] {
		return promise[TX]{name, func(s *suite[TX]) {
			if s.OneLane {
				s.wantHalt(relay.Lane{Destination: relay.DefaultDestination, Index: 1, Of: 2})
				return
			}
			store, ok := s.Store.(relay.LaneStore)
			if !ok {
				s.Fatal("the store isn't a relay.LaneStore: set Backend.OneLane")
			}
			test(s, store)
		}}
	}
	return []promise[TX]{
		of("relays of a destination see each other", (*suite[TX]).seeEachOther),
		of("a name is one relay's", (*suite[TX]).oneName),
		of("a destination keeps its number of lanes", (*suite[TX]).keepsLanes),
		of("leases are seen as they stand", (*suite[TX]).leasesSeen),
		of("a change of lanes ends the old leases", (*suite[TX]).oldLeasesEnd),
		of("a change of lanes and an acquisition come one after the other", (*suite[TX]).changeOrAcquire),
		of("a change of lanes that isn't one changes nothing", (*suite[TX]).noChange),
		of("a change of lanes repeats nothing that all have passed", (*suite[TX]).nothingAgain),
		of("parked events stay with their slots", (*suite[TX]).parkedStay),
		of("what was discarded doesn't come back with new lanes", (*suite[TX]).discardedStay),
		of("what is discarded while it is read again isn't parked again", (*suite[TX]).discardedMeanwhile),
		of("changes of lanes lose and turn round nothing", (*suite[TX]).randomLanes),
	}
}

const shared = "shared" // a destination

func laneOf(index, of int) relay.Lane { return relay.Lane{Destination: shared, Index: index, Of: of} }

func (s *suite[TX]) join(store relay.LaneStore, owner, instance string, lanes int, ttl time.Duration) relay.Membership {
	s.Helper()
	m, err := store.Join(s.ctx, shared, owner, instance, lanes, ttl)
	s.must("join as "+owner, err)
	return m
}

func (s *suite[TX]) wantRelays(m relay.Membership, want ...string) {
	s.Helper()
	if !slices.Equal(m.Relays, want) {
		s.Errorf("the relays are %q, want %q", m.Relays, want)
	}
}

func (s *suite[TX]) wantLanes(what string, err error, lanes int) {
	s.Helper()
	var changed *relay.LanesChangedError
	if !errors.As(err, &changed) || changed.Lanes != lanes || changed.Destination == "" {
		s.Errorf("%s: %v; want a *relay.LanesChangedError that says %d", what, err, lanes)
	}
}

func (s *suite[TX]) seeEachOther(store relay.LaneStore) {
	other := s.Another(s.T).(relay.LaneStore)
	s.wantRelays(s.join(store, "b", "1", 1, long), "b")
	s.wantRelays(s.join(other, "a", "2", 1, long), "a", "b")
	s.wantRelays(s.join(store, "B", "3", 1, long), "B", "a", "b") // in byte order
	if _, err := store.Join(s.ctx, "elsewhere", "c", "4", 1, long); err != nil {
		s.Error(err)
	}
	s.wantRelays(s.join(store, "b", "1", 1, 200*time.Millisecond), "B", "a", "b")
	time.Sleep(200*time.Millisecond + grace)
	s.wantRelays(s.join(other, "a", "2", 1, long), "B", "a") // b's time was shortened, and has run out
	s.wantRelays(s.join(store, "b", "1", 1, long), "B", "a", "b")
	s.wantRelays(s.join(store, "b", "1", 1, 0), "B", "a") // it only looks
	s.must("leave as another instance", store.Leave(s.ctx, shared, "a", "5"))
	s.must("leave where it isn't", store.Leave(s.ctx, "nowhere", "a", "2"))
	s.wantRelays(s.join(store, "B", "3", 1, long), "B", "a")
	s.must("leave", store.Leave(s.ctx, shared, "a", "2"))
	s.must("leave again", store.Leave(s.ctx, shared, "a", "2"))
	s.wantRelays(s.join(store, "B", "3", 1, long), "B")
}

func (s *suite[TX]) oneName(store relay.LaneStore) {
	s.join(store, "a", "1", 1, long)
	ask := func() *relay.OwnerTakenError {
		s.Helper()
		_, err := s.Another(s.T).(relay.LaneStore).Join(s.ctx, shared, "a", "2", 1, long)
		var taken *relay.OwnerTakenError
		switch {
		case !errors.As(err, &taken):
			s.Fatalf("two relays of one name: %v; want a *relay.OwnerTakenError", err)
		case taken.Destination != shared || taken.Owner != "a" || taken.Instance != "1":
			s.Errorf("the other is %+v, want shared, a and 1", *taken)
		case taken.Expires <= 0 || taken.Expires > long:
			s.Errorf("it expires in %v, want more than 0 and at most %v", taken.Expires, long)
		}
		return taken
	}
	first := ask()
	if again := ask(); !again.ExpiresAt.Equal(first.ExpiresAt) {
		s.Errorf("a relay that gave no sign of life expires at %v, and at %v before", again.ExpiresAt, first.ExpiresAt)
	}
	s.wantRelays(s.join(store, "a", "1", 1, 2*long), "a")
	if later, err := store.Join(s.ctx, shared, "a", "2", 1, long); err == nil {
		s.Errorf("the second one got in: %+v", later)
	}
	s.join(store, "a", "1", 1, long+time.Minute/2)
	if later := func() *relay.OwnerTakenError {
		_, err := store.Join(s.ctx, shared, "a", "2", 1, long)
		var taken *relay.OwnerTakenError
		if !errors.As(err, &taken) {
			s.Fatalf("two relays of one name: %v", err)
		}
		return taken
	}(); !later.ExpiresAt.After(first.ExpiresAt) {
		s.Errorf("after a sign of life it expires at %v, and at %v before", later.ExpiresAt, first.ExpiresAt)
	}
	s.join(store, "a", "1", 1, 50*time.Millisecond)
	time.Sleep(50*time.Millisecond + grace)
	s.wantRelays(s.join(store, "a", "2", 1, long), "a") // the first one has been gone for its time
	if _, err := store.Join(s.ctx, shared, "a", "1", 1, long); err == nil {
		s.Error("the first one got in again, while the second is alive")
	}
	s.must("leave", store.Leave(s.ctx, shared, "a", "2"))
	s.join(store, "a", "1", 1, long)
}

func (s *suite[TX]) keepsLanes(store relay.LaneStore) {
	if m := s.join(store, "a", "1", 4, long); m.Lanes != 4 || len(m.Leases) != 0 {
		s.Errorf("a new destination is %+v, want 4 lanes without a lease", m)
	}
	if m := s.join(store, "b", "2", 7, long); m.Lanes != 4 {
		s.Errorf("a relay that asks for 7 finds %d lanes, want the 4 that are there", m.Lanes)
	}
	for _, of := range []int{1, 3, 5} {
		_, err := store.Acquire(s.ctx, laneOf(0, of), "a", long)
		s.wantLanes(fmt.Sprintf("lane 0 of %d", of), err, 4)
	}
	if m := s.join(store, "a", "1", 4, long); len(m.Leases) != 0 {
		s.Errorf("lanes that aren't there were leased: %+v", m.Leases)
	}
	s.acquire(store, laneOf(3, 4), "a")
	// A destination that is new to Acquire has as many as it says.
	elsewhere := relay.Lane{Destination: "elsewhere", Index: 1, Of: 2}
	s.acquire(store, elsewhere, "a")
	if m, err := store.Join(s.ctx, "elsewhere", "a", "1", 9, long); err != nil || m.Lanes != 2 {
		s.Errorf("a destination that began with lane 1 of 2 is %+v (%v), want 2 lanes", m, err)
	}
}

func (s *suite[TX]) leasesSeen(store relay.LaneStore) {
	s.join(store, "a", "1", 3, long)
	two := s.acquire(store, laneOf(2, 3), "a")
	zero, err := store.Acquire(s.ctx, laneOf(0, 3), "b", 100*time.Millisecond)
	s.must("acquire", err)
	see := func(want ...string) []relay.LeaseState {
		s.Helper()
		m := s.join(s.Another(s.T).(relay.LaneStore), "c", "3", 3, long)
		var got []string
		for _, l := range m.Leases {
			got = append(got, fmt.Sprintf("%d/%d %q %d %v", l.Lane.Index, l.Lane.Of, l.Owner, l.Epoch, l.Expired))
			if l.Lane.Destination != shared {
				s.Errorf("lane %s is of another destination", l.Lane)
			}
		}
		if !slices.Equal(got, want) {
			s.Fatalf("the leases are %s, want %s", got, want)
		}
		return m.Leases
	}
	time.Sleep(100*time.Millisecond + grace)
	state := func(l relay.Lease, expired bool) string {
		return fmt.Sprintf("%d/3 %q %d %v", l.Lane.Index, l.Owner, l.Epoch, expired)
	}
	first := see(state(zero, true), state(two, false))
	again := see(state(zero, true), state(two, false))
	if !first[0].ExpiresAt.Equal(again[0].ExpiresAt) || !first[1].ExpiresAt.Equal(again[1].ExpiresAt) {
		s.Errorf("nobody renewed, and the leases expired at %v, then at %v", first, again)
	}
	s.must("renew", store.Renew(s.ctx, zero, long))
	again = see(state(zero, false), state(two, false))
	if !again[0].ExpiresAt.After(first[0].ExpiresAt) {
		s.Errorf("a renewed lease expires at %v, and at %v before", again[0].ExpiresAt, first[0].ExpiresAt)
	}
	s.must("release", store.Release(s.ctx, two))
	if l := see(state(zero, false), state(relay.Lease{Lane: two.Lane, Epoch: two.Epoch}, true)); l[1].Owner != "" {
		s.Errorf("a released lease has the owner %q", l[1].Owner)
	}
}

// fenced demands that a lease that was ended can write nothing.
func (s *suite[TX]) fenced(l relay.Log, at relay.Position, lease relay.Lease) {
	s.Helper()
	wantLost(s, "a renewal of lane "+lease.Lane.String(), s.Store.Renew(s.ctx, lease, long))
	wantLost(s, "a checkpoint of lane "+lease.Lane.String(), l.Checkpoint(s.ctx, at, nil))
	_, err := l.Unpark(s.ctx, nil, nil, []string{"k"})
	wantLost(s, "an unparking of lane "+lease.Lane.String(), err)
	s.must("release a lease that was ended", s.Store.Release(s.ctx, lease))
}

func (s *suite[TX]) oldLeasesEnd(store relay.LaneStore) {
	s.write(numbered("e", 30)...)
	s.join(store, "a", "1", 3, long)
	epochs := map[int]int64{}
	type held struct {
		lease relay.Lease
		log   relay.Log
		at    relay.Position
	}
	lead := func(of int) (all []held) {
		for i := range of {
			lease := s.acquire(store, laneOf(i, of), "a")
			if lease.Epoch <= epochs[i] {
				s.Errorf("lane %s got epoch %d, after epoch %d of a lane of its number", lease.Lane, lease.Epoch, epochs[i])
			}
			epochs[i] = lease.Epoch
			l := s.openLog(store, lease)
			at := s.read(l, 2).After
			s.checkpoint(l, at)
			all = append(all, held{lease, l, at})
		}
		return all
	}
	was := 3
	var before []held
	for _, of := range []int{5, 2, 1, 4, 3} {
		before = append(before, lead(was)...)
		s.must("change the number of lanes", s.Another(s.T).(relay.LaneStore).SetLanes(s.ctx, shared, of))
		for _, h := range before {
			s.fenced(h.log, h.at, h.lease)
		}
		_, err := store.Acquire(s.ctx, laneOf(0, was), "a", long)
		s.wantLanes("a lane of the old number", err, of)
		m := s.join(store, "a", "1", 1, long)
		if m.Lanes != of || len(m.Leases) > of {
			s.Errorf("after the change to %d: %+v", of, m)
		}
		for _, l := range m.Leases {
			if l.Owner != "" {
				s.Errorf("after the change to %d, lane %s is %q's", of, l.Lane, l.Owner)
			}
		}
		was = of
	}
}

// changeOrAcquire lets them meet: whichever is the second sees the first.
func (s *suite[TX]) changeOrAcquire(store relay.LaneStore) {
	was := 2
	s.join(store, "a", "1", was, long)
	another := s.Another(s.T).(relay.LaneStore)
	for round := range 20 {
		to := 5 - was
		taken := make(chan relay.Lease, 1000)
		asking := s.start("one who asks for leases", func() error {
			defer close(taken)
			for range 100 {
				lease, err := another.Acquire(s.ctx, laneOf(0, was), "a", long)
				var changed *relay.LanesChangedError
				switch {
				case errors.As(err, &changed):
					return nil
				case err != nil:
					return err
				}
				taken <- lease
			}
			return nil
		})
		time.Sleep(time.Duration(round%5) * time.Millisecond)
		s.must("change the number of lanes", store.SetLanes(s.ctx, shared, to))
		s.must("the one who asks", s.ends(asking))
		for lease := range taken {
			wantLost(s, fmt.Sprintf("round %d: a renewal of lane %s", round, lease.Lane), store.Renew(s.ctx, lease, long))
		}
		was = to
	}
}

func (s *suite[TX]) noChange(store relay.LaneStore) {
	s.join(store, "a", "1", 3, long)
	lease := s.acquire(store, laneOf(1, 3), "a")
	for _, lanes := range []int{0, -1, relay.MaxLanes + 1} {
		if err := store.SetLanes(s.ctx, shared, lanes); err == nil {
			s.Errorf("%d lanes were accepted", lanes)
		}
	}
	if err := store.SetLanes(s.ctx, "nowhere", 2); err == nil {
		s.Error("the lanes of a destination that isn't there were changed")
	}
	ended, cancel := contextEnded(s.ctx)
	defer cancel()
	if err := store.SetLanes(ended, shared, 5); err == nil {
		s.Error("the lanes were changed under a context that had ended")
	}
	s.must("set the same number of lanes", store.SetLanes(s.ctx, shared, 3))
	s.must("renew", store.Renew(s.ctx, lease, long))
	if m := s.join(store, "a", "1", 1, long); m.Lanes != 3 {
		s.Errorf("there are %d lanes, want 3", m.Lanes)
	}
	s.must("set the most lanes", store.SetLanes(s.ctx, shared, relay.MaxLanes))
	s.acquire(store, laneOf(relay.MaxLanes-1, relay.MaxLanes), "a")
}

func (s *suite[TX]) nothingAgain(store relay.LaneStore) {
	s.join(store, "a", "1", 1, long)
	s.write(numbered("e", 50)...)
	was := 1
	var late []string
	for _, of := range []int{3, 2, 5, 1} {
		var got []relay.Entry
		for i := range was {
			l := s.openLog(store, s.acquire(store, laneOf(i, was), "a"))
			for {
				page := s.read(l, 7)
				got = append(got, page.Entries...)
				s.checkpoint(l, page.After) // an empty page's too
				if !page.Full {
					break
				}
			}
			s.must("close the log", l.Close(s.ctx))
		}
		if was != 1 || of != 3 {
			have := ids(got)
			slices.Sort(have)
			if !slices.Equal(have, late) {
				s.Fatalf("%d lanes that follow lanes at the end of the log hand out %s, want only the new %s", was, shorten(have), late)
			}
		}
		s.must("change the number of lanes", store.SetLanes(s.ctx, shared, of))
		late = []string{fmt.Sprint("late ", of)}
		s.write(event(late[0], "k"))
		was = of
	}
}

func (s *suite[TX]) parkedStay(store relay.LaneStore) {
	s.join(store, "a", "1", 1, long)
	s.write(numbered("e", 6)...)
	l := s.openLog(store, s.acquire(store, laneOf(0, 1), "a"))
	page := s.read(l, 10)
	var parked []relay.Parked
	for _, e := range page.Entries[:3] { // one of each key
		parked = append(parked, relay.Parked{Entry: e, Reason: "x"})
	}
	s.checkpoint(l, page.After, parked...)
	_, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{Destination: shared}, "the suite")
	s.must("retry", err)
	for _, of := range []int{3, 5, 2, 1} {
		s.must("change the number of lanes", store.SetLanes(s.ctx, shared, of))
		for i := range of {
			l := s.openLog(store, s.acquire(store, laneOf(i, of), "a"))
			var keys, ids []string
			for _, p := range parked {
				if p.Event.Slot()%of == i {
					keys, ids = append(keys, p.Event.Key), append(ids, p.Event.ID)
				}
			}
			got, err := l.ParkedKeys(s.ctx)
			s.must("read the parked keys", err)
			slices.Sort(got)
			slices.Sort(keys)
			if !slices.Equal(got, keys) {
				s.Errorf("lane %d of %d has the parked keys %q, want %q", i, of, got, keys)
			}
			released, err := l.Released(s.ctx, 10)
			s.must("read what is released", err)
			s.wantIDs(fmt.Sprintf("released to lane %d of %d", i, of), released, ids...)
		}
	}
}

// randomLanes draws what writers, lanes and the operator do next; one goroutine, so that a seed repeats it.
func (s *suite[TX]) randomLanes(store relay.LaneStore) {
	rnd, _ := s.random()
	type open struct {
		tx     TX
		events []string
		key    string
	}
	type lead struct {
		lane relay.Lane
		log  relay.Log
		at   []relay.Position // read, not stored
	}
	var (
		opened    []open
		leads     []*lead
		version   = map[string]int{}
		committed = map[string]bool{}
		seen      = map[string]bool{}
		last      = map[string]int{}
		n, of     = 0, 1
	)
	s.join(store, "a", "1", of, long)
	elect := func(i int) *lead {
		l := laneOf(i, of)
		return &lead{lane: l, log: s.openLog(store, s.acquire(store, l, "a"))}
	}
	electAll := func() {
		for _, l := range leads {
			_ = l.log.Close(s.ctx)
		}
		leads = nil
		for i := range of {
			leads = append(leads, elect(i))
		}
	}
	electAll()
	read := func(l *lead, most int) bool {
		page := s.read(l.log, most)
		for _, e := range page.Entries {
			if e.Event.Slot()%of != l.lane.Index {
				s.Fatalf("lane %s handed out slot %d", l.lane, e.Event.Slot())
			}
			if seen[e.Event.ID] {
				continue
			}
			if seen[e.Event.ID] = true; !committed[e.Event.ID] {
				s.Fatalf("lane %s handed out %s, which isn't committed", l.lane, e.Event.ID)
			}
			raw, _ := e.Event.RawData()
			v, err := strconv.Atoi(string(raw))
			s.must("read a version", err)
			if key := e.Event.Key; key != "" {
				if v < last[key] {
					s.Fatalf("lane %s handed out version %d of %s for the first time after version %d", l.lane, v, key, last[key])
				}
				last[key] = v
			}
		}
		l.at = append(l.at, page.After)
		return page.Full
	}
	end := func(i int) {
		o := opened[i]
		opened = slices.Delete(opened, i, i+1)
		s.commit(o.tx)
		for _, id := range o.events {
			committed[id] = true
		}
	}
	const steps = 300
	for range steps {
		switch p := rnd.IntN(100); {
		case p < 25: // a writer holds its key until its end, as the order per key asks
			key := "k" + strconv.Itoa(rnd.IntN(12))
			if len(opened) >= 6 || slices.ContainsFunc(opened, func(o open) bool { return o.key == key }) {
				continue
			}
			o := open{tx: s.begin(), key: key}
			for range 1 + rnd.IntN(3) {
				n++
				version[key]++
				e := event("e"+strconv.Itoa(n), key)
				if rnd.IntN(6) == 0 {
					e.Key = ""
				}
				e.Data = json.RawMessage(strconv.Itoa(version[key]))
				o.events = append(o.events, e.ID)
				s.append(o.tx, e)
			}
			opened = append(opened, o)
		case p < 50:
			if len(opened) > 0 {
				end(rnd.IntN(len(opened)))
			}
		case p < 80:
			read(leads[rnd.IntN(of)], 1+rnd.IntN(5))
		case p < 92:
			if l := leads[rnd.IntN(of)]; len(l.at) > 0 {
				i := rnd.IntN(len(l.at))
				s.checkpoint(l.log, l.at[i])
				l.at = l.at[i+1:]
			}
		case p < 95: // a take-over
			i := rnd.IntN(of)
			_ = leads[i].log.Close(s.ctx)
			leads[i] = elect(i)
		default:
			of = []int{1, 2, 3, 5}[rnd.IntN(4)]
			s.must("change the number of lanes", store.SetLanes(s.ctx, shared, of))
			electAll()
		}
	}
	for len(opened) > 0 {
		end(0)
	}
	for _, l := range leads {
		for read(l, 50) {
		}
	}
	if len(seen) != len(committed) {
		var lost []string
		for id := range committed {
			if !seen[id] {
				lost = append(lost, id)
			}
		}
		slices.Sort(lost)
		s.Fatalf("of %d committed events %d were never handed out: %s", len(committed), len(lost), shorten(lost))
	}
}
