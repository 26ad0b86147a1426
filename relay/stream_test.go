package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/surepost/surepost"
)

func entry(seq int64, key string) Entry {
	return Entry{Seq: seq, Event: surepost.Event{ID: fmt.Sprintf("e%d", seq), Type: "T", Key: key}}
}

func testPolicy() policy {
	return policy{unroutableTries: 3, backoffMin: 100 * time.Millisecond, backoffMax: time.Second, jitter: func() float64 { return 0.5 }}
}

// sendAll sends everything that may be sent now and returns tag by event id.
func sendAll(s *stream, now time.Time) map[string]uint64 {
	sent := map[string]uint64{}
	for {
		tag, e := s.next(now)
		if e == nil {
			return sent
		}
		sent[e.Event.ID] = tag
	}
}

func settleOne(t *testing.T, s *stream, tag uint64, status Status, now time.Time) {
	t.Helper()
	if _, _, err := s.settle(Outcome{Tag: tag, Status: status, Reason: "because"}, now); err != nil {
		t.Fatal(err)
	}
}

func TestNothingOvertakesARejectedEventOfItsKey(t *testing.T) {
	now := time.Unix(0, 0)
	s := newStream(testPolicy(), newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a"), entry(3, "b"), entry(4, "")}, After: "p1"})
	sent := sendAll(s, now)
	if len(sent) != 3 || sent["e2"] != 0 {
		t.Fatalf("sent %v, want e1, e3 and e4", sent)
	}
	settleOne(t, s, sent["e1"], Rejected, now)
	settleOne(t, s, sent["e3"], Confirmed, now)
	settleOne(t, s, sent["e4"], Confirmed, now)
	if again := sendAll(s, now); len(again) != 0 {
		t.Fatalf("sent %v at once after the rejection, want a pause", again)
	}
	if got := s.settled(); !got.empty() {
		t.Fatalf("settled %+v while e1 is open", got)
	}
	now = s.wakeAt()
	again := sendAll(s, now)
	if len(again) != 1 || again["e1"] == 0 {
		t.Fatalf("sent %v after the pause, want e1", again)
	}
	settleOne(t, s, again["e1"], Confirmed, now)
	last := sendAll(s, now)
	settleOne(t, s, last["e2"], Confirmed, now)
	if got := s.settled(); got.at != "p1" || len(got.parked) != 0 {
		t.Fatalf("settled %+v, want p1", got)
	}
}

func TestARejectedEventIsNeverParked(t *testing.T) {
	now := time.Unix(0, 0)
	s := newStream(testPolicy(), newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a")}, After: "p1"})
	for range 10_000 {
		sent := sendAll(s, now)
		settleOne(t, s, sent["e1"], Rejected, now)
		now = s.wakeAt()
	}
	settleOne(t, s, sendAll(s, now)["e1"], Confirmed, now)
	if got := s.settled(); got.at != "p1" || len(got.parked) != 0 {
		t.Fatalf("settled %+v, want p1 and nothing parked", got)
	}
}

func TestAnUnroutableEventIsParkedAfterItsTriesAndItsKeyWaitsBehind(t *testing.T) {
	now := time.Unix(0, 0)
	s := newStream(testPolicy(), newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a"), entry(3, "b")}, After: "p1"})
	sent := sendAll(s, now)
	settleOne(t, s, sent["e3"], Confirmed, now)
	for range 3 {
		if sent["e1"] == 0 {
			t.Fatal("e1 wasn't sent again")
		}
		settleOne(t, s, sent["e1"], Unroutable, now)
		if at := s.wakeAt(); !at.IsZero() {
			now = at
		}
		sent = sendAll(s, now)
	}
	if len(sent) != 0 {
		t.Fatalf("sent %v after e1 was parked, want nothing", sent)
	}
	got := s.settled()
	if got.at != "p1" || len(got.parked) != 2 || got.parked[0].Behind || !got.parked[1].Behind || got.parked[1].Event.ID != "e2" {
		t.Fatalf("settled %+v, want e1 parked and e2 behind it", got)
	}
	s.add(Page{Entries: []Entry{entry(4, "a"), entry(5, "b")}, After: "p2"})
	if sent := sendAll(s, now); len(sent) != 1 || sent["e5"] == 0 {
		t.Fatalf("sent %v, want e5 only: e4's key is parked", sent)
	}
}

func TestAReleasedKeyIsFreeOnlyWhenNothingOfItIsOnItsWayIntoParking(t *testing.T) {
	now := time.Unix(0, 0)
	s := newStream(testPolicy(), newSuspects(), []string{"a"})
	s.addReleased([]Entry{entry(1, "a"), entry(2, "a")})
	s.add(Page{Entries: []Entry{entry(3, "a")}, After: "p1"}) // read before the key was free
	for range 2 {
		for _, tag := range sendAll(s, now) {
			settleOne(t, s, tag, Confirmed, now)
		}
	}
	first := s.settled()
	if len(first.published) != 2 || len(first.keys) != 1 || len(first.parked) != 1 || !first.parked[0].Behind {
		t.Fatalf("settled %+v, want e1 and e2 published and e3 parked behind", first)
	}
	s.add(Page{Entries: []Entry{entry(4, "a")}, After: "p2"}) // while the store says that the key is free
	s.unparked([]string{"a"})
	s.add(Page{Entries: []Entry{entry(5, "a")}, After: "p3"})
	if sent := sendAll(s, now); len(sent) != 0 {
		t.Fatalf("sent %v: overtakes e4, which is about to be parked", sent)
	}
	if got := s.settled(); len(got.parked) != 2 {
		t.Fatalf("settled %+v, want e4 and e5 parked", got)
	}
}

// Random outcomes: whatever happens, an event is sent only if all earlier ones of its key are confirmed or, with
// Pipelined, in flight without a failure; pages are settled in order, and every event is either confirmed or parked
// when its page is settled.
func TestStreamUnderRandomOutcomes(t *testing.T) {
	t.Run("StrictPerKey", func(t *testing.T) { streamUnderRandomOutcomes(t, StrictPerKey, ParkKeyWaits) })
	t.Run("Pipelined", func(t *testing.T) { streamUnderRandomOutcomes(t, Pipelined, ParkKeyWaits) })
	t.Run("StrictPerKey, keys go on", func(t *testing.T) { streamUnderRandomOutcomes(t, StrictPerKey, ParkKeyGoesOn) })
	t.Run("Pipelined, keys go on", func(t *testing.T) { streamUnderRandomOutcomes(t, Pipelined, ParkKeyGoesOn) })
}

func streamUnderRandomOutcomes(t *testing.T, order Order, parking ParkingPolicy) {
	overlapped := 0
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		p := testPolicy()
		p.order, p.parking, p.jitter = order, parking, rnd.Float64
		sus := newSuspects() // of the first events some are held back until another is published, and some are never sent
		doomed := map[int64]bool{}
		for n := range int64(12) {
			e := entry(n, "")
			switch rnd.IntN(4) {
			case 0:
				sus.of[e.identity()] = &suspicion{alone: true}
			case 1:
				sus.doomed[e.identity()], doomed[n] = "the broker ends the session over it", true
			}
		}
		s := newStream(p, sus, nil)
		now := time.Unix(0, 0)
		failures := 1 + rnd.IntN(6) // of 12 outcomes
		var seq, pages, settledPages int64
		open := map[string][]int64{} // key → events that are neither confirmed nor parked
		state := map[int64]string{}
		pageOf := map[int64]int64{}
		var flight []uint64
		flying := map[uint64]*Entry{}
		inFlight := map[int64]bool{}
		refused := map[int64]bool{}
		stalled := map[string]bool{} // keys that failed, until one of theirs that was sent alone is confirmed
		done := func(key string, seq int64) {
			open[key] = slices.DeleteFunc(open[key], func(s int64) bool { return s == seq })
		}
		for step := 0; step < 400 || s.open > 0; step++ {
			if step > 100_000 {
				t.Fatalf("seed %d: no end", seed)
			}
			switch rnd.IntN(3) {
			case 0:
				if step < 400 {
					pages++
					pg := Page{After: pages}
					for range 1 + rnd.IntN(8) {
						seq++
						e := entry(seq, []string{"", "a", "b", "c", "d"}[rnd.IntN(5)])
						pg.Entries = append(pg.Entries, e)
						pageOf[seq] = pages
						open[e.Event.Key] = append(open[e.Event.Key], seq)
					}
					s.add(pg)
				}
			case 1:
				if tag, e := s.next(now); e != nil {
					if refused[e.Seq] || doomed[e.Seq] {
						t.Fatalf("seed %d: %s was sent again after the broker refused it for good", seed, e.Event.ID)
					}
					for _, other := range open[e.Event.Key] {
						switch {
						case e.Event.Key == "" || other == e.Seq || parking == ParkKeyGoesOn && doomed[other]:
						case other < e.Seq && !inFlight[other]:
							t.Fatalf("seed %d: %s was sent before e%d of its key, which waits", seed, e.Event.ID, other)
						case other > e.Seq && inFlight[other]:
							t.Fatalf("seed %d: %s was sent again while e%d of its key was in flight", seed, e.Event.ID, other)
						case inFlight[other] && stalled[e.Event.Key]:
							t.Fatalf("seed %d: %s was sent after a failure of its key, with e%d in flight", seed, e.Event.ID, other)
						case inFlight[other] && order == StrictPerKey:
							t.Fatalf("seed %d: %s was sent while e%d of its key was in flight", seed, e.Event.ID, other)
						case inFlight[other]:
							overlapped++
						}
					}
					inFlight[e.Seq] = true
					flight = append(flight, tag)
					flying[tag] = e
				} else if at := s.wakeAt(); !at.IsZero() {
					now = at
				} else if len(flight) == 0 {
					s.release()
				}
			case 2:
				if len(flight) == 0 {
					continue
				}
				tag := flight[0]
				flight = flight[1:]
				e := flying[tag]
				copied := *e
				status := Confirmed
				if rnd.IntN(12) < failures {
					status = []Status{Rejected, Unroutable, Refused}[rnd.IntN(3)]
				}
				_, again, err := s.settle(Outcome{Tag: tag, Status: status}, now)
				if err != nil {
					t.Fatal(err)
				}
				delete(inFlight, copied.Seq)
				goesOn := parking == ParkKeyGoesOn && status != Confirmed && !again // without this one
				if key := copied.Event.Key; key != "" {
					alone := !slices.ContainsFunc(open[key], func(s int64) bool { return inFlight[s] })
					stalled[key] = status != Confirmed && !goesOn || stalled[key] && !(alone && status == Confirmed)
				}
				if goesOn {
					done(copied.Event.Key, copied.Seq)
					if !slices.ContainsFunc(open[copied.Event.Key], func(s int64) bool { return !doomed[s] }) {
						delete(stalled, copied.Event.Key) // nothing is left that could be overtaken
					}
				}
				refused[copied.Seq] = status == Refused
				if status == Confirmed {
					done(copied.Event.Key, copied.Seq)
					state[copied.Seq] = "confirmed"
				}
			}
			got := s.settled()
			for _, p := range got.parked {
				if state[p.Seq] != "" {
					t.Fatalf("seed %d: %s was parked, but it was %s", seed, p.Event.ID, state[p.Seq])
				}
				if p.Behind && parking == ParkKeyGoesOn {
					t.Fatalf("seed %d: %s was parked behind another", seed, p.Event.ID)
				}
				state[p.Seq] = "parked"
				done(p.Event.Key, p.Seq)
			}
			if got.at != nil {
				if at := got.at.(int64); at <= settledPages {
					t.Fatalf("seed %d: page %d settled after page %d", seed, at, settledPages)
				}
				settledPages = got.at.(int64)
				for n := int64(1); n <= seq; n++ {
					if pageOf[n] <= settledPages && state[n] == "" {
						t.Fatalf("seed %d: page %d is settled, but e%d of page %d is open", seed, settledPages, n, pageOf[n])
					}
				}
			}
		}
		if settledPages != pages || s.span != 0 || len(s.keys) != 0 || len(s.flying) != 0 {
			t.Fatalf("seed %d: %d of %d pages settled, span %d, %d keys, %d in flight at the end", seed, settledPages, pages, s.span, len(s.keys), len(s.flying))
		}
	}
	if overlapped == 0 && order == Pipelined {
		t.Error("no two events of one key were ever in flight together")
	}
}

// An event that may have broken the last session waits until another was published. What was made ready in the meantime stays
// behind it (simulation, seed 1011851).
func TestAnEventThatWasHeldBackIsNotOvertakenByItsKey(t *testing.T) {
	now := time.Unix(0, 0)
	p := testPolicy()
	p.order = Pipelined
	sus := newSuspects()
	sus.of[identity{1, "e1"}] = &suspicion{alone: true}
	s := newStream(p, sus, nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, ""), entry(3, "a"), entry(4, "a")}, After: "p1"})
	tag, e := s.next(now) // one at a time, since there is a suspect
	if e == nil || e.Seq != 2 {
		t.Fatalf("sent %+v, want e2, which isn't suspected", e)
	}
	settleOne(t, s, tag, Confirmed, now)
	if tag, e = s.next(now); e == nil || e.Seq != 1 {
		t.Fatalf("sent %+v, want e1: the key's order", e)
	}
	if _, e := s.next(now); e != nil {
		t.Fatalf("sent %+v while e1 may break this session too", e)
	}
	settleOne(t, s, tag, Confirmed, now)
	if sent := sendAll(s, now); len(sent) != 2 || sent["e3"] == 0 || sent["e4"] < sent["e3"] {
		t.Fatalf("sent %v once e1 was confirmed, want e3 and e4", sent)
	}
}

// An event that is known to be refused, and needn't be sent, may come to be parked before one that is in flight in front of it.
func TestARefusedEventIsNotSentAgainForALaterOneThatWasRefusedFirst(t *testing.T) {
	now := time.Unix(0, 0)
	p := testPolicy()
	p.order = Pipelined
	sus := newSuspects()
	sus.doomed[identity{2, "e2"}] = "the broker ends the session over it"
	s := newStream(p, sus, nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a")}, After: "p1"})
	sent := sendAll(s, now)
	settleOne(t, s, sent["e1"], Refused, now)
	if again := sendAll(s, now); len(sent) != 1 || len(again) != 0 {
		t.Fatalf("sent %v, then %v", sent, again)
	}
	if got := s.settled(); got.at != "p1" || len(got.parked) != 2 || got.parked[0].Behind || got.parked[1].Behind {
		t.Fatalf("settled %+v, want both parked for reasons of their own", got)
	}
}

func TestOnlyWhatIsInFlightOvertakesARejectedEvent(t *testing.T) {
	now := time.Unix(0, 0)
	p := testPolicy()
	p.order = Pipelined
	s := newStream(p, newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a"), entry(3, "a")}, After: "p1"})
	sent := sendAll(s, now)
	if len(sent) != 3 {
		t.Fatalf("sent %v, want all three at once", sent)
	}
	settleOne(t, s, sent["e1"], Rejected, now)
	s.add(Page{Entries: []Entry{entry(4, "a"), entry(5, "b")}, After: "p2"})
	if more := sendAll(s, now); len(more) != 1 || more["e5"] == 0 {
		t.Fatalf("sent %v after e1 was rejected, want e5 only", more)
	}
	settleOne(t, s, sent["e2"], Confirmed, now) // it was in flight with e1: it overtook it
	settleOne(t, s, sent["e3"], Rejected, now)
	for range 2 { // e1 goes alone until it is confirmed
		now = s.wakeAt()
		sent = sendAll(s, now)
		if len(sent) != 1 || sent["e1"] == 0 {
			t.Fatalf("sent %v, want e1 alone", sent)
		}
		settleOne(t, s, sent["e1"], Rejected, now)
	}
	now = s.wakeAt()
	settleOne(t, s, sendAll(s, now)["e1"], Confirmed, now)
	if sent = sendAll(s, now); len(sent) != 2 || sent["e3"] == 0 || sent["e4"] < sent["e3"] {
		t.Fatalf("sent %v once e1 was confirmed, want e3 and e4", sent)
	}
}

func TestWhatFollowsARefusedEventIsParkedUnlessItWasConfirmed(t *testing.T) {
	now := time.Unix(0, 0)
	p := testPolicy()
	p.order = Pipelined
	s := newStream(p, newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a"), entry(3, "a"), entry(4, "a")}, After: "p1"})
	sent := sendAll(s, now)
	settleOne(t, s, sent["e1"], Rejected, now)
	settleOne(t, s, sent["e2"], Refused, now)
	settleOne(t, s, sent["e3"], Confirmed, now)
	settleOne(t, s, sent["e4"], Rejected, now)
	now = s.wakeAt()
	if sent = sendAll(s, now); len(sent) != 1 || sent["e1"] == 0 {
		t.Fatalf("sent %v, want e1, which was before the refused one", sent)
	}
	settleOne(t, s, sent["e1"], Confirmed, now)
	got := s.settled()
	if got.at != "p1" || len(got.parked) != 2 || got.parked[0].Event.ID != "e2" || got.parked[0].Behind ||
		got.parked[1].Event.ID != "e4" || !got.parked[1].Behind {
		t.Fatalf("settled %+v, want e2 parked and e4 behind it", got)
	}
}

// A full queue may reject an event for hours; that says nothing about whether a queue is bound for it.
func TestRejectionsSpendNoTriesOfAReturnedEvent(t *testing.T) {
	now := time.Unix(0, 0)
	s := newStream(testPolicy(), newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a")}, After: "p1"})
	for _, status := range []Status{Rejected, Rejected, Rejected, Rejected, Unroutable, Rejected, Unroutable} {
		settleOne(t, s, sendAll(s, now)["e1"], status, now)
		if s.open == 0 {
			t.Fatalf("parked: %+v", s.settled().parked)
		}
		now = s.wakeAt()
	}
	settleOne(t, s, sendAll(s, now)["e1"], Unroutable, now)
	parked := s.settled().parked
	if len(parked) != 1 || parked[0].Reason != "unroutable after 3 tries: because" {
		t.Errorf("after 3 returns: %+v", parked)
	}
}
