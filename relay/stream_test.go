package relay

import (
	"fmt"
	"math/rand/v2"
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

// Random outcomes: whatever happens, no event of a key is sent before the one before it is confirmed, pages are
// settled in order, and every event is either confirmed or parked when its page is settled.
func TestStreamUnderRandomOutcomes(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		p := testPolicy()
		p.jitter = rnd.Float64
		s := newStream(p, newSuspects(), nil)
		now := time.Unix(0, 0)
		var seq, pages, settledPages int64
		confirmedOf := map[string]int64{} // key → last confirmed seq
		state := map[int64]string{}
		pageOf := map[int64]int64{}
		var flight []uint64
		flying := map[uint64]*Entry{}
		inFlightOf := map[string]bool{}
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
						pg.Entries = append(pg.Entries, entry(seq, []string{"", "a", "b", "c", "d"}[rnd.IntN(5)]))
						pageOf[seq] = pages
					}
					s.add(pg)
				}
			case 1:
				if tag, e := s.next(now); e != nil {
					if key := e.Event.Key; key != "" {
						if inFlightOf[key] || e.Seq < confirmedOf[key] {
							t.Fatalf("seed %d: %s of key %s was sent while one was in flight or after a later one", seed, e.Event.ID, key)
						}
						inFlightOf[key] = true
					}
					flight = append(flight, tag)
					flying[tag] = e
				} else if at := s.wakeAt(); !at.IsZero() {
					now = at
				}
			case 2:
				if len(flight) == 0 {
					continue
				}
				tag := flight[0]
				flight = flight[1:]
				e := flying[tag]
				copied := *e
				status := []Status{Confirmed, Confirmed, Confirmed, Rejected, Unroutable, Refused}[rnd.IntN(6)]
				if _, _, err := s.settle(Outcome{Tag: tag, Status: status}, now); err != nil {
					t.Fatal(err)
				}
				inFlightOf[copied.Event.Key] = false
				if status == Confirmed {
					confirmedOf[copied.Event.Key] = copied.Seq
					state[copied.Seq] = "confirmed"
				}
			}
			got := s.settled()
			for _, p := range got.parked {
				if state[p.Seq] != "" {
					t.Fatalf("seed %d: %s was parked, but it was %s", seed, p.Event.ID, state[p.Seq])
				}
				state[p.Seq] = "parked"
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
}
