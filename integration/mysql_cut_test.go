package integration

import (
	"context"
	"database/sql"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
)

// As TestLateCommitIsNotSkipped, for a log whose rows are deleted: random interleavings of real transactions, held ones
// and rolled-back ones, are read through logs that checkpoint, die and are succeeded. Every committed event must be handed
// out, once by each log and once more only after a take-over, and each key's in commit order; a reader that remembers the
// highest number must lose events, or the interleavings don't bite.
func TestLateCommitIsNotSkippedInMariaDB(t *testing.T) {
	const writers = 20
	seconds := 10
	if s, err := strconv.Atoi(os.Getenv("SUREPOST_CUT_SECONDS")); err == nil {
		seconds = s
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SUREPOST_SEED"), 10, 64); err == nil {
		seed = s
	}
	db, store := newMariaDB(t)
	execDB(t, db, "CREATE TABLE aggregate (k VARCHAR(10) PRIMARY KEY, version INT NOT NULL) ENGINE = InnoDB",
		"CREATE TABLE copied (seq BIGINT AUTO_INCREMENT PRIMARY KEY, id VARBINARY(255)) ENGINE = InnoDB") // the usual reader's outbox, of which nothing is deleted
	for n := range 40 {
		execDB(t, db, "INSERT INTO aggregate VALUES ('k"+strconv.Itoa(n)+"', 0)")
	}
	w := &mysqlWorld{db: db, box: newBox(t, store)}
	w.committed, w.rolledBack = map[string]string{}, map[string]bool{}

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
	log, usual := &collector{}, &collector{}
	reading.Go(func() { log.readMariaDB(t, store, rand.New(rand.NewPCG(seed, 1000)), done) })
	reading.Go(func() { usual.readSerialMariaDB(t, db, done) })
	time.Sleep(time.Duration(seconds) * time.Second)
	close(stop)
	writing.Wait()
	close(done)
	reading.Wait()

	lost, ghosts, inversions := w.compare(log.first)
	t.Logf("seed %d: %d committed, %d rolled back, %d deadlocks, %d handed out as stragglers in %d reads, %d take-overs: %d lost, %d ghosts, %d duplicates, %d inversions per key",
		seed, len(w.committed), len(w.rolledBack), w.deadlocks, log.stragglers, log.reads, log.takeovers, lost, ghosts, log.duplicates, inversions)
	usualLost, _, _ := w.compare(usual.first)
	t.Logf("a reader of seq > last under the same load lost %d", usualLost)
	if lost+ghosts+log.duplicates+inversions > 0 {
		t.Errorf("the log lost %d, invented %d, repeated %d and inverted %d events (seed %d)", lost, ghosts, log.duplicates, inversions, seed)
	}
	if log.stragglers == 0 || usualLost == 0 || log.takeovers == 0 || len(w.rolledBack) == 0 {
		t.Errorf("the test doesn't bite: %d stragglers, %d lost by the usual reader, %d take-overs, %d rolled back; all must be positive",
			log.stragglers, usualLost, log.takeovers, len(w.rolledBack))
	}
	if n := countDB(t, db, "SELECT COUNT(*) FROM surepost_outbox"); n != 0 {
		t.Errorf("%d rows are left in the log", n)
	}
}

// mysqlWorld is what the writers do and what they know of it.
type mysqlWorld struct {
	world
	db        *sql.DB
	box       *outbox.Outbox[*sql.Tx]
	deadlocks int
}

// transaction runs one random transaction.
func (w *mysqlWorld) transaction(t *testing.T, rnd *rand.Rand) {
	ctx := context.WithoutCancel(t.Context())
	levels := []sql.IsolationLevel{sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}
	tx, err := w.db.BeginTx(ctx, &sql.TxOptions{Isolation: levels[rnd.IntN(len(levels))]})
	if err != nil {
		t.Error(err)
		return
	}
	defer tx.Rollback()
	mine := map[string]string{}
	write := func(key string, version int) error {
		id := surepost.NewID()
		mine[id] = key + " " + strconv.Itoa(version)
		if _, err := tx.ExecContext(ctx, "INSERT INTO copied (id) VALUES (?)", id); err != nil {
			return err
		}
		return w.box.Write(ctx, tx, surepost.Event{ID: id, Type: "Changed", Key: key, Data: version})
	}
	// change serialises on the aggregate's row, as services do, then writes an event.
	change := func() error {
		key := "k" + strconv.Itoa(rnd.IntN(40))
		if _, err := tx.ExecContext(ctx, "UPDATE aggregate SET version = version + 1 WHERE k = ?", key); err != nil {
			return err
		}
		var version int
		if err := tx.QueryRowContext(ctx, "SELECT version FROM aggregate WHERE k = ?", key).Scan(&version); err != nil {
			return err
		}
		return write(key, version)
	}
	nap := func(most time.Duration) { time.Sleep(rand.N(most)) }
	err = func() error {
		if rnd.IntN(4) == 0 { // events that need no order
			if err := write("", 0); err != nil {
				return err
			}
			nap(5 * time.Millisecond)
		}
		for range 1 + rnd.IntN(2) {
			if err := change(); err != nil {
				return err
			}
		}
		switch n := rnd.IntN(200); {
		case n == 0:
			nap(2 * time.Second) // held for long
		case n < 40:
			nap(10 * time.Millisecond)
		}
		return nil
	}()
	switch {
	case err != nil: // a deadlock
		w.note(mine, false)
		w.mu.Lock()
		w.deadlocks++
		w.mu.Unlock()
	case rnd.IntN(10) == 0:
		_ = tx.Rollback()
		w.note(mine, false)
	default:
		// Noted before the commit: the reader may be faster than this goroutine.
		w.note(mine, true)
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
	}
}

// readMariaDB reads through relay.Log with pages of random size, and now and then takes over, as a standby does: nothing
// that was checkpointed may come again, and what wasn't must.
func (c *collector) readMariaDB(t *testing.T, store *mysqlstore.Store, rnd *rand.Rand, done <-chan struct{}) {
	c.seen = map[string]bool{}
	log, _ := openLog(t, store, "reader")
	passed := map[string]bool{} // before the newest checkpoint
	handed := map[string]bool{} // by this log, and before it
	var behind []page           // read and not checkpointed
	for ending := false; ; {
		read, err := log.Read(t.Context(), []int{1, 7, 50, 1000}[rnd.IntN(4)])
		if err != nil {
			t.Error(err)
			return
		}
		c.reads++
		c.stragglers += read.Stragglers
		p := page{after: read.After}
		for _, e := range read.Entries {
			if handed[e.Event.ID] {
				c.duplicates++
			}
			handed[e.Event.ID] = true
			p.ids = append(p.ids, e.Event.ID)
			c.add(e.Event.ID)
		}
		behind = append(behind, p)
		idle := ending && !read.Full && len(read.Entries) == 0
		switch n := rnd.IntN(100); {
		case n < 4: // die, and be succeeded
			c.takeovers++
			_ = log.Close(t.Context())
			log, _ = openLog(t, store, "reader")
			handed, behind = maps.Clone(passed), nil
			continue
		case n < 30, idle: // of some of the pages
			upTo := rnd.IntN(len(behind))
			if idle {
				upTo = len(behind) - 1
			}
			if err := log.Checkpoint(t.Context(), behind[upTo].after, nil); err != nil {
				t.Error(err)
				return
			}
			for _, p := range behind[:upTo+1] {
				for _, id := range p.ids {
					passed[id] = true
				}
			}
			behind = behind[upTo+1:]
		}
		if idle {
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

// page is a page that was read.
type page struct {
	after relay.Position
	ids   []string
}

// readSerialMariaDB is the usual, wrong way.
func (c *collector) readSerialMariaDB(t *testing.T, db *sql.DB, done <-chan struct{}) {
	c.seen = map[string]bool{}
	var last int64
	for ending := false; ; {
		rows, err := db.QueryContext(t.Context(), "SELECT seq, id FROM copied WHERE seq > ? ORDER BY seq LIMIT 1000", last)
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
		_ = rows.Close()
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
