package sim

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oneSeed  = flag.Uint64("seed", 0, "sim: run this seed alone, and print its trace")
	onlyIDs  = flag.String("only", "", "sim: with -seed, let only these of its faults happen (ids, separated by commas; none: no fault)")
	seeds    = flag.Int("seeds", 0, "sim: run as many seeds")
	duration = flag.Duration("for", 0, "sim: run seeds for as long")
	first    = flag.Uint64("from", 1, "sim: begin with this seed")
)

// Budget says how many seeds are run, unless flags say otherwise: for as long as For, and Least in any case.
type Budget struct {
	Least int
	For   time.Duration
}

func (b Budget) flags() Budget {
	if *seeds > 0 || *duration > 0 {
		return Budget{Least: *seeds, For: *duration}
	}
	return b
}

// stuckAfter is how long a run may take in real time. One takes milliseconds: this one goes round in circles.
const stuckAfter = time.Minute

// outcome is what came of a run.
type outcome struct {
	failure error
	faults  []Fault
	trace   *trace
}

// once runs a seed.
func once(t *testing.T, seed uint64, allowed func(uint64) bool, run func(*World)) (o outcome) {
	var w *World
	stuck := time.AfterFunc(stuckAfter, func() {
		w.mu.TryLock() // whoever has it may be what is stuck
		w.trace.lines = w.trace.lines[max(0, len(w.trace.lines)-100):]
		panic(fmt.Sprintf("sim: seed %d has been running for %v. The last of its trace:\n%s\nIts goroutines:\n%s",
			seed, stuckAfter, &w.trace, bubbled()))
	})
	defer stuck.Stop()
	defer func() {
		// A bubble whose main function returned while others of its goroutines are blocked, or in which all are.
		if dead := recover(); dead != nil {
			err, ok := dead.(error)
			if !ok || w == nil || !strings.HasPrefix(err.Error(), "deadlock:") {
				panic(dead)
			}
			o = w.outcome()
			o.failure = errors.Join(o.failure, fmt.Errorf("%w:\n%s", err, bubbled()))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, allowed)
		run(w)
		w.late.Wait()
	})
	return w.outcome()
}

func (w *World) outcome() outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return outcome{w.failure, w.faults, &w.trace}
}

// bubbled returns the stacks of goroutines in bubbles.
func bubbled() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var stacks []string
	for s := range strings.SplitSeq(string(buf), "\n\n") {
		if head, _, _ := strings.Cut(s, "\n"); strings.Contains(head, "synctest bubble") {
			stacks = append(stacks, s)
		}
	}
	return strings.Join(stacks, "\n\n")
}

func everything(uint64) bool { return true }

// search runs seeds on all processors until one breaks a promise or the budget is spent.
func search(t *testing.T, budget Budget, run func(*World)) (seed uint64, failed outcome, ran, faults int64, took time.Duration) {
	// Runs are short and leave little behind: to collect it less often makes them a third faster.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	defer roomyStacks()()
	began := time.Now()
	var next, count, struck atomic.Int64
	var mu sync.Mutex
	var found bool
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				n := next.Add(1) - 1
				mu.Lock()
				stop := found
				mu.Unlock()
				if stop || n >= int64(budget.Least) && time.Since(began) >= budget.For {
					return
				}
				s := *first + uint64(n)
				o := once(t, s, everything, run)
				count.Add(1)
				struck.Add(int64(len(o.faults)))
				if o.failure == nil {
					continue
				}
				mu.Lock()
				if !found || s < seed {
					found, seed, failed = true, s, o
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return seed, failed, count.Load(), struck.Load(), time.Since(began)
}

// roomyStacks has new goroutines begin with stacks of 8 KiB, until its end is called: the runtime begins them with what those at
// hand use on the average, when it has collected garbage (GODEBUG=adaptivestackstart). A run's goroutines are short-lived, and
// would spend a fifth of the time on having their stacks grow.
func roomyStacks() (end func()) {
	const many, bytes = 300, 6 << 10
	over := make(chan struct{})
	var deep, gone sync.WaitGroup
	deep.Add(many)
	for range many {
		gone.Go(func() {
			var used [bytes]byte
			deep.Done()
			<-over
			runtime.KeepAlive(&used)
		})
	}
	deep.Wait()
	runtime.GC()
	return func() { close(over); gone.Wait() }
}

// Explore runs seeds until the budget is spent, and fails the test at one that breaks a promise.
func Explore(t *testing.T, budget Budget, run func(*World)) {
	t.Helper()
	if *oneSeed != 0 {
		replay(t, run)
		return
	}
	seed, failed, ran, faults, took := search(t, budget.flags(), run)
	if failed.failure == nil {
		t.Logf("%d seeds, %d faults, in %v: %.0f seeds/s", ran, faults, took.Round(time.Millisecond), float64(ran)/took.Seconds())
		return
	}
	again := once(t, seed, everything, run)
	same := "Run again, it comes out the same."
	switch {
	case again.failure == nil:
		same = "Run again, it breaks no promise: it depends on how the goroutines were scheduled."
	case again.trace.digest != failed.trace.digest:
		same = "Run again, it breaks a promise too, on another way."
	}
	least := failed
	if again.failure != nil {
		least = shrink(t, seed, again, run)
	}
	t.Fatalf("seed %d of %d breaks a promise: %v\n%s\nTo replay it: go test -run '^%s$' -seed %d   (all of its %d faults)\n"+
		"or: go test -run '^%s$' -seed %d -only %s   (these %d alone, which break it too)\nWhat happened with those:\n%s%s",
		seed, ran, failed.failure, same, t.Name(), seed, len(failed.faults), t.Name(), seed, ids(least.faults), len(least.faults),
		list(least.faults), least.trace)
}

// Found says how long a planted bug took to find.
type Found struct {
	Seed  uint64
	Seeds int64
	Took  time.Duration
	Why   error // the promise that it broke
}

// Hunt runs seeds until one breaks a promise, and fails the test if none does within the budget.
func Hunt(t *testing.T, budget Budget, run func(*World)) Found {
	t.Helper()
	if *oneSeed != 0 {
		replay(t, run)
	}
	seed, failed, ran, faults, took := search(t, Budget{budget.Least, budget.For}, run)
	if failed.failure == nil {
		t.Fatalf("the bug wasn't found in %d seeds with %d faults, in %v", ran, faults, took)
	}
	why, _, _ := strings.Cut(failed.failure.Error(), "\n")
	t.Logf("found by seed %d, after %d seeds in %v: %s", seed, ran, took.Round(time.Millisecond), why)
	return Found{seed, ran, took, failed.failure}
}

// replay runs the seed that the flags name, and prints its trace.
func replay(t *testing.T, run func(*World)) {
	t.Helper()
	allowed := everything
	if *onlyIDs != "" {
		only := map[uint64]bool{}
		for id := range strings.SplitSeq(*onlyIDs, ",") {
			n, err := strconv.ParseUint(id, 16, 64)
			if err != nil && id != "none" {
				t.Fatalf("-only: %v", err)
			}
			only[n] = true
		}
		allowed = func(id uint64) bool { return only[id] }
	}
	o := once(t, *oneSeed, allowed, run)
	fmt.Fprint(os.Stdout, list(o.faults), o.trace)
	if o.failure != nil {
		t.Fatalf("seed %d breaks a promise: %v", *oneSeed, o.failure)
	}
}

// shrinkFor is how long a shorter story is looked for.
const shrinkFor = 10 * time.Second

// shrink leaves faults out, half of them, a quarter, and so on, for as long as some promise breaks.
func shrink(t *testing.T, seed uint64, failed outcome, run func(*World)) outcome {
	began := time.Now()
	for part := len(failed.faults); part >= 1; {
		shorter := false
		for from := 0; from < len(failed.faults) && time.Since(began) < shrinkFor; {
			to := min(from+part, len(failed.faults))
			kept := map[uint64]bool{}
			for _, f := range slices.Concat(failed.faults[:from], failed.faults[to:]) {
				kept[f.ID] = true
			}
			o := once(t, seed, func(id uint64) bool { return kept[id] }, run)
			if o.failure != nil && len(o.faults) < len(failed.faults) {
				failed, shorter = o, true
			} else {
				from = to
			}
		}
		if !shorter {
			part /= 2
		}
		part = min(part, len(failed.faults))
	}
	return failed
}

// Replays runs seeds twice, and returns how many of them came out the same, effect by effect and instant by instant, and where
// one that didn't began to differ.
func Replays(t *testing.T, seeds int, run func(*World)) (same int, differs string) {
	var next atomic.Uint64
	var mu sync.Mutex
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for seed := next.Add(1); seed <= uint64(seeds); seed = next.Add(1) {
				one, other := once(t, seed, everything, run).trace, once(t, seed, everything, run).trace
				mu.Lock()
				if one.digest == other.digest {
					same++
				} else {
					differs = fmt.Sprintf("seed %d: %s", seed, one.differs(other))
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return same, differs
}

func ids(faults []Fault) string {
	if len(faults) == 0 {
		return "none"
	}
	list := make([]string, len(faults))
	for i, f := range faults {
		list[i] = strconv.FormatUint(f.ID, 16)
	}
	return strings.Join(list, ",")
}

func list(faults []Fault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "fault %x at %v: %s\n", f.ID, f.At, f.What)
	}
	return b.String()
}
