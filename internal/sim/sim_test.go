package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inWorld runs a world without a search around it.
func inWorld(t *testing.T, run func(w *World)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(1, everything)
		run(w)
		w.late.Wait()
	})
}

// counter is a server that several clients count on: correctly by add, or by get and set.
type counter struct {
	w *World
	n int
}

func (c *counter) add(a *Actor) error {
	_, err := Do(context.Background(), a, "add", "", func() (int, error) { c.n++; return c.n, nil })
	return err
}

func (c *counter) get(a *Actor) (int, error) {
	return Do(context.Background(), a, "get", "", func() (int, error) { return c.n, nil })
}

func (c *counter) set(a *Actor, n int) error {
	_, err := Do(context.Background(), a, "set", "", func() (int, error) { c.n = n; return n, nil })
	return err
}

// counting has three clients count to three each. Of clients that get and set, one may undo what another did; of those that
// try again after an error, one may count twice.
func counting(rates Rates, count func(c *counter, a *Actor) error) func(*World) {
	return func(w *World) {
		w.SetRates(rates)
		c := &counter{w: w}
		var group sync.WaitGroup
		for i := range 3 {
			a := w.Actor(fmt.Sprint("client ", i))
			pause := w.Rand(a.Name())
			group.Go(func() {
				for range 3 {
					time.Sleep(time.Duration(pause.IntN(20)) * time.Millisecond)
					for count(c, a) != nil {
					}
				}
			})
		}
		group.Wait()
		if c.n != 9 {
			w.Fail("counted to %d, want 9", c.n)
		}
	}
}

func readThenWrite(c *counter, a *Actor) error {
	n, err := c.get(a)
	if err != nil {
		return err
	}
	return c.set(a, n+1)
}

func TestARaceIsFound(t *testing.T) {
	Explore(t, Budget{Least: 100}, counting(Rates{}, (*counter).add))
	found := Hunt(t, Budget{Least: 1000}, counting(Rates{}, readThenWrite))
	if !strings.Contains(found.Why.Error(), "counted to") {
		t.Errorf("found: %v", found.Why)
	}
}

func TestAnEffectThatFailsMayHaveTakenPlace(t *testing.T) {
	Explore(t, Budget{Least: 100}, counting(Rates{Before: 0.2}, (*counter).add))
	Hunt(t, Budget{Least: 1000}, counting(Rates{After: 0.2}, (*counter).add))
}

func TestAStoryIsShortenedToTheFaultsThatMatter(t *testing.T) {
	run := counting(Rates{Before: 0.2, After: 0.1}, (*counter).add)
	seed, failed, _, _, _ := search(t, Budget{Least: 1000}, run)
	if failed.failure == nil || len(failed.faults) < 2 {
		t.Fatalf("seed %d: %v with %d faults", seed, failed.failure, len(failed.faults))
	}
	least := shrink(t, seed, failed, run)
	if least.failure == nil || len(least.faults) != 1 || !strings.Contains(least.faults[0].What, "after it took place") {
		t.Errorf("left: %s", list(least.faults))
	}
}

func TestASeedReplays(t *testing.T) {
	run := counting(Rates{Before: 0.1, After: 0.1, Slow: 0.1}, readThenWrite)
	if same, differs := Replays(t, 300, run); same != 300 {
		t.Errorf("%d of 300 seeds came out the same; %s", same, differs)
	}
	one, other := once(t, 1, everything, run), once(t, 2, everything, run)
	if one.trace.digest == other.trace.digest || one.trace.String() == other.trace.String() {
		t.Error("two seeds came out the same")
	}
}

func TestAPausedActorGoesOnWhenThePauseIsOver(t *testing.T) {
	inWorld(t, func(w *World) {
		c, a, b := &counter{w: w}, w.Actor("a"), w.Actor("b")
		a.Pause(time.Minute)
		var order []string
		var group sync.WaitGroup
		for _, one := range []*Actor{a, b} {
			group.Go(func() {
				_ = c.add(one)
				w.Look(func() { order = append(order, one.Name()) })
			})
		}
		group.Wait()
		if !slices.Equal(order, []string{"b", "a"}) || w.Now() < time.Minute {
			t.Errorf("%v after %v", order, w.Now())
		}
	})
}

func TestAKilledActorDoesNothingMore(t *testing.T) {
	inWorld(t, func(w *World) {
		c, a := &counter{w: w}, w.Actor("a")
		a.Kill()
		if err := c.add(a); !errors.Is(err, ErrKilled) || c.n != 0 {
			t.Errorf("%v, counted to %d", err, c.n)
		}
		if err := c.add(w.Actor("a")); err != nil || c.n != 1 {
			t.Errorf("started again: %v, counted to %d", err, c.n)
		}
	})
}

// What was on its way when its caller died or gave up gets through in half of the cases.
func TestWhatWasOnItsWayMayStillTakePlace(t *testing.T) {
	for name, leave := range map[string]func(a *Actor, cancel func()){
		"killed":  func(a *Actor, _ func()) { a.Kill() },
		"gave up": func(_ *Actor, cancel func()) { cancel() },
	} {
		arrived := 0
		inWorld(t, func(w *World) {
			for range 200 {
				a := w.Actor("a")
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error)
				go func() {
					_, err := Do(ctx, a, "do", "", func() (int, error) { arrived++; return 0, nil })
					done <- err
				}()
				synctest.Wait()
				leave(a, cancel)
				if err := <-done; err == nil {
					t.Errorf("%s: no error", name)
				}
				cancel()
			}
		})
		if arrived < 60 || arrived > 140 {
			t.Errorf("%s: %d of 200 got through", name, arrived)
		}
	}
}

func TestAGoroutineThatIsLeftBehindIsAFailure(t *testing.T) {
	o := once(t, 1, everything, func(w *World) {
		w.Note("a", "forgets a goroutine")
		go func() { <-make(chan int) }()
	})
	if o.failure == nil || !strings.Contains(o.failure.Error(), "TestAGoroutineThatIsLeftBehindIsAFailure") {
		t.Errorf("%v", o.failure)
	}
	if !strings.Contains(o.trace.String(), "forgets a goroutine") {
		t.Errorf("the trace: %s", o.trace)
	}
}

func TestNoFaultBeginsInACalmWorld(t *testing.T) {
	inWorld(t, func(w *World) {
		w.SetRates(Rates{Before: 1})
		c, a := &counter{w: w}, w.Actor("a")
		if err := c.add(a); !errors.Is(err, ErrInjected) || !w.Strike("thunder", 1, time.Minute) {
			t.Errorf("a world with faults: %v", err)
		}
		if over := w.Calm(); over < time.Minute {
			t.Errorf("the last fault is over at %v", over)
		}
		if err := c.add(a); err != nil || w.Strike("thunder", 1, time.Minute) {
			t.Errorf("a calm world: %v", err)
		}
	})
}

func TestATraceSaysWhatHappened(t *testing.T) {
	o := once(t, 1, everything, func(w *World) {
		a := w.Actor("a")
		_, _ = Do(context.Background(), a, "store", "lane 1", func() (int, error) {
			w.Detail("to %d", 7)
			return 0, errors.New("disk full")
		})
		w.Fail("promise %d", 1)
	})
	for _, want := range []string{"a           store lane 1  to 7  -> disk full", "BROKEN: promise 1"} {
		if !strings.Contains(o.trace.String(), want) {
			t.Errorf("lacks %q:\n%s", want, o.trace)
		}
	}
}
