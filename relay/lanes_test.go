package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func quietLanes() (*fakeLanes, *fakeBroker) {
	f := &faults{rnd: rand.New(rand.NewPCG(1, 1))}
	return newFakeLanes(f), newFakeBroker(f)
}

func lanesConfig(owner string, lanes int) Config {
	config := testConfig(owner)
	config.Lanes = lanes
	return config
}

func keyNames(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprint("key ", i))
	}
	return keys
}

// Every effect of the store and the broker fails at random, relays are killed, paused for longer than their lease and
// stopped, and the number of lanes changes all the time: nothing is lost, and first occurrences come in order per key.
func TestRelaysShareLanesUnderRandomFaults(t *testing.T) {
	const seeds = 4 // about a second each under the race detector; package simulation runs thousands, on a better store
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { lanesUnderFaults(t, seed) })
		})
	}
}

func lanesUnderFaults(t *testing.T, seed uint64) {
	f := &faults{rnd: rand.New(rand.NewPCG(seed, 2)), rate: 0.01}
	store, broker := newFakeLanes(f), newFakeBroker(f)
	rnd := rand.New(rand.NewPCG(seed, 1))
	order := []Order{StrictPerKey, Pipelined}[seed%2]
	if order == StrictPerKey {
		broker.decide(func(*Entry) Status {
			if f.intN(40) == 0 {
				return Rejected
			}
			return Confirmed
		})
	}
	var relays sync.WaitGroup
	calm, ending := make(chan struct{}), make(chan struct{})
	for n := range 3 {
		rnd := rand.New(rand.NewPCG(seed, uint64(10+n)))
		relays.Go(func() {
			for {
				p := newProcess(store, broker)
				config := lanesConfig(fmt.Sprint("relay ", n, " ", rnd.Uint64()), 3)
				config.Order = order
				_, stop := start(t, p, p.publisher(), config)
				select {
				case <-calm:
					<-ending
					stop()
					return
				case <-time.After(time.Duration(rnd.IntN(30_000)) * time.Millisecond):
				}
				switch rnd.IntN(3) {
				case 0:
					p.kill()
				case 1:
					p.pause()
					time.Sleep(time.Duration(rnd.IntN(12_000)) * time.Millisecond)
					p.goOn()
					time.Sleep(time.Duration(rnd.IntN(2_000)) * time.Millisecond)
				}
				stop()
			}
		})
	}
	keys := append(keyNames(20), "", "")
	for range 60 {
		for range rnd.IntN(20) {
			store.commit(keys[rnd.IntN(len(keys))])
		}
		if rnd.IntN(6) == 0 {
			err := store.SetLanes(t.Context(), "", []int{1, 2, 3, 5}[rnd.IntN(4)])
			if err != nil && !errors.Is(err, errInjected) {
				t.Error(err)
			}
		}
		if rnd.IntN(20) == 0 {
			broker.set(true, false)
			time.Sleep(time.Duration(rnd.IntN(10_000)) * time.Millisecond)
			broker.set(false, false)
		}
		time.Sleep(time.Duration(rnd.IntN(700)) * time.Millisecond)
	}
	f.set(0)
	close(calm)
	time.Sleep(2 * time.Minute)
	close(ending)
	relays.Wait()
	checkTaken(t, fmt.Sprint("seed ", seed), store.fakeStore, broker, nil)
	for i, l := range store.lanes[:store.of] {
		if l.position != len(store.entries) || l.owner != "" {
			t.Errorf("seed %d: lane %d of %d stands at %d of %d and is %q's", seed, i, store.of, l.position, len(store.entries), l.owner)
		}
	}
}

func wantShares(t *testing.T, when string, store *fakeLanes, want ...int) {
	t.Helper()
	has := map[string]int{}
	for _, owner := range store.owners() {
		has[owner]++
	}
	var got []int
	for owner, n := range has {
		if owner == "" {
			t.Errorf("%s: %d lanes are nobody's", when, n)
		}
		got = append(got, n)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%s: the relays have %v lanes, want %v", when, has, want)
	}
}

func TestRelaysHaveFairSharesAndKeepThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		store.commit(keyNames(100)...)
		stops := map[string]func(){}
		add := func(owner string) { _, stops[owner] = start(t, store, broker, lanesConfig(owner, 7)) }
		settle := func() { time.Sleep(5 * time.Second) }
		add("a")
		settle()
		wantShares(t, "one relay", store, 7)
		add("b")
		settle()
		wantShares(t, "two", store, 3, 4)
		add("c")
		settle()
		wantShares(t, "three", store, 2, 2, 3)

		epochs := store.epochs()
		time.Sleep(10 * time.Minute)
		if now := store.epochs(); !slices.Equal(now, epochs) {
			t.Errorf("in ten minutes of peace the lanes' epochs went from %v to %v", epochs, now)
		}

		began := time.Now()
		stops["b"]()
		for len(store.owners()) != 7 || slices.Contains(store.owners(), "") {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("a stopped relay's lanes were taken after %v, with a lease of 3s", took)
		}
		wantShares(t, "two again", store, 3, 4)
		for n := range 7 {
			add(fmt.Sprint("d", n))
		}
		settle()
		wantShares(t, "more relays than lanes", store, 1, 1, 1, 1, 1, 1, 1)
		for _, stop := range stops {
			stop()
		}
		checkTaken(t, "shares", store.fakeStore, broker, nil)
		if n := len(broker.taken); n != 100 {
			t.Errorf("%d were published for 100: giving lanes back in good order repeats nothing", n)
		}
	})
}

// Whatever the relays have, their shares add up, differ by one at most, and what was fair stays.
func TestSharesAreFair(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		lanes, relays, has := 1+rnd.IntN(40), keyNames(1+rnd.IntN(12)), map[string]int{}
		for _, owner := range relays {
			has[owner] = rnd.IntN(8)
		}
		share := shares(lanes, relays, has)
		sum := 0
		for _, owner := range relays {
			sum += share[owner]
			if n := share[owner]; n < lanes/len(relays) || n > lanes/len(relays)+1 {
				t.Fatalf("%d lanes, %d relays: %s is to have %d", lanes, len(relays), owner, n)
			}
		}
		if sum != lanes {
			t.Fatalf("%d lanes, the shares are %v", lanes, share)
		}
		rnd.Shuffle(len(relays), func(i, j int) { relays[i], relays[j] = relays[j], relays[i] })
		if again := shares(lanes, relays, share); fmt.Sprint(again) != fmt.Sprint(share) {
			t.Fatalf("%d lanes: fair shares %v became %v", lanes, share, again)
		}
	}
}

func TestALaneOfADeadRelayIsServedWithinTwoLeases(t *testing.T) {
	for name, end := range map[string]func(*process) (then func()){
		"killed": func(p *process) func() { p.kill(); return func() {} },
		"paused": func(p *process) func() { p.pause(); return p.goOn },
	} {
		for phase := range 5 {
			synctest.Test(t, func(t *testing.T) {
				store, broker := quietLanes()
				victim := newProcess(store, broker)
				_, stopVictim := start(t, victim, victim.publisher(), lanesConfig("victim", 6))
				time.Sleep(time.Second)
				var stops []func()
				for _, owner := range []string{"b", "c"} {
					_, stop := start(t, store, broker, lanesConfig(owner, 6))
					stops = append(stops, stop)
				}
				time.Sleep(10*time.Second + time.Duration(phase)*250*time.Millisecond)
				wantShares(t, "before", store, 2, 2, 2)
				began := time.Now()
				then := end(victim)
				had, left := 0, 0
				for _, owner := range store.owners() {
					if owner == "victim" {
						had++
					}
				}
				for time.Since(began) < 2*3*time.Second {
					time.Sleep(10 * time.Millisecond)
					if left = 6 - len(slices.DeleteFunc(store.owners(), func(o string) bool { return o == "" || o == "victim" })); left == 0 {
						break
					}
				}
				if took := time.Since(began); had != 2 || left > 0 || took < 2*time.Second {
					t.Errorf("%s: of the victim's %d lanes %d weren't served after %v; want all, and none before its lease ran out", name, had, left, took)
				}
				store.commit(keyNames(50)...)
				time.Sleep(time.Second)
				then()
				time.Sleep(10 * time.Second)
				if name == "paused" {
					wantShares(t, "the victim is back", store, 2, 2, 2)
				}
				stopVictim()
				for _, stop := range stops {
					stop()
				}
				checkTaken(t, name, store.fakeStore, broker, nil)
			})
		}
	}
}

// A clock that jumps shows everybody's lease as run out: nobody loses a lane by that.
func TestAClockThatJumpsEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		var stops []func()
		for _, owner := range []string{"a", "b", "c"} {
			_, stop := start(t, store, broker, lanesConfig(owner, 6))
			stops = append(stops, stop)
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		before := store.epochs()
		for n := range 50 {
			store.mu.Lock()
			store.ahead += time.Hour
			store.mu.Unlock()
			time.Sleep(10*time.Second + time.Duration(n)*53*time.Millisecond)
		}
		if after := store.epochs(); !slices.Equal(before, after) {
			t.Errorf("the lanes' epochs went from %v to %v", before, after)
		}
		for _, stop := range stops {
			stop()
		}
	})
}

// A relay that can't reach the broker leaves its lanes to those that can, and doesn't come back for them before it can too.
func TestARelayThatCannotPublishLeavesTheLanesToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		cut := newFakeBroker(broker.faults)
		a, stopA := start(t, store, cut, lanesConfig("a", 4))
		time.Sleep(time.Second)
		b, stopB := start(t, store, broker, lanesConfig("b", 4))
		time.Sleep(10 * time.Second)
		wantShares(t, "before", store, 2, 2)
		cut.set(true, false)
		store.commit(keyNames(40)...)
		time.Sleep(15 * time.Second)
		wantShares(t, "a can't publish", store, 4)
		if rp := b.Report(); rp.Published != 40 {
			t.Errorf("b published %d of 40", rp.Published)
		}
		epochs := store.epochs()
		for range 30 {
			store.commit(keyNames(10)...)
			time.Sleep(10 * time.Second)
		}
		if now := store.epochs(); !slices.Equal(epochs, now) {
			t.Errorf("while a can't publish the lanes' epochs went from %v to %v", epochs, now)
		}
		if rp := a.Report(); rp.State != Standby || rp.LastError == nil {
			t.Errorf("meanwhile a is %+v", rp)
		}
		cut.set(false, false)
		time.Sleep(30 * time.Second)
		wantShares(t, "a can publish again", store, 2, 2)
		stopA()
		stopB()
	})
}

// Where nobody can publish, nobody waits for the others either.
func TestAfterAnOutageForAllEverybodyIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		var stops []func()
		for _, owner := range []string{"a", "b"} {
			_, stop := start(t, store, broker, lanesConfig(owner, 4))
			stops = append(stops, stop)
		}
		time.Sleep(10 * time.Second)
		broker.set(true, false)
		store.commit(keyNames(40)...)
		time.Sleep(10 * time.Minute)
		broker.set(false, false)
		store.commit(keyNames(40)...)
		time.Sleep(15 * time.Second)
		broker.mu.Lock()
		if n := len(broker.taken); n < 80 {
			t.Errorf("15 s after the outage %d of 80 events had been taken", n)
		}
		broker.mu.Unlock()
		time.Sleep(30 * time.Second)
		wantShares(t, "after it", store, 2, 2)
		for _, stop := range stops {
			stop()
		}
		checkTaken(t, "outage", store.fakeStore, broker, nil)
	})
}

func TestTwoRelaysOfOneNameDoNotFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		_, stop := start(t, store, broker, lanesConfig("same", 2))
		time.Sleep(5 * time.Second)
		before := store.epochs()
		second, err := New(store, broker, lanesConfig("same", 2))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = second.Run(ctx)
		if !errors.Is(err, ErrHalt) || !strings.Contains(err.Error(), "Config.Owner") {
			t.Errorf("the second one ended with %v; want ErrHalt, and that Config.Owner must be its own", err)
		}
		if after := store.epochs(); !slices.Equal(before, after) {
			t.Errorf("the lanes' epochs went from %v to %v", before, after)
		}
		stop()
	})
}

func TestARestartedRelayOfTheSameNameWaitsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		p := newProcess(store, broker)
		_, stop := start(t, p, p.publisher(), lanesConfig("same", 2))
		time.Sleep(5 * time.Second)
		p.kill()
		began := time.Now()
		r, stopNext := start(t, store, broker, lanesConfig("same", 2))
		for r.Report().State != Leading {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it led after %v, with a lease of 3s", took)
		}
		stopNext()
		stop()
	})
}

// What a process had sent before it was killed may arrive late, and look like a sign of life.
func TestALateRequestOfADeadNamesakeEndsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		p := newProcess(store, broker)
		_, stop := start(t, p, p.publisher(), lanesConfig("same", 2))
		time.Sleep(5 * time.Second)
		p.kill()
		store.mu.Lock()
		dead := store.relays["same"].instance
		store.mu.Unlock()
		r, stopNext := start(t, store, broker, lanesConfig("same", 2))
		for range 2 {
			time.Sleep(time.Second)
			if _, err := store.Join(t.Context(), "", "same", dead, 2, 3*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		for r.Report().State != Leading {
			if time.Since(began) > time.Minute {
				t.Fatalf("it never led: %+v", r.Report())
			}
			time.Sleep(10 * time.Millisecond)
		}
		stopNext()
		stop()
	})
}

func TestAChangeOfLanesIsTakenUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		var relays []*Relay
		var stops []func()
		for _, owner := range []string{"a", "b"} {
			r, stop := start(t, store, broker, lanesConfig(owner, 2))
			relays, stops = append(relays, r), append(stops, stop)
		}
		for _, lanes := range []int{5, 1, 3, 2} {
			time.Sleep(10 * time.Second)
			store.commit(keyNames(60)...)
			if err := store.SetLanes(t.Context(), "", lanes); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			want := []int{lanes / 2, lanes - lanes/2}
			if lanes == 1 {
				want = []int{1}
			}
			wantShares(t, fmt.Sprint(lanes, " lanes"), store, want...)
			for _, r := range relays {
				if rp := r.Report(); len(rp.Lanes) != lanes || rp.Lanes[lanes-1].Lane.Of != lanes {
					t.Errorf("of %d lanes the report has %+v", lanes, rp.Lanes)
				}
			}
		}
		for _, stop := range stops {
			stop()
		}
		checkTaken(t, "changes", store.fakeStore, broker, nil)
	})
}

// New lanes begin at the place of the lane that is furthest behind, and retention ends there: one without events mustn't be.
func TestALaneWithoutEventsMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		_, stop := start(t, store, broker, lanesConfig("a", 4))
		for range 100 {
			store.commit("one key")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(passedEvery + time.Second)
		store.mu.Lock()
		for i, l := range store.lanes {
			if l.position != 100 {
				t.Errorf("lane %d stands at %d of 100", i, l.position)
			}
		}
		store.mu.Unlock()
		stop()
	})
}

func TestTheReportOfSeveralLanesAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		states := map[string]int{}
		config := lanesConfig("a", 3)
		config.Hooks.OnState = func(lane Lane, state State) { states[fmt.Sprint(lane.Index, " ", state)]++ }
		r, stop := start(t, store, broker, config)
		store.commit(keyNames(90)...)
		time.Sleep(10 * time.Second)
		rp := r.Report()
		var sum int64
		for i, l := range rp.Lanes {
			if l.Lane != (Lane{DefaultDestination, i, 3}) || l.State != Leading || l.Epoch == 0 || !l.CaughtUp || l.Published == 0 {
				t.Errorf("lane %d: %+v", i, l)
			}
			sum += l.Published
		}
		if len(rp.Lanes) != 3 || sum != 90 || rp.Published != 90 || rp.State != Leading || !rp.CaughtUp || rp.Owner != "a" || rp.Destination != DefaultDestination {
			t.Errorf("%+v", rp)
		}
		stop()
		if rp := r.Report(); rp.State != Stopped || rp.Published != 90 || rp.CaughtUp || rp.Lanes[2].State != Stopped {
			t.Errorf("stopped: %+v", rp)
		}
		for i := range 3 {
			if states[fmt.Sprint(i, " leading")] != 1 || states[fmt.Sprint(i, " stopped")] != 1 {
				t.Errorf("the hooks were told %v", states)
			}
		}
	})
}

// What the relay can't see of the others doesn't end what it leads.
func TestLanesAreLedWhileOthersCannotBeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		blind := &blind{fakeLanes: store}
		r, stop := start(t, blind, broker, lanesConfig("a", 2))
		time.Sleep(5 * time.Second)
		before := store.epochs()
		store.mu.Lock()
		blind.now = true
		store.mu.Unlock()
		store.commit(keyNames(10)...)
		time.Sleep(time.Minute)
		if rp := r.Report(); rp.Published != 10 || rp.LastError == nil || !slices.Equal(store.epochs(), before) {
			t.Errorf("%+v", rp)
		}
		stop()
	})
}

type blind struct {
	*fakeLanes
	now bool
}

func (b *blind) Join(ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration) (Membership, error) {
	b.mu.Lock()
	now := b.now
	b.mu.Unlock()
	if now {
		return Membership{}, errInjected
	}
	return b.fakeLanes.Join(ctx, destination, owner, instance, lanes, ttl)
}

func TestAStoreOfOneLaneRefusesMore(t *testing.T) {
	store, broker := quiet()
	for lanes, want := range map[int]string{2: "one lane", -1: "Lanes is -1", MaxLanes + 1: "Lanes is 1025"} {
		if _, err := New(store, broker, Config{Lanes: lanes}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d lanes: %v, want %q", lanes, err, want)
		}
	}
	// Behind it may be one that has more.
	synctest.Test(t, func(t *testing.T) {
		lanes, broker := quietLanes()
		if _, err := lanes.Join(t.Context(), "", "x", "y", 3, 0); err != nil {
			t.Fatal(err)
		}
		r, err := New(struct{ Store }{lanes}, broker, testConfig("a"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context()); !errors.Is(err, ErrHalt) || !strings.Contains(err.Error(), "3 lanes") {
			t.Errorf("Run: %v", err)
		}
	})
}

// The others see the lease of the one that died, and that one of its name is alive again: they leave the lane to it.
func TestARelayThatIsStartedAgainUnderItsNameTakesItsLanesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quietLanes()
		p := newProcess(store, broker)
		_, stopDead := start(t, p, p.publisher(), lanesConfig("b", 1))
		time.Sleep(time.Second)
		var stops []func()
		for _, owner := range []string{"a", "c"} {
			_, stop := start(t, store, broker, lanesConfig(owner, 1))
			stops = append(stops, stop)
		}
		time.Sleep(5 * time.Second)
		wantShares(t, "before", store, 1)
		p.kill()
		_, stop := start(t, store, broker, lanesConfig("b", 1))
		time.Sleep(2 * 3 * time.Second)
		wantShares(t, "two leases later", store, 1)
		for _, stop := range append(stops, stop, stopDead) {
			stop()
		}
	})
}

// Also where one of them doesn't lead what its name is on: the answer to its Acquire was lost, or it couldn't release the lease.
func TestRelaysThatSeeTheSameShareOutEveryLane(t *testing.T) {
	for _, owner := range []string{"a", "b", "c"} {
		m := Membership{Lanes: 1, Relays: []string{"a", "b", "c"}, Leases: []LeaseState{{Owner: owner, Epoch: 1, Expired: true}}}
		sum := 0
		for _, relay := range m.Relays {
			sum += shares(m.Lanes, m.Relays, m.has(relay, 0))[relay]
		}
		if sum != 1 {
			t.Errorf("a lease is %s's, which doesn't lead: the relays' shares of 1 lane add up to %d", owner, sum)
		}
	}
}
