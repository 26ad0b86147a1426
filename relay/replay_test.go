package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surepost/surepost"
)

// runToEnd runs a relay until its log has ended, an hour at most.
func runToEnd(t *testing.T, store Store, broker Publisher, config Config) Report {
	t.Helper()
	r, err := New(store, broker, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := r.Run(ctx); err != nil || ctx.Err() != nil {
		t.Fatalf("Run ended with %v, the hour with %v", err, ctx.Err())
	}
	return r.Report()
}

// only selects the entries of a key, of which the last of a log may be none.
func only(key string) func(*Entry) bool {
	return func(e *Entry) bool { return e.Event.Key == key }
}

func TestARelayEndsWithItsLog(t *testing.T) {
	for name, commit := range map[string]func(*fakeStore){
		"whose last event counts": func(s *fakeStore) { s.commit("other", "mine") },
		"that goes on in vain":    func(s *fakeStore) { s.commit(strings.Split(strings.Repeat("other ", 100), " ")...) },
		"that is empty":           func(s *fakeStore) { s.entries = nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, broker := quiet()
				store.replays = only("mine")
				for range 50 {
					store.commit("mine", "other", "other")
				}
				commit(store)
				if rp := runToEnd(t, store, broker, testConfig("a")); !rp.Done || rp.State != Stopped {
					t.Errorf("%+v, want a relay that is done", rp)
				}
				if store.position != len(store.entries) {
					t.Errorf("the checkpoint stands at %d of %d", store.position, len(store.entries))
				}
				want := 0
				for i := range store.entries {
					if store.replays(&store.entries[i]) {
						want++
					}
				}
				if len(broker.taken) != want {
					t.Errorf("%d events were taken, want %d", len(broker.taken), want)
				}
				if rp := runToEnd(t, store, broker, testConfig("b")); !rp.Done || len(broker.taken) != want {
					t.Errorf("once more: %+v, %d taken", rp, len(broker.taken))
				}
			})
		})
	}
}

// A relay that was told to stop hasn't come to the end.
func TestAStoppedReplayIsNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		store.replays = only("mine")
		for range 1000 {
			store.commit("mine")
		}
		config := testConfig("a")
		config.MaxEventsPerSecond, config.PageEvents = 10, 0 // the default: little is read ahead
		r, stop := start(t, store, broker, config)
		time.Sleep(10 * time.Second)
		stop()
		taken := len(broker.taken)
		if r.Report().Done || taken < 90 || taken > 115 {
			t.Errorf("after ten seconds: %+v, %d taken", r.Report(), taken)
		}
		if store.position != taken {
			t.Errorf("the checkpoint stands at %d, and %d were taken", store.position, taken)
		}
		config.MaxEventsPerSecond = 0
		runToEnd(t, store, broker, config)
		if len(broker.taken) != 1000 {
			t.Errorf("%d events were taken in two runs, want 1000", len(broker.taken))
		}
	})
}

// Every effect of the store and the broker fails at random while relays of a replay come and go: all that it selects is
// published, in order per key, and one of them comes to the end.
func TestReplaysUnderRandomFaults(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				f := &faults{rnd: rand.New(rand.NewPCG(seed, 2)), rate: 0.03}
				store, broker := newFakeStore(f), newFakeBroker(f)
				store.replays = func(e *Entry) bool { return e.Event.Key != "other" }
				for range 600 {
					store.commit([]string{"", "a", "b", "other", "other"}[rnd.IntN(5)])
				}
				for n := 0; ; n++ {
					if n == 100 {
						f.set(0)
					}
					r, err := New(store, broker, testConfig(fmt.Sprint("relay ", n)))
					if err != nil {
						t.Fatal(err)
					}
					life := time.Duration(rnd.IntN(2000)) * time.Millisecond
					if n >= 100 {
						life = time.Hour
					}
					ctx, cancel := context.WithTimeout(t.Context(), life)
					err = r.Run(ctx)
					cancel()
					if err != nil {
						t.Fatal(err)
					}
					if r.Report().Done {
						break
					}
					if n > 100 {
						t.Fatalf("it doesn't end: %+v", r.Report())
					}
				}
				others := map[int64]bool{}
				for _, e := range store.entries {
					others[e.Seq] = e.Event.Key == "other"
				}
				checkTaken(t, fmt.Sprint("seed ", seed), store, broker, others)
				for _, e := range broker.taken {
					if others[e.Seq] {
						t.Fatalf("seed %d: %s was published and isn't selected", seed, e.Event.ID)
					}
				}
				if store.position != len(store.entries) {
					t.Fatalf("seed %d: done at %d of %d", seed, store.position, len(store.entries))
				}
			})
		})
	}
}

func TestAReplayEndsAfterWhatWasReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		store.replays = only("mine")
		for range 60 {
			store.commit("mine")
		}
		broker.decide(func(e *Entry) Status {
			if e.Seq == 3 {
				return Unroutable
			}
			return Confirmed
		})
		if rp := runToEnd(t, store, broker, testConfig("a")); !rp.Done || len(store.parked) != 58 {
			t.Fatalf("%+v, %d parked, want the third and those behind it", rp, len(store.parked))
		}
		broker.decide(nil)
		store.retry[3] = true
		config := testConfig("b")
		config.PageEvents = 5 // so that what is released comes in many pages
		if rp := runToEnd(t, store, broker, config); !rp.Done || len(store.parked) != 0 || len(broker.taken) != 60 {
			t.Fatalf("%+v, %d parked, %d taken, want all 60", rp, len(store.parked), len(broker.taken))
		}
		checkTaken(t, "released", store, broker, nil)
	})
}

// replayStore is a store that says which destinations there are.
type replayStore struct {
	*fakeStore
	ReplayStore
	list []Destination
}

func (s *replayStore) Destinations(context.Context) ([]Destination, error) { return s.list, nil }

func TestARelayOfAReplayPublishesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, broker := quiet()
		fake.replays = only("mine")
		fake.commit("mine")
		with := func(list ...Destination) Store { return &replayStore{fake, nil, list} }
		config := testConfig("a")
		config.Destination, config.Replay = "again", true
		for name, c := range map[string]struct {
			store Store
			words string
		}{
			"that was removed":       {with(Destination{Name: "other", Replay: &Replay{}}), "CreateReplay"},
			"that isn't one":         {with(Destination{Name: "again"}), "isn't a replay"},
			"of a store that can't":  {fake, "has no replays"},
			"of an empty store, too": {with(), "CreateReplay"},
		} {
			r, err := New(c.store, broker, config)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Run(t.Context()); !errors.Is(err, ErrHalt) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%s: Run ended with %v", name, err)
			}
			if len(broker.taken) != 0 || fake.epoch != 0 {
				t.Fatalf("%s: %d events were taken, epoch %d", name, len(broker.taken), fake.epoch)
			}
		}
		runToEnd(t, with(Destination{Name: "again", Replay: &Replay{}}), broker, config)
		if len(broker.taken) != 1 {
			t.Errorf("%d events were taken from the replay that is there, want 1", len(broker.taken))
		}
	})
}

func TestAFilterSaysEverythingThatIsWrongWithIt(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		filter EventFilter
		words  []string
	}{
		{EventFilter{}, nil},
		{EventFilter{Types: []string{"T"}, Since: at, Until: at.Add(1)}, nil},
		{EventFilter{Since: at}, nil},
		{EventFilter{Until: at}, nil},
		{EventFilter{Since: at, Until: at}, []string{"both", "Until behind"}},
		{EventFilter{Since: at.Add(1), Until: at}, []string{"is after", "exchange"}},
		{EventFilter{Types: []string{"a", ""}, Keys: []string{"\xff"}, Sources: []string{strings.Repeat("x", 256)}, IDs: []string{"a\x00"}, CorrelationID: "\xff"},
			[]string{"Types[1] is empty", "Keys[0] is not valid UTF-8", "Sources[0] is 256 bytes", "IDs[0] contains a NUL", "CorrelationID is not valid"}},
		{EventFilter{IDs: make([]string, MaxFilterValues+1)}, []string{"IDs has 1001 values"}},
		{EventFilter{Since: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"the year 9999"}},
	} {
		err := c.filter.Validate()
		if (err == nil) != (len(c.words) == 0) {
			t.Errorf("%+v: %v", c.filter, err)
		}
		for _, w := range c.words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: %v doesn't say %q", c.filter, err, w)
			}
		}
	}
	for name, ok := range map[string]bool{"": false, "a": true, strings.Repeat("a", 255): true, strings.Repeat("a", 256): false, "\xff": false, "a\x00b": false, "nach Köln": true} {
		if err := ValidDestination(name); (err == nil) != ok {
			t.Errorf("destination %q: %v", name, err)
		}
	}
}

func TestAReplayedEventLeavesTheOriginalAlone(t *testing.T) {
	for _, headers := range []map[string]string{nil, {"a": "b"}} {
		e := surepost.Event{ID: "1", Headers: headers}
		again := Replayed(e, "monday")
		if again.ID != "1" || again.Headers[HeaderReplay] != "monday" || len(again.Headers) != len(headers)+1 {
			t.Errorf("%+v", again)
		}
		if _, changed := e.Headers[HeaderReplay]; changed {
			t.Errorf("the original has the header too: %+v", e)
		}
	}
}
