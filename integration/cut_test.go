package integration

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// TestLateCommitIsNotSkipped runs random interleavings of real transactions and reads the log meanwhile: with the
// cut, which must hand out every committed event once and each key's in commit order; and with the usual cursor (seq
// > last), which must lose events, or the interleavings don't bite.
//
// SUREPOST_SEED repeats a run's choices (not its timing), SUREPOST_CUT_SECONDS makes it longer.
func TestLateCommitIsNotSkipped(t *testing.T) {
	const writers = 28
	seconds := 12
	if _, routed := routeOf(t); routed {
		seconds = 5 // the proof is the same, and it runs once more for each way through the pooler
	}
	if s, err := strconv.Atoi(os.Getenv("SUREPOST_CUT_SECONDS")); err == nil {
		seconds = s
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SUREPOST_SEED"), 10, 64); err == nil {
		seed = s
	}
	pool, store := newPool(t)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE aggregate (key text PRIMARY KEY, version int NOT NULL);
		INSERT INTO aggregate SELECT 'k' || n, 0 FROM generate_series(1, 40) n; CREATE TABLE other (n int)`); err != nil {
		t.Fatal(err)
	}
	w := &world{pool: pool, box: newBox(t, store), committed: map[string]string{}, rolledBack: map[string]bool{}}

	stop := make(chan struct{})
	var writing, reading sync.WaitGroup
	for n := range writers {
		writing.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			for {
				select {
				case <-stop:
					return
				default:
					w.transaction(t, rnd)
				}
			}
		})
	}

	done := make(chan struct{})
	cut := &collector{}
	usual := &collector{}
	reading.Go(func() { cut.readCut(t, store, rand.New(rand.NewPCG(seed, 1000)), done) })
	reading.Go(func() { usual.readSerial(t, pool, done) })
	time.Sleep(time.Duration(seconds) * time.Second)
	close(stop)
	writing.Wait()
	time.Sleep(500 * time.Millisecond)
	close(done)
	reading.Wait()

	lost, ghosts, inversions := w.compare(cut.first)
	t.Logf("seed %d: %d committed (%d in prepared transactions), %d rolled back, %d handed out as stragglers in %d reads, %d take-overs: %d lost, %d ghosts, %d duplicates, %d inversions per key",
		seed, len(w.committed), w.prepared.Load(), len(w.rolledBack), cut.stragglers, cut.reads, cut.takeovers, lost, ghosts, cut.duplicates, inversions)
	usualLost, _, _ := w.compare(usual.first)
	t.Logf("a reader of seq > last under the same load lost %d", usualLost)
	if lost+ghosts+cut.duplicates+inversions > 0 {
		t.Errorf("the cut lost %d, invented %d, repeated %d and inverted %d events (seed %d)", lost, ghosts, cut.duplicates, inversions, seed)
	}
	if cut.stragglers == 0 || usualLost == 0 || w.prepared.Load() == 0 || cut.takeovers == 0 {
		t.Errorf("the test doesn't bite: %d stragglers, %d lost by the usual cursor, %d prepared transactions, %d take-overs; all must be positive",
			cut.stragglers, usualLost, w.prepared.Load(), cut.takeovers)
	}
}

// world is what the writers do and what they know of it.
type world struct {
	pool     *pgxpool.Pool
	box      *outbox.Outbox[pgx.Tx]
	prepared atomic.Int64

	mu         sync.Mutex
	committed  map[string]string // event id → "key version"
	rolledBack map[string]bool
}

// transaction runs one random transaction.
func (w *world) transaction(t *testing.T, rnd *rand.Rand) {
	ctx := context.WithoutCancel(t.Context())
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	mine := map[string]string{}
	write := func(tx pgx.Tx, key string, version int) error {
		id := surepost.NewID()
		mine[id] = key + " " + strconv.Itoa(version)
		return w.box.Write(ctx, tx, surepost.Event{ID: id, Type: "Changed", Key: key, Data: version})
	}
	// change serialises on the aggregate's row, as services do, then writes an event.
	change := func(tx pgx.Tx) error {
		key := "k" + strconv.Itoa(1+rnd.IntN(40))
		var version int
		if err := tx.QueryRow(ctx, "UPDATE aggregate SET version = version + 1 WHERE key = $1 RETURNING version", key).Scan(&version); err != nil {
			return err
		}
		return write(tx, key, version)
	}
	nap := func(most time.Duration) { time.Sleep(rand.N(most)) }
	err = func() error {
		if rnd.IntN(3) == 0 { // an early transaction id: assigned long before the event's number
			if _, err := tx.Exec(ctx, "INSERT INTO other VALUES (1)"); err != nil {
				return err
			}
			nap(20 * time.Millisecond)
		}
		if rnd.IntN(4) == 0 { // events that need no order
			if err := write(tx, "", 0); err != nil {
				return err
			}
			nap(5 * time.Millisecond)
		}
		if rnd.IntN(5) == 0 { // a savepoint whose event is rolled back, its number left as a gap
			sp, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			kept := mine
			mine = map[string]string{}
			err = write(sp, "", 0)
			w.note(mine, false)
			mine = kept
			if err != nil {
				return err
			}
			if err := sp.Rollback(ctx); err != nil {
				return err
			}
		}
		if rnd.IntN(3) == 0 { // a savepoint that stays
			sp, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if err := change(sp); err != nil {
				return err
			}
			if err := sp.Commit(ctx); err != nil {
				return err
			}
		} else if err := change(tx); err != nil {
			return err
		}
		switch n := rnd.IntN(200); {
		case n == 0:
			nap(2 * time.Second) // held for long
		case n < 40:
			nap(10 * time.Millisecond)
		}
		return nil
	}()
	w.end(t, ctx, tx, rnd, mine, err)
}

func (w *world) note(events map[string]string, committed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, what := range events {
		if committed {
			w.committed[id] = what
		} else {
			w.rolledBack[id] = true
		}
	}
}

// end commits, rolls back or prepares.
func (w *world) end(t *testing.T, ctx context.Context, tx pgx.Tx, rnd *rand.Rand, mine map[string]string, err error) {
	switch n := rnd.IntN(20); {
	case err != nil: // a deadlock
		_ = tx.Rollback(ctx)
		w.note(mine, false)
	case n < 2:
		_ = tx.Rollback(ctx)
		w.note(mine, false)
	case n == 2:
		name := "p" + surepost.NewID()
		if _, err := tx.Exec(ctx, "PREPARE TRANSACTION '"+name+"'"); err != nil {
			_ = tx.Rollback(ctx)
			w.note(mine, false)
			return
		}
		_ = tx.Rollback(ctx) // no transaction is open any more: this frees the connection
		time.Sleep(rand.N(100 * time.Millisecond))
		if _, err := w.pool.Exec(ctx, "COMMIT PREPARED '"+name+"'"); err != nil {
			t.Error(err)
			return
		}
		w.prepared.Add(1)
		w.note(mine, true)
	default:
		if err := tx.Commit(ctx); err != nil {
			t.Error(err)
			return
		}
		w.note(mine, true)
	}
}

// compare counts what is missing, what is too much and what comes in the wrong order.
func (w *world) compare(first []string) (lost, ghosts, inversions int) {
	got := map[string]bool{}
	last := map[string]int{}
	for _, id := range first {
		got[id] = true
		what, ok := w.committed[id]
		if !ok {
			ghosts++
			continue
		}
		key, number, _ := strings.Cut(what, " ")
		version, _ := strconv.Atoi(number)
		if key == "" {
			continue
		}
		if version < last[key] {
			inversions++
		}
		last[key] = version
	}
	for id := range w.committed {
		if !got[id] {
			lost++
		}
	}
	return lost, ghosts, inversions
}

// collector gathers what a reader was handed out.
type collector struct {
	first                                    []string // ids, in the order of their first occurrences
	seen                                     map[string]bool
	duplicates, stragglers, reads, takeovers int
}

func (c *collector) add(id string) {
	if !c.seen[id] {
		c.seen[id] = true
		c.first = append(c.first, id)
	}
}

// readCut reads through relay.Log with pages of random size, and now and then takes over from an older checkpoint, as
// a standby does.
func (c *collector) readCut(t *testing.T, store *pgxstore.Store, rnd *rand.Rand, done <-chan struct{}) {
	c.seen = map[string]bool{}
	log, _ := openLog(t, store, "reader")
	passed := map[string]bool{} // before the newest checkpoint
	handed := map[string]bool{} // by this log, and before it
	for ending := false; ; {
		limit := []int{1, 7, 50, 1000}[rnd.IntN(4)]
		page, err := log.Read(t.Context(), limit)
		if err != nil {
			t.Error(err)
			return
		}
		c.reads++
		c.stragglers += page.Stragglers
		for _, e := range page.Entries {
			if handed[e.Event.ID] {
				c.duplicates++
			}
			handed[e.Event.ID] = true
			c.add(e.Event.ID)
		}
		switch rnd.IntN(100) {
		case 0: // die, and be succeeded from the newest checkpoint
			c.takeovers++
			_ = log.Close(t.Context())
			log, _ = openLog(t, store, "reader")
			handed = maps.Clone(passed)
			continue
		case 1, 2, 3:
			if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
				t.Error(err)
				return
			}
			passed = maps.Clone(handed)
		}
		if ending && !page.Full && len(page.Entries) == 0 {
			return
		}
		select {
		case <-done:
			ending = true
		default:
			time.Sleep(time.Duration(rnd.IntN(5)) * time.Millisecond)
		}
	}
}

// readSerial is the usual, wrong way.
func (c *collector) readSerial(t *testing.T, pool *pgxpool.Pool, done <-chan struct{}) {
	c.seen = map[string]bool{}
	var last int64
	for ending := false; ; {
		rows, err := pool.Query(t.Context(), "SELECT seq, id FROM surepost_outbox WHERE seq > $1 ORDER BY seq LIMIT 1000", last)
		if err != nil {
			t.Error(err)
			return
		}
		n := 0
		for rows.Next() {
			var id string
			if err := rows.Scan(&last, &id); err != nil {
				t.Error(err)
			}
			c.add(id)
			n++
		}
		rows.Close()
		if ending && n == 0 {
			return
		}
		select {
		case <-done:
			ending = true
		default:
			time.Sleep(2 * time.Millisecond)
		}
	}
}
