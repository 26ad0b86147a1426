package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAKeyGoesOnWithoutItsParkedEvent(t *testing.T) {
	for _, order := range []Order{StrictPerKey, Pipelined} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			now := time.Unix(0, 0)
			p := testPolicy()
			p.order, p.parking = order, ParkKeyGoesOn
			s := newStream(p, newSuspects(), []string{"parked before"})
			s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a"), entry(3, "parked before"), entry(4, "a")}, After: "p1"})
			sent := map[string]uint64{}
			take := func() {
				for id, tag := range sendAll(s, now) {
					sent[id] = tag
				}
			}
			take()
			settleOne(t, s, sent["e1"], Refused, now)
			take()
			settleOne(t, s, sent["e2"], Confirmed, now)
			take()
			settleOne(t, s, sent["e4"], Refused, now)
			settleOne(t, s, sent["e3"], Confirmed, now)
			got := s.settled()
			if got.at != "p1" || len(got.parked) != 2 || got.parked[0].Event.ID != "e1" || got.parked[1].Event.ID != "e4" ||
				got.parked[0].Behind || got.parked[1].Behind || got.parked[0].Reason != "because" {
				t.Fatalf("settled %+v, want e1 and e4 parked, neither behind another", got)
			}
			s.add(Page{Entries: []Entry{entry(5, "a")}, After: "p2"})
			if sent := sendAll(s, now); len(sent) != 1 {
				t.Fatalf("sent %v, want e5, which doesn't wait for e1", sent)
			}
		})
	}
}

// What failed before an event that was refused is still sent alone first.
func TestARefusedEventDoesNotLetAStalledKeyRun(t *testing.T) {
	now := time.Unix(0, 0)
	p := testPolicy()
	p.order, p.parking = Pipelined, ParkKeyGoesOn
	s := newStream(p, newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "a"), entry(2, "a"), entry(3, "a"), entry(4, "a")}, After: "p1"})
	sent := sendAll(s, now)
	settleOne(t, s, sent["e2"], Rejected, now)
	settleOne(t, s, sent["e1"], Refused, now)
	settleOne(t, s, sent["e3"], Rejected, now)
	if more := sendAll(s, now); len(more) != 0 {
		t.Fatalf("sent %v while e4 is in flight", more)
	}
	settleOne(t, s, sent["e4"], Rejected, now)
	now = s.wakeAt()
	if sent = sendAll(s, now); len(sent) != 1 || sent["e2"] == 0 {
		t.Fatalf("sent %v after the pause, want e2 alone", sent)
	}
	settleOne(t, s, sent["e2"], Refused, now)
	now = s.wakeAt()
	if sent = sendAll(s, now); len(sent) != 1 || sent["e3"] == 0 {
		t.Fatalf("sent %v after e2 was refused, want e3 alone", sent)
	}
	settleOne(t, s, sent["e3"], Confirmed, now)
	if sent = sendAll(s, now); len(sent) != 1 || sent["e4"] == 0 {
		t.Fatalf("sent %v after e3 was confirmed, want e4", sent)
	}
}

func TestAHaltedLaneSettlesNothingFromItsEventOn(t *testing.T) {
	now := time.Unix(0, 0)
	p := testPolicy()
	p.parking = ParkHalts
	s := newStream(p, newSuspects(), nil)
	s.add(Page{Entries: []Entry{entry(1, "b")}, After: "p1"})
	s.add(Page{Entries: []Entry{entry(2, "a"), entry(3, "a"), entry(4, "b")}, After: "p2"})
	sent := sendAll(s, now)
	settleOne(t, s, sent["e1"], Confirmed, now)
	settleOne(t, s, sent["e2"], Refused, now)
	if more := sendAll(s, now); len(more) != 0 {
		t.Errorf("sent %v after the lane was halted", more)
	}
	if got := s.settled(); got.at != "p1" || len(got.parked) != 0 {
		t.Errorf("settled %+v, want p1 and nothing parked", got)
	}
	for _, want := range []string{"e2", "type T", `key "a"`, "because", "Config.Parking", "start the relay again"} {
		if !errors.Is(s.halted, ErrHalt) || !strings.Contains(s.halted.Error(), want) {
			t.Errorf("%v doesn't mention %s", s.halted, want)
		}
	}
}

// Of all policies, under faults: an outage parks nothing and halts nobody; what the broker refuses is parked, and nothing else,
// or halts the relay until the cause is mended.
func TestParkingPoliciesUnderFaults(t *testing.T) {
	for policy, name := range []string{"the key waits", "the key goes on", "the lane halts"} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(5) {
				synctest.Test(t, func(t *testing.T) { parkUnderFaults(t, ParkingPolicy(policy), seed) })
			}
		})
	}
}

func parkUnderFaults(t *testing.T, policy ParkingPolicy, seed uint64) {
	f := &faults{rnd: rand.New(rand.NewPCG(seed, 3)), rate: 0.01}
	store, broker := newFakeStore(f), newFakeBroker(f)
	const per = 60
	for range per {
		store.commit("bad", "a", "b")
	}
	isBad := func(e *Entry) bool { return e.Event.Key == "bad" && (e.Seq == 31 || e.Seq == 91) }
	broker.decide(func(e *Entry) Status {
		if isBad(e) {
			return Refused
		}
		return Confirmed
	})
	broker.set(true, false) // an outage before all
	config := testConfig("a")
	config.Parking = policy
	r, err := New(store, broker, config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- r.Run(ctx) }()
	time.Sleep(time.Minute)
	if rp := r.Report(); len(store.parked) > 0 || rp.State == Stopped || rp.Published > 0 {
		t.Fatalf("seed %d: after an outage, %d events are parked and the relay says %+v", seed, len(store.parked), rp)
	}
	broker.set(false, false)

	if policy == ParkHalts {
		if err := <-ended; !errors.Is(err, ErrHalt) || !strings.Contains(err.Error(), "e31 ") {
			t.Fatalf("seed %d: the relay ended with %v, want a halt that names e31", seed, err)
		}
		broker.mu.Lock()
		for _, e := range broker.taken {
			if e.Event.Key == "bad" && e.Seq >= 31 {
				t.Errorf("seed %d: %s has passed e31", seed, e.Event.ID)
			}
		}
		broker.mu.Unlock()
		if len(store.parked) != 0 || store.position >= 31 {
			t.Errorf("seed %d: %d events are parked, and the checkpoint is at %d", seed, len(store.parked), store.position)
		}
		broker.decide(nil) // mended
		_, stop := start(t, store, broker, config)
		time.Sleep(time.Minute)
		stop()
		checkTaken(t, fmt.Sprint("seed ", seed), store, broker, nil)
		return
	}

	time.Sleep(time.Minute)
	store.mu.Lock()
	seqs := sortedKeys(store.parked)
	culprits := slices.DeleteFunc(slices.Clone(seqs), func(seq int64) bool { return store.parked[seq].Behind })
	store.mu.Unlock()
	want, first := []int64{31}, per-10 // of bad: 31 and the 49 behind it
	if policy == ParkKeyGoesOn {
		want, first = []int64{31, 91}, 2
	}
	if !slices.Equal(culprits, want) || len(seqs) != first {
		t.Errorf("seed %d: parked are %v, of which %v for a reason of their own; want %d and %v", seed, seqs, culprits, first, want)
	}
	taken := map[int64]bool{}
	broker.mu.Lock()
	for _, e := range broker.taken {
		taken[e.Seq] = true
	}
	broker.mu.Unlock()
	if len(taken) != 3*per-first {
		t.Errorf("seed %d: %d events were published, want all but the %d that are parked", seed, len(taken), first)
	}
	// The operator has them retried once the cause is mended.
	broker.decide(nil)
	store.mu.Lock()
	for seq := range store.parked {
		store.retry[seq] = true
	}
	store.mu.Unlock()
	time.Sleep(time.Minute)
	store.mu.Lock()
	left := len(store.parked)
	store.mu.Unlock()
	broker.mu.Lock()
	for _, e := range broker.taken {
		taken[e.Seq] = true
	}
	broker.mu.Unlock()
	if left != 0 || len(taken) != 3*per {
		t.Errorf("seed %d: after a retry %d events are parked and %d were published, want 0 and %d", seed, left, len(taken), 3*per)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("seed %d: the relay ended with %v", seed, err)
	}
}
