package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testConfig(owner string) Config {
	return Config{
		Owner: owner, LeaseTTL: 3 * time.Second, PageEvents: 20, WindowEvents: 16, UnroutableTries: 2, BackoffMax: time.Second, ShutdownTimeout: 5 * time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// start runs a relay until stop is called.
func start(t *testing.T, store Store, broker Publisher, config Config) (r *Relay, stop func()) {
	t.Helper()
	r, err := New(store, broker, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	return r, func() { cancel(); <-done }
}

// checkTaken checks promises 1 to 3 on what the broker took.
func checkTaken(t *testing.T, name string, store *fakeStore, broker *fakeBroker, lostAllowed map[int64]bool) {
	t.Helper()
	seen := map[int64]bool{}
	last := map[string]int64{}
	for _, e := range broker.taken {
		if seen[e.Seq] {
			continue // a repetition
		}
		seen[e.Seq] = true
		if key := e.Event.Key; key != "" {
			if e.Seq < last[key] {
				t.Fatalf("%s: first occurrence of %s after that of e%d, of the same key", name, e.Event.ID, last[key])
			}
			last[key] = e.Seq
		}
	}
	for _, e := range store.entries {
		if !seen[e.Seq] && !lostAllowed[e.Seq] {
			t.Fatalf("%s: %s was never taken by the broker", name, e.Event.ID)
		}
	}
}

// Every effect of the store and the broker fails at random before or after it took place, relays are stopped and
// started, and the broker goes away: nothing is lost, and first occurrences come in order per key. With Pipelined that
// holds for as long as the broker rejects nothing.
func TestRelaysUnderRandomFaults(t *testing.T) {
	const seeds = 4 // about a second each under the race detector; package simulation runs thousands, on a better store
	for n := range seeds {
		seed := uint64(n)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { underFaults(t, seed) })
		})
	}
}

func underFaults(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	f := &faults{rnd: rand.New(rand.NewPCG(seed, 2)), rate: 0.02}
	store, broker := newFakeStore(f), newFakeBroker(f)
	order := []Order{StrictPerKey, Pipelined}[seed%2]
	if order == StrictPerKey {
		broker.decide(func(e *Entry) Status {
			if f.intN(40) == 0 {
				return Rejected
			}
			return Confirmed
		})
	}
	var wg sync.WaitGroup
	ending := make(chan struct{})
	for n := range 3 {
		relayRnd := rand.New(rand.NewPCG(seed, uint64(10+n)))
		wg.Go(func() {
			for {
				config := testConfig(fmt.Sprint("relay ", n, " ", relayRnd.Uint64()))
				config.Order = order
				_, stop := start(t, store, broker, config)
				select {
				case <-ending:
					stop()
					return
				case <-time.After(time.Duration(relayRnd.IntN(20_000)) * time.Millisecond):
					stop()
				}
			}
		})
	}
	for range 60 {
		for range rnd.IntN(20) {
			store.commit([]string{"", "a", "b", "c", "d", "e", "f"}[rnd.IntN(7)])
		}
		if rnd.IntN(20) == 0 {
			broker.set(true, false)
			time.Sleep(time.Duration(rnd.IntN(10_000)) * time.Millisecond)
			broker.set(false, false)
		}
		if rnd.IntN(20) == 0 {
			broker.set(false, true)
			time.Sleep(time.Duration(rnd.IntN(10_000)) * time.Millisecond)
			broker.set(false, false)
		}
		time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
	}
	f.set(0)
	time.Sleep(2 * time.Minute)
	close(ending)
	wg.Wait()
	checkTaken(t, fmt.Sprint("seed ", seed), store, broker, nil)
	if len(store.parked) != 0 {
		t.Fatalf("seed %d: %d events were parked by faults of store and broker", seed, len(store.parked))
	}
	if store.position != len(store.entries) {
		t.Fatalf("seed %d: the checkpoint stands at %d of %d", seed, store.position, len(store.entries))
	}
}

// quiet returns a store and a broker without faults.
func quiet() (*fakeStore, *fakeBroker) {
	f := &faults{rnd: rand.New(rand.NewPCG(1, 1))}
	return newFakeStore(f), newFakeBroker(f)
}

func TestAnOutageCostsLatencyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		r, stop := start(t, store, broker, testConfig("a"))
		defer stop()
		broker.set(true, false)
		for range 100 {
			store.commit("k", "", "l")
		}
		time.Sleep(time.Hour)
		if rp := r.Report(); rp.Parked != 0 || rp.Retries != 0 || rp.Published != 0 || rp.LastError == nil {
			t.Fatalf("during the outage: %+v", rp)
		}
		broker.set(false, false)
		time.Sleep(time.Minute)
		if rp := r.Report(); rp.Parked != 0 || rp.Retries != 0 || !rp.CaughtUp {
			t.Fatalf("after the outage: %+v", rp)
		}
		checkTaken(t, "outage", store, broker, nil)
	})
}

func TestABlockedBrokerIsSentNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		broker.set(false, true)
		r, stop := start(t, store, broker, testConfig("a"))
		defer stop()
		store.commit("k", "l")
		time.Sleep(time.Hour)
		if rp := r.Report(); !rp.Blocked || rp.BlockedReason != "memory" || len(broker.taken) != 0 || rp.Sessions != 1 {
			t.Fatalf("blocked: %+v, %d taken", rp, len(broker.taken))
		}
		broker.set(false, false)
		time.Sleep(time.Second)
		if rp := r.Report(); rp.Blocked || rp.Published != 2 {
			t.Fatalf("unblocked: %+v", rp)
		}
	})
}

func TestTheEventThatKillsTheSessionIsFoundAndParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		for range 30 {
			store.commit("a", "b", "c", "")
		}
		culprit := int64(50) // key b
		broker.decide(func(e *Entry) Status {
			if e.Seq == culprit {
				return killer
			}
			return Confirmed
		})
		r, stop := start(t, store, broker, testConfig("a"))
		time.Sleep(5 * time.Minute)
		stop()
		behind := map[int64]bool{culprit: true}
		for seq, p := range store.parked {
			if seq != culprit && (!p.Behind || p.Event.Key != "b" || seq < culprit) {
				t.Errorf("parked: %+v", p)
			}
			behind[seq] = true
		}
		if _, ok := store.parked[culprit]; !ok || r.Report().Parked != int64(len(store.parked)) {
			t.Errorf("the culprit isn't parked; %d are, %d reported", len(store.parked), r.Report().Parked)
		}
		checkTaken(t, "killer", store, broker, behind)
		if broker.sessions > 8 {
			t.Errorf("%d sessions were needed to find the culprit", broker.sessions)
		}

		// Its cause mended, an operator asks for another try.
		broker.decide(nil)
		store.retry[culprit] = true
		_, stop = start(t, store, broker, testConfig("b"))
		store.commit("b", "b")
		time.Sleep(time.Minute)
		stop()
		if len(store.parked) != 0 {
			t.Errorf("%d events are parked after the retry, want none", len(store.parked))
		}
		checkTaken(t, "retried", store, broker, nil)
	})
}

// A broker that refuses every event is out of order: the events aren't.
// Where the broker names the culprit, nothing else need be published to convict it.
func TestAPoisonThatStandsAloneIsParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		store.commit("a", "b")
		broker.decide(func(*Entry) Status { return poison })
		_, stop := start(t, store, broker, testConfig("a"))
		time.Sleep(2 * time.Minute)
		stop()
		if len(store.parked) != 2 {
			t.Errorf("%d events are parked, want both", len(store.parked))
		}
	})
}

func TestABrokerThatRefusesEverythingParksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		for range 50 {
			store.commit("a", "b", "")
		}
		broker.decide(func(*Entry) Status { return killer })
		r, stop := start(t, store, broker, testConfig("a"))
		time.Sleep(10 * time.Minute)
		broker.decide(nil)
		time.Sleep(10 * time.Minute)
		stop()
		if len(store.parked) != 0 || r.Report().Parked != 0 {
			t.Errorf("%d events are parked", len(store.parked))
		}
		checkTaken(t, "refused", store, broker, nil)
	})
}

// Unroutable events are parked and retried at random while others of their keys come in.
func TestParkedKeysKeepTheirOrder(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			f := &faults{rnd: rand.New(rand.NewPCG(seed, 2)), rate: 0.01}
			store, broker := newFakeStore(f), newFakeBroker(f)
			rnd := rand.New(rand.NewPCG(seed, 3))
			broker.decide(func(e *Entry) Status {
				if f.intN(10) == 0 {
					return Unroutable
				}
				return Confirmed
			})
			_, stop := start(t, store, broker, testConfig("a"))
			for range 40 {
				for range rnd.IntN(6) {
					store.commit([]string{"", "a", "b", "c"}[rnd.IntN(4)])
				}
				time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond)
				store.mu.Lock()
				for seq := range store.parked {
					if rnd.IntN(2) == 0 {
						store.retry[seq] = true
					}
				}
				store.mu.Unlock()
			}
			f.set(0)
			broker.decide(nil)
			for range 100 {
				time.Sleep(3 * time.Second)
				store.mu.Lock()
				for seq := range store.parked {
					store.retry[seq] = true
				}
				store.mu.Unlock()
			}
			stop()
			if len(store.parked) != 0 {
				t.Fatalf("seed %d: %d events stay parked", seed, len(store.parked))
			}
			checkTaken(t, fmt.Sprint("seed ", seed), store, broker, nil)
		})
	}
}

func TestAStandbyTakesOverWhenTheLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		// A relay that died holds the lease.
		if _, err := store.Acquire(t.Context(), Lane{}, "dead", 3*time.Second); err != nil {
			t.Fatal(err)
		}
		store.commit("a")
		r, stop := start(t, store, broker, testConfig("standby"))
		defer stop()
		time.Sleep(2 * time.Second)
		if rp := r.Report(); rp.State != Standby || rp.Published != 0 {
			t.Fatalf("while the lease lasts: %+v", rp)
		}
		time.Sleep(2 * time.Second)
		if rp := r.Report(); rp.State != Leading || rp.Published != 1 || rp.Epoch != 2 {
			t.Fatalf("after it: %+v", rp)
		}
	})
}

func TestARelayThatLostItsLeaseWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		r, stop := start(t, store, broker, testConfig("old"))
		defer stop()
		time.Sleep(time.Second)
		store.mu.Lock()
		store.epoch++ // another one has it now
		store.owner, store.expires = "new", time.Now().Add(time.Minute)
		store.mu.Unlock()
		store.commit("a")
		time.Sleep(5 * time.Second)
		if store.position != 0 {
			t.Errorf("the old relay moved the checkpoint to %d", store.position)
		}
		if rp := r.Report(); rp.State != Standby || !errors.Is(rp.LastError, ErrLeaseLost) {
			t.Errorf("%+v, want a standby that lost its lease", rp)
		}
	})
}

func TestAGracefulStopRepeatsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		for n := range 5 {
			for range 200 {
				store.commit("", "a", "b")
			}
			_, stop := start(t, store, broker, testConfig(fmt.Sprint(n)))
			time.Sleep(30 * time.Millisecond)
			stop()
		}
		_, stop := start(t, store, broker, testConfig("last"))
		time.Sleep(time.Minute)
		stop()
		seqs := make([]int64, len(broker.taken))
		for i, e := range broker.taken {
			seqs[i] = e.Seq
		}
		slices.Sort(seqs)
		if len(seqs) != 3000 || len(slices.Compact(seqs)) != 3000 {
			t.Errorf("%d taken for 3000 committed", len(broker.taken))
		}
	})
}

func TestConfigReportsEveryProblemAtOnce(t *testing.T) {
	_, err := New(nil, nil, Config{LeaseTTL: time.Millisecond, PageEvents: -1, WindowEvents: 1 << 20, PollBusy: -1, UnroutableTries: -1})
	for _, want := range []string{"no store", "no publisher", "LeaseTTL", "PageEvents", "WindowEvents", "PollBusy", "UnroutableTries"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error doesn't mention %s: %v", want, err)
		}
	}
}
