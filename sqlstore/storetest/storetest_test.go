package storetest

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

// plantedIn names, in a child process, the bug that the store has.
const plantedIn = "SUREPOST_STORETEST_BUG"

// TestStoreUnderTest is what child processes run, with a bug. Without one the store is good, and must pass.
func TestStoreUnderTest(t *testing.T) {
	plant := func(*backend) {}
	if name := os.Getenv(plantedIn); name != "" {
		i := slices.IndexFunc(bugs, func(b bug) bool { return b.name == name })
		if i < 0 {
			t.Fatalf("there is no bug %q", name)
		}
		plant = bugs[i].plant
		limit = 3 * time.Second // some bugs hang
	}
	Run(t, func(t *testing.T) Backend[*memstore.Tx] {
		b := newBackend()
		plant(b)
		b.Another = func(*testing.T) Store[*memstore.Tx] { return b.store }
		return b.Backend
	})
}

// Each promise's test fails for a store that breaks the promise: the suite runs against it in a process of its own,
// where it must fail by the names of the tests that are there to find the bug.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, b := range bugs {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			var names []string
			for _, name := range b.by {
				names = append(names, subtest(name))
			}
			only := "^TestStoreUnderTest$/^(" + regexp.QuoteMeta(strings.Join(names, "\x00")) + ")$"
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			child := exec.CommandContext(ctx, os.Args[0], "-test.run", strings.ReplaceAll(only, "\x00", "|"))
			child.Env = append(os.Environ(), plantedIn+"="+b.name)
			out, err := child.CombinedOutput()
			if err == nil {
				t.Errorf("the suite passes")
			}
			for _, name := range names {
				if !strings.Contains(string(out), "--- FAIL: TestStoreUnderTest/"+name+" (") {
					t.Errorf("%s didn't find it:\n%s", name, out)
				}
			}
		})
	}
}

// subtest returns a name as package testing writes it.
func subtest(name string) string { return strings.ReplaceAll(name, " ", "_") }

// A test that finds no bug shows nothing.
func TestEveryPromiseHasABugThatItFinds(t *testing.T) {
	found, known := map[string]bool{}, map[string]bool{}
	for _, b := range bugs {
		for _, name := range b.by {
			found[name] = true
		}
	}
	for _, p := range promises[*memstore.Tx]() {
		if known[p.name] {
			t.Errorf("%q is tested twice", p.name)
		}
		known[p.name] = true
		if !found[p.name] {
			t.Errorf("no planted bug is found by %q", p.name)
		}
	}
	for name := range found {
		if !known[name] {
			t.Errorf("there is no promise %q", name)
		}
	}
}

func TestABackendThatLacksAFunctionIsToldWhich(t *testing.T) {
	err := Backend[*memstore.Tx]{}.problems()
	for _, field := range []string{"Store", "Another", "Begin", "Commit", "Rollback", "Effect", "Effects"} {
		if err == nil || !strings.Contains(err.Error(), "Backend."+field+" is nil") {
			t.Errorf("%v doesn't mention %s", err, field)
		}
	}
	if err := newBackend().problems(); err == nil || strings.Contains(err.Error(), "Store") || !strings.Contains(err.Error(), "Another") {
		t.Errorf("%v, want only Another, which isn't set yet", err)
	}
}

// A store with one writer passes too: memstore, with a gate in front of everything that writes.
func TestAStoreWithOneWriterConforms(t *testing.T) {
	Run(t, func(t *testing.T) Backend[*memstore.Tx] {
		b := newBackend()
		g := &gate{backend: b, free: make(chan struct{}, 1)}
		b.Another = func(*testing.T) Store[*memstore.Tx] { return b.store }
		b.OneWriter, b.OneLane, b.OneDestination, b.NoReplays, b.NoRetention, b.NoPruning = true, true, true, true, true, true
		b.Store = struct{ Store[*memstore.Tx] }{b.store} // which hides what else it can do
		g.guard()
		return b.Backend
	})
}

// gate lets one writer through at a time, and refuses what the backend declares.
type gate struct {
	*backend
	free chan struct{} // holds something while somebody writes
}

func (g *gate) enter(ctx context.Context) error {
	select {
	case g.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) leave() { <-g.free }

func (g *gate) guard() {
	g.Begin = func(ctx context.Context) (*memstore.Tx, error) {
		if err := g.enter(ctx); err != nil {
			return nil, err
		}
		return g.good.Begin(ctx)
	}
	g.Commit = func(ctx context.Context, tx *memstore.Tx) error {
		defer g.leave()
		return tx.Commit(ctx)
	}
	g.Rollback = func(ctx context.Context, tx *memstore.Tx) error {
		err := tx.Rollback(ctx)
		if err == nil {
			g.leave()
		}
		return err
	}
	g.store.transact = func(
		ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error,
	) error {
		if err := g.enter(ctx); err != nil {
			return err
		}
		defer g.leave()
		return g.good.Transact(ctx, consumer, ids, work)
	}
	g.store.moveDue = func(ctx context.Context, limit int) (int, time.Duration, error) {
		if err := g.enter(ctx); err != nil {
			return 0, 0, err
		}
		defer g.leave()
		return g.good.MoveDue(ctx, limit)
	}
	g.store.acquire = func(
		ctx context.Context, l relay.Lane, owner string, ttl time.Duration,
	) (relay.Lease, error) {
		if l != lane {
			return relay.Lease{}, relay.ErrHalt
		}
		if err := g.enter(ctx); err != nil {
			return relay.Lease{}, err
		}
		defer g.leave()
		return g.good.Acquire(ctx, l, owner, ttl)
	}
	g.store.log = func(l *brokenLog) {
		l.checkpoint = func(ctx context.Context, at relay.Position, parked []relay.Parked) error {
			if err := g.enter(ctx); err != nil {
				return err
			}
			defer g.leave()
			return l.Log.Checkpoint(ctx, at, parked)
		}
	}
}
