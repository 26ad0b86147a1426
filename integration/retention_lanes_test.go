package integration

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// lanesReader reads all lanes of a destination, whose number it changes, and goes on reading with logs whose leases were
// lost, as a relay does that was stopped for a while.
type lanesReader struct {
	collector
	store          *pgxstore.Store
	destination    string
	lanes          int
	logs           []relay.Log
	stale          []relay.Log
	changes, fence int
	staleEvents    int
}

func newLanesReader(t *testing.T, store *pgxstore.Store, destination string, lanes int) *lanesReader {
	t.Helper()
	r := &lanesReader{store: store, destination: destination, lanes: lanes, logs: make([]relay.Log, lanes)}
	r.seen = map[string]bool{}
	for i := range lanes {
		r.open(t, i)
	}
	return r
}

// open takes the lane over, and keeps the log that was open as one that is stale.
func (r *lanesReader) open(t *testing.T, i int) {
	lease, err := r.store.Acquire(t.Context(), relay.Lane{Destination: r.destination, Index: i, Of: r.lanes}, "reader", time.Minute)
	if err != nil {
		t.Error(err)
		return
	}
	if r.logs[i] != nil {
		r.stale = append(r.stale, r.logs[i])
	}
	if r.logs[i], err = r.store.Open(t.Context(), lease); err != nil {
		t.Error(err)
	}
	for len(r.stale) > 4 {
		_ = r.stale[0].Close(t.Context())
		r.stale = r.stale[1:]
	}
}

func (r *lanesReader) read(t *testing.T, log relay.Log, limit int) (relay.Page, bool) {
	page, err := log.Read(t.Context(), limit)
	if err != nil {
		t.Error(err)
		return relay.Page{}, false
	}
	for _, e := range page.Entries {
		r.add(e.Event.ID)
	}
	return page, true
}

// step does one thing at random.
func (r *lanesReader) step(t *testing.T, rnd *rand.Rand) {
	limit := []int{1, 7, 50, 1000}[rnd.IntN(4)]
	i := rnd.IntN(r.lanes)
	switch n := rnd.IntN(100); {
	case n < 2: // die, and be succeeded
		r.open(t, i)
	case n < 5:
		r.stale = append(r.stale, r.logs...)
		r.lanes = []int{2, 3, 5, 1, 2, 3}[slices.Index([]int{1, 2, 3, 5}, r.lanes)+rnd.IntN(3)] // another one
		if err := r.store.SetLanes(t.Context(), r.destination, r.lanes); err != nil {
			t.Error(err)
			return
		}
		r.changes++
		r.logs = make([]relay.Log, r.lanes)
		for i := range r.lanes {
			r.open(t, i)
		}
	case n < 15 && len(r.stale) > 0:
		log := r.stale[rnd.IntN(len(r.stale))]
		page, ok := r.read(t, log, limit)
		if !ok {
			return
		}
		r.staleEvents += len(page.Entries)
		switch err := log.Checkpoint(t.Context(), page.After, nil); {
		case errors.Is(err, relay.ErrLeaseLost):
			r.fence++
		default:
			t.Errorf("a log without a lease stores a checkpoint: %v", err)
		}
	default:
		page, ok := r.read(t, r.logs[i], limit)
		if ok && n < 60 {
			if err := r.logs[i].Checkpoint(t.Context(), page.After, nil); err != nil {
				t.Error(err)
			}
		}
	}
}

// finish reads what is left, from the checkpoints on.
func (r *lanesReader) finish(t *testing.T) {
	for i := range r.lanes {
		r.open(t, i)
		for {
			page, ok := r.read(t, r.logs[i], 1000)
			if !ok || !page.Full {
				break
			}
		}
	}
	for _, log := range append(r.stale, r.logs...) {
		_ = log.Close(context.WithoutCancel(t.Context()))
	}
}

// As TestRetentionUnderRandomInterleavings, with several lanes whose number changes meanwhile, and relays that don't know yet
// that they lost theirs. A leaf goes only when every lane of every destination has passed it, and each key's order stays.
func TestRetentionAndLanesUnderRandomInterleavings(t *testing.T) {
	t.Parallel()
	const seconds = 8
	seed := uint64(time.Now().UnixNano())
	pool, store := newPool(t)
	execSQL(t, pool, `CREATE TABLE aggregate (key text PRIMARY KEY, version int NOT NULL);
		INSERT INTO aggregate SELECT 'k' || n, 0 FROM generate_series(1, 40) n; CREATE TABLE other (n int)`)
	w := &world{pool: pool, box: newBox(t, store), committed: map[string]string{}, rolledBack: map[string]bool{}}
	stop, readersStop := make(chan struct{}), make(chan struct{})
	var writing, reading sync.WaitGroup
	until := func(done <-chan struct{}, work func()) func() {
		return func() {
			for {
				select {
				case <-done:
					return
				default:
					work()
				}
			}
		}
	}
	readers := []*lanesReader{newLanesReader(t, store, "first", 3), newLanesReader(t, store, "second", 1)}
	for n := range 12 {
		rnd := rand.New(rand.NewPCG(seed, uint64(n)))
		writing.Go(until(stop, func() { w.transaction(t, rnd) }))
	}
	var emptied, held atomic.Int64
	for range 2 {
		reading.Go(until(readersStop, func() {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: 50 * time.Millisecond})
			if err != nil {
				t.Error(err)
				return
			}
			emptied.Add(int64(report.Emptied))
			held.Add(int64(len(report.Held)))
			time.Sleep(rand.N(10 * time.Millisecond))
		}))
	}
	for i, r := range readers {
		rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
		reading.Go(until(readersStop, func() { r.step(t, rnd) }))
	}
	time.Sleep(seconds * time.Second)
	close(stop)
	writing.Wait()
	close(readersStop)
	reading.Wait()
	for _, r := range readers {
		r.finish(t)
		lost, ghosts, inversions := w.compare(r.first)
		t.Logf("destination %s: %d changes of the number of lanes, %d events read without a lease, %d checkpoints refused",
			r.destination, r.changes, r.staleEvents, r.fence)
		if lost+ghosts+inversions > 0 {
			t.Errorf("destination %s lost %d events of %d, got %d ghosts and %d in the wrong order (seed %d)",
				r.destination, lost, len(w.committed), ghosts, inversions, seed)
		}
		if r.changes == 0 || r.staleEvents == 0 || r.fence == 0 {
			t.Error("the test doesn't bite: lanes must change, and relays go on that lost theirs")
		}
	}
	t.Logf("seed %d: %d committed, %d leaves were emptied, %d times something was in the way", seed, len(w.committed), emptied.Load(), held.Load())
	if emptied.Load() < 4 || held.Load() == 0 {
		t.Error("the test doesn't bite: the ring must go round, and be held up")
	}
}
