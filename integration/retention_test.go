package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// aLittle is a retention that is over at once.
const aLittle = time.Microsecond

// retain calls Retain once.
func retain(t *testing.T, store *pgxstore.Store, keep time.Duration) relay.RetentionReport {
	t.Helper()
	report, err := store.Retain(t.Context(), relay.Retention{Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// reader reads a destination's log and stores how far it came.
type logReader struct {
	t           *testing.T
	store       *pgxstore.Store
	destination string
	log         relay.Log
	got         map[string]bool
}

func newReader(t *testing.T, store *pgxstore.Store, destination string) *logReader {
	t.Helper()
	r := &logReader{t: t, store: store, destination: destination, got: map[string]bool{}}
	r.open()
	return r
}

func (r *logReader) open() {
	r.t.Helper()
	lease, err := r.store.Acquire(r.t.Context(), relay.Lane{Destination: r.destination, Of: 1}, "reader", time.Minute)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.log, err = r.store.Open(r.t.Context(), lease); err != nil {
		r.t.Fatal(err)
	}
}

func (r *logReader) close() { _ = r.log.Close(context.WithoutCancel(r.t.Context())) }

// pass reads all that is there and checkpoints it, as a relay does whose broker confirms everything.
func (r *logReader) pass() {
	r.t.Helper()
	for {
		page, err := r.log.Read(r.t.Context(), 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range page.Entries {
			r.got[e.Event.ID] = true
		}
		if err := r.log.Checkpoint(r.t.Context(), page.After, nil); err != nil {
			r.t.Fatal(err)
		}
		if !page.Full {
			return
		}
	}
}

func currentLeaf(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return count(t, pool, "SELECT surepost_ring()")
}

// leafOf returns where the event lies, -1 if it isn't there any more.
func leafOf(t *testing.T, pool *pgxpool.Pool, id string) int {
	t.Helper()
	return count(t, pool, "SELECT coalesce((SELECT ring FROM surepost_outbox WHERE id = '"+id+"'), -1)")
}

func requireHeld(t *testing.T, report relay.RetentionReport, what string) {
	t.Helper()
	if report.Emptied > 0 || len(report.Held) == 0 || !strings.Contains(report.String(), what) {
		t.Fatalf("Retain reports %q, want nothing emptied and %q in the way", report, what)
	}
}

func TestEventsGoWhenTheyAreOldAndEverybodyHasPassedThem(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	requireHeld(t, func() relay.RetentionReport {
		if r := retain(t, store, aLittle); !r.Moved || currentLeaf(t, pool) != 1 {
			t.Fatalf("%q: the ring didn't move on", r)
		}
		return retain(t, store, aLittle)
	}(), "no destination has ever read the log")

	first, second := newReader(t, store, "first"), newReader(t, store, "second")
	defer first.close()
	defer second.close()
	requireHeld(t, retain(t, store, aLittle), "lane first 0/1 has published nothing yet")
	first.pass()
	requireHeld(t, retain(t, store, aLittle), "lane second 0/1")
	second.pass()
	if r := retain(t, store, time.Hour); r.Emptied > 0 || leafOf(t, pool, "e1") != 0 {
		t.Fatalf("%q: an event that isn't old is gone", r)
	}
	if r := retain(t, store, aLittle); r.Emptied != 1 || leafOf(t, pool, "e1") != -1 {
		t.Fatalf("%q: an event that is old and passed is still there", r)
	}
	for i := range 9 { // twice round
		id := "r" + strconv.Itoa(i)
		write(t, pool, box, surepost.Event{ID: id, Type: "T"})
		first.pass()
		second.pass()
		for range 2 {
			retain(t, store, aLittle)
		}
		if leafOf(t, pool, id) != -1 {
			t.Fatalf("event %s is still there", id)
		}
	}
	if !maps.Equal(first.got, second.got) || len(first.got) != 10 {
		t.Errorf("the destinations got %d and %d events, want 10 each", len(first.got), len(second.got))
	}
}

// Events that commit late under a number that the cursor has passed: their transaction was running when the cursor was read, or
// had its id above the newest that had completed.
func TestALateCommitIsNotRemovedUnread(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"in the snapshot's list", "above the snapshot"} {
		t.Run(name, func(t *testing.T) {
			pool, store := newPool(t)
			box := newBox(t, store)
			r := newReader(t, store, "default")
			defer r.close()
			above := name == "above the snapshot"
			var late pgx.Tx
			eventually(t, name, func() bool { // other tests of this server may complete a transaction in between
				if late != nil {
					_ = late.Rollback(t.Context())
				}
				late = begin(t, pool)
				if err := box.Write(t.Context(), late, surepost.Event{ID: "late", Type: "T"}); err != nil {
					t.Fatal(err)
				}
				var tx string
				if err := late.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&tx); err != nil {
					t.Fatal(err)
				}
				if !above {
					write(t, pool, box, surepost.Event{ID: "e2", Type: "T"})
				}
				r.pass()
				return above == (count(t, pool, `SELECT ($1::text::xid8 >= pg_snapshot_xmax(snap))::int FROM surepost_checkpoint ORDER BY epoch DESC, n DESC LIMIT 1`, tx) == 1)
			})
			if err := late.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			retain(t, store, aLittle) // moves on
			requireHeld(t, retain(t, store, aLittle), "hasn't passed event number")
			r.pass()
			if !r.got["late"] {
				t.Fatal("the late event was lost")
			}
			if report := retain(t, store, aLittle); report.Emptied != 1 {
				t.Errorf("%q: the leaf wasn't emptied", report)
			}
		})
	}
}

// Between the look at the leaf and the lock on it somebody may commit into it. Retain sees that under the lock, whatever isolation
// the database gives transactions by default.
func TestWhatCommitsBeforeTheLockIsSeenUnderIt(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			pool, store := newPool(t)
			execSQL(t, pool, "ALTER DATABASE "+pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()+
				" SET default_transaction_isolation = '"+isolation+"'")
			pool.Reset()
			box := newBox(t, store)
			r := newReader(t, store, "default")
			defer r.close()
			write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
			tx := begin(t, pool)
			if err := box.Write(t.Context(), tx, surepost.Event{ID: "late", Type: "T"}); err != nil {
				t.Fatal(err)
			}
			r.pass()
			retain(t, store, aLittle) // moves on, with the writer's row in the leaf that it leaves
			done := make(chan relay.RetentionReport)
			go func() { done <- retain(t, store, aLittle) }()
			eventually(t, "Retain has asked for the lock", func() bool { // and rolls back, and asks again
				return count(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND (query LIKE 'LOCK TABLE%' OR query = 'rollback')") > 0
			})
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if report := <-done; report.Emptied > 0 {
				t.Errorf("%q: an event that committed before the lock was granted is lost", report)
			}
			r.pass()
			if !r.got["late"] {
				t.Error("the event was lost")
			}
		})
	}
}

// A backup holds a lock on every leaf: nothing is removed, nobody waits, and the report says whose fault it is.
func TestABackupHoldsUpRetentionOnly(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	r.pass()
	retain(t, store, aLittle)
	dump := begin(t, pool)
	if _, err := dump.Exec(t.Context(), "LOCK TABLE surepost_outbox IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	report := retain(t, store, aLittle)
	requireHeld(t, report, "ACCESS SHARE MODE")
	if pid := int(dump.Conn().PgConn().PID()); len(report.Held) != 1 || report.Held[0].PID != pid || time.Since(report.Held[0].Since) > time.Minute {
		t.Errorf("%+v is in the way, want backend %d", report.Held, pid)
	}
	write(t, pool, box, surepost.Event{ID: "e2", Type: "T"})
	r.pass()
	if !r.got["e2"] {
		t.Error("an event waits for a backup")
	}
	if err := dump.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := retain(t, store, aLittle); report.Emptied != 1 {
		t.Errorf("%q: the backup is over, and the leaf wasn't emptied", report)
	}
}

// A writer that is held open keeps its own leaf, and nothing else.
func TestAHeldWriterKeepsItsOwnLeafOnly(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	held := begin(t, pool)
	if err := box.Write(t.Context(), held, surepost.Event{ID: "held", Type: "T"}); err != nil {
		t.Fatal(err)
	}
	emptied := 0
	for i := range 4 {
		id := "e" + strconv.Itoa(i)
		write(t, pool, box, surepost.Event{ID: id, Type: "T"})
		r.pass()
		for range 2 {
			emptied += retain(t, store, aLittle).Emptied
		}
		if gone := leafOf(t, pool, id) == -1; gone != (i > 0 && i < 3) {
			t.Errorf("after round %d: event %s gone: %t", i, id, gone)
		}
	}
	if err := held.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.pass()
	for range 2 {
		emptied += retain(t, store, aLittle).Emptied
	}
	if !r.got["held"] || leafOf(t, pool, "held") != -1 || emptied < 4 {
		t.Errorf("the held event was read: %t, lies in %d; %d leaves were emptied", r.got["held"], leafOf(t, pool, "held"), emptied)
	}
}

// A writer whose snapshot is older than the ring's last move writes to the leaf that was left. It is read there, and stays as long
// as others.
func TestAnEventInALeafThatWasLeftIsReadAndKept(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	stale, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer stale.Rollback(context.WithoutCancel(t.Context()))
	if _, err := stale.Exec(t.Context(), "SELECT 1"); err != nil { // takes its snapshot
		t.Fatal(err)
	}
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	r.pass()
	for range 2 {
		retain(t, store, aLittle)
	}
	if got := currentLeaf(t, pool); got != 1 || leafOf(t, pool, "e1") != -1 {
		t.Fatalf("leaf %d is current", got)
	}
	if err := box.Write(t.Context(), stale, surepost.Event{ID: "stale", Type: "T"}); err != nil {
		t.Fatal(err)
	}
	if err := stale.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leafOf(t, pool, "stale") != 0 {
		t.Fatal("the test doesn't bite: the event isn't in the old leaf")
	}
	r.pass()
	if !r.got["stale"] {
		t.Error("the event was lost")
	}
	execSQL(t, pool, "UPDATE surepost_ring SET left_at = left_at - interval '2 hours' WHERE leaf = 0")
	for range 2 {
		retain(t, store, time.Hour)
	}
	if leafOf(t, pool, "stale") != 0 {
		t.Error("the event was removed before its time")
	}
}

// Producers ask for the current leaf once in a while. Until then they write to the one that was left, which costs nothing but time.
func TestAProducerThatMissedTheRingsMoveLosesNothing(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	producer := newBox(t, pgxstore.New(pool)) // as of another process, which Retain tells nothing
	r := newReader(t, store, "default")
	defer r.close()
	written := 0
	event := func() string {
		id := "e" + strconv.Itoa(written)
		write(t, pool, producer, surepost.Event{ID: id, Type: "T"})
		written++
		return id
	}
	event()
	retain(t, store, aLittle)
	if got := currentLeaf(t, pool); got != 1 {
		t.Fatalf("leaf %d is current", got)
	}
	missed := 0
	for start := time.Now(); leafOf(t, pool, event()) != 1; missed++ {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the producer never learns that the ring has moved on")
		}
	}
	if missed == 0 {
		t.Fatal("the test doesn't bite: the producer asks each time")
	}
	r.pass()
	if len(r.got) != written {
		t.Errorf("%d events of %d were read", len(r.got), written)
	}
}

func TestARelayThatIsDownLosesNothingToRetention(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	write(t, pool, box, surepost.Event{ID: "before", Type: "T"})
	r.pass()
	r.close()
	const rounds = 12 // three times round the ring
	for i := range rounds {
		write(t, pool, box, surepost.Event{ID: "e" + strconv.Itoa(i), Type: "T"})
		retain(t, store, aLittle)
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_outbox"); n < rounds {
		t.Fatalf("%d events are left of %d that nobody has read", n, rounds)
	}
	r.open()
	defer r.close()
	r.pass()
	if len(r.got) != rounds+1 {
		t.Errorf("%d events came, want %d", len(r.got), rounds+1)
	}
	for range 3 {
		retain(t, store, aLittle)
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_outbox"); n > 0 {
		t.Errorf("%d events are still there", n)
	}
}

// Writers, readers that die and are succeeded, and two Retain at once, at random: what committed is read by both destinations.
func TestRetentionUnderRandomInterleavings(t *testing.T) {
	t.Parallel()
	const seconds = 6
	seed := uint64(time.Now().UnixNano())
	pool, store := newPool(t)
	execSQL(t, pool, `CREATE TABLE aggregate (key text PRIMARY KEY, version int NOT NULL);
		INSERT INTO aggregate SELECT 'k' || n, 0 FROM generate_series(1, 40) n; CREATE TABLE other (n int)`)
	w := &world{pool: pool, box: newBox(t, store), committed: map[string]string{}, rolledBack: map[string]bool{}}
	stop, readersStop := make(chan struct{}), make(chan struct{})
	var writing, reading, retaining sync.WaitGroup
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
	for n := range 12 {
		rnd := rand.New(rand.NewPCG(seed, uint64(n)))
		writing.Go(until(stop, func() { w.transaction(t, rnd) }))
	}
	var emptied, moved, held atomic.Int64
	for range 2 {
		retaining.Go(until(readersStop, func() {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: 50 * time.Millisecond})
			if err != nil {
				t.Error(err)
				return
			}
			emptied.Add(int64(report.Emptied))
			held.Add(int64(len(report.Held)))
			if report.Moved {
				moved.Add(1)
			}
			time.Sleep(rand.N(10 * time.Millisecond))
		}))
	}
	readers := []*logReader{newReader(t, store, "first"), newReader(t, store, "second")}
	for i, r := range readers {
		rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
		reading.Go(until(readersStop, func() {
			page, err := r.log.Read(t.Context(), []int{1, 7, 50, 1000}[rnd.IntN(4)])
			if err != nil {
				t.Error(err)
				return
			}
			for _, e := range page.Entries {
				r.got[e.Event.ID] = true
			}
			switch n := rnd.IntN(100); {
			case n == 0:
				r.close()
				r.open()
			case n < 50:
				if err := r.log.Checkpoint(t.Context(), page.After, nil); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(rand.N(time.Duration(1+3*i) * time.Millisecond))
		}))
	}
	time.Sleep(seconds * time.Second)
	close(stop)
	writing.Wait()
	close(readersStop)
	reading.Wait()
	retaining.Wait()
	for _, r := range readers {
		defer r.close()
		r.pass()
		var got []string
		for id := range r.got {
			got = append(got, id)
		}
		lost, ghosts, _ := w.compare(got)
		if lost+ghosts > 0 {
			t.Errorf("destination %s lost %d events of %d and got %d ghosts (seed %d)", r.destination, lost, len(w.committed), ghosts, seed)
		}
	}
	t.Logf("seed %d: %d committed; the ring moved %d times, %d leaves were emptied, %d times something was in the way", seed, len(w.committed), moved.Load(), emptied.Load(), held.Load())
	if emptied.Load() < 4 || moved.Load() < 4 || held.Load() == 0 {
		t.Error("the test doesn't bite: the ring must go round, and be held up")
	}
}

// Two hundred thousand events through the ring: no row of the log is ever updated, deleted or dead, and the log stays as large as
// what is kept.
func TestRetentionLeavesNoDeadRowsAndAFlatLog(t *testing.T) {
	t.Parallel()
	const rounds, perRound = 40, 5000
	pool, store := newPool(t)
	r := newReader(t, store, "default")
	defer r.close()
	// A reader's snapshot from before, in another table: nothing could be vacuumed.
	execSQL(t, pool, "CREATE TABLE elsewhere (n int)")
	old, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Rollback(context.WithoutCancel(t.Context()))
	if _, err := old.Exec(t.Context(), "SELECT count(*) FROM elsewhere"); err != nil {
		t.Fatal(err)
	}
	sizes := make([]int, rounds)
	emptied := 0
	for i := range rounds {
		execSQL(t, pool, fmt.Sprintf(`INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
			SELECT now(), n %% 1024, 'e%d-' || n, 'T', '1.0', 's', 'k' || n %% 500, '{"n": 1}' FROM generate_series(1, %d) n`, i, perRound))
		r.pass()
		emptied += retain(t, store, aLittle).Emptied
		sizes[i] = count(t, pool, "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('surepost_outbox')")
	}
	if len(r.got) != rounds*perRound {
		t.Errorf("%d events were read, want %d", len(r.got), rounds*perRound)
	}
	if first, last := sizes[rounds/4], sizes[rounds-1]; last > first*3/2 || emptied < rounds/2 {
		t.Errorf("the log grew from %d to %d bytes (%d leaves emptied)", first, last, emptied)
	}
	eventually(t, "the statistics are in", func() bool { // a session reports them once a second
		return count(t, pool, "SELECT coalesce(sum(n_tup_ins), 0) FROM pg_stat_user_tables WHERE relname LIKE 'surepost\\_outbox\\__'") >= rounds*perRound
	})
	if n := count(t, pool, "SELECT sum(n_dead_tup + n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE relname LIKE 'surepost\\_outbox\\__'"); n > 0 {
		t.Errorf("%d rows of the log were updated, deleted or are dead", n)
	}
	t.Logf("%d events, at most %d kB at a time, %d leaves emptied", rounds*perRound, maxOf(sizes)/1024, emptied)
}

func maxOf(list []int) (most int) {
	for _, n := range list {
		most = max(most, n)
	}
	return most
}

// A plan that was made while the log was empty, and known to be, must not have it read from end to end for ever.
func TestAPlanOfAnEmptyLogDoesNotStick(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	for i := range 4 {
		execSQL(t, pool, fmt.Sprintf("ALTER TABLE surepost_outbox_%d SET (autovacuum_enabled = off)", i))
	}
	execSQL(t, pool, "VACUUM ANALYZE surepost_outbox_0, surepost_outbox_1, surepost_outbox_2, surepost_outbox_3")
	log, _ := openLog(t, store, "a")
	read := func(times int) {
		for range times {
			if _, err := log.Read(t.Context(), 500); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(10)
	execSQL(t, pool, `INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
		SELECT now(), 1, 'e' || n, 'T', '1.0', 's', 'k' || n % 5000, '{}' FROM generate_series(1, 300000) n`)
	read(10)
	before := scannedRows(t, pool)
	read(30)
	if n := scannedRows(t, pool) - before; n > 0 {
		t.Errorf("reads scanned %d rows from end to end after they had been slow ten times", n)
	}
}

// Tables of an earlier release keep their events, numbers, places and grants.
func TestTheRingTakesOverALogThatIsThere(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	role := "ring_" + strings.ReplaceAll(surepost.NewID(), "-", "")
	script, _, _ := strings.Cut(store.MigrationSQL(0), "\n-- Migration 007")
	execSQL(t, pool, "CREATE SCHEMA old; CREATE ROLE "+role+" LOGIN PASSWORD 'x'")
	t.Cleanup(func() { _, _ = pool.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	execSQL(t, pool, "SET search_path = old; "+script+"; RESET search_path")
	execSQL(t, pool, `GRANT USAGE ON SCHEMA old TO `+role+`;
		GRANT INSERT (time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data) ON old.surepost_outbox TO `+role+`;
		GRANT SELECT ON old.surepost_sequence TO `+role+`;
		INSERT INTO old.surepost_outbox (time, slot, id, type, version, source, data) SELECT now(), 1, 'e' || n, 'T', '1', 's', '{}' FROM generate_series(1, 10) n`)
	config := pool.Config()
	config.ConnConfig.RuntimeParams["search_path"] = "old"
	oldPool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer oldPool.Close()
	oldStore := pgxstore.New(oldPool)
	defer oldStore.Close(context.Background())
	if _, err := oldStore.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := oldStore.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	producers := oldPool.Config()
	producers.ConnConfig.User, producers.ConnConfig.Password = role, "x"
	producer, err := pgxpool.NewWithConfig(t.Context(), producers)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	box := newBox(t, pgxstore.New(producer))
	write(t, producer, box, surepost.Event{ID: "e11", Type: "T"})
	write(t, producer, box, surepost.Event{ID: "e12", Type: "T"}, surepost.Event{ID: "e13", Type: "T"})
	if n := count(t, producer, "SELECT last_value FROM surepost_sequence"); n != 13 {
		t.Errorf("the sequence stands at %d, want 13", n)
	}
	r := newReader(t, oldStore, "default")
	defer r.close()
	r.pass()
	if len(r.got) != 13 {
		t.Errorf("%d events were read, want 13", len(r.got))
	}
	for range 2 {
		retain(t, oldStore, aLittle)
	}
	if n := count(t, oldPool, "SELECT count(*) FROM surepost_outbox"); n > 0 {
		t.Errorf("%d events are still there", n)
	}
}

// eventually waits until ok.
