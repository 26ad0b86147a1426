package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
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

// pg_dump holds a lock on all leaves until it is done: retention waits, no producer does, and the dump is whole.
func TestPgDumpHoldsUpRetentionOnly(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t, harness.Image("none")) // as new as pg_dump
	execSQL(t, pool, "ALTER DATABASE "+pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()+
		" SET lock_timeout = '300ms'") // nobody is to wait for a lock
	pool.Reset()
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	const before = 2000
	events := make([]surepost.Event, before)
	for i := range events { // more than the pipes between the server and pg_dump's reader hold
		events[i] = surepost.Event{ID: "before" + strconv.Itoa(i), Type: "T", Key: "k", Data: strings.Repeat("x", 2000)}
	}
	write(t, pool, box, events...)
	r.pass()
	if report := retain(t, store, aLittle); !report.Moved {
		t.Fatalf("%q: the ring didn't move on", report)
	}

	// It goes on when somebody reads what it writes: so it is at it for as long as the test likes.
	dump := exec.CommandContext(t.Context(), "pg_dump", "--dbname="+pool.Config().ConnString())
	out, err := dump.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	dump.Stderr = &complaints
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pg_dump copies the leaf", func() bool {
		return count(t, pool, `SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'pg_dump' AND query LIKE 'COPY %outbox_0 %'`) == 1
	})
	pid := count(t, pool, "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump'")

	retained := make(chan struct{})
	go func() {
		defer close(retained)
		for refused := 0; refused < 3; {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: aLittle})
			if err != nil || report.Emptied > 0 {
				t.Errorf("%q, %v: a leaf is being dumped", report, err)
				return
			}
			if slices.ContainsFunc(report.Held, func(h relay.Holdup) bool { return h.PID == pid && strings.Contains(h.Query, "COPY") }) {
				refused++ // else it didn't come to the lock, since the reader hadn't passed what was written just now
			}
		}
	}()
	// Producers go on, one of which takes the leaf that is dumped for the current one, and so does the relay.
	during := 0
	for going := true; going; {
		select {
		case <-retained:
			going = false
		default:
		}
		write(t, pool, box, surepost.Event{ID: "during" + strconv.Itoa(during), Type: "T"})
		execSQL(t, pool, fmt.Sprintf(`INSERT INTO surepost_outbox (time, slot, id, type, version, source, data, ring)
			VALUES (now(), 1, 'stale%d', 'T', '1.0', 's', '{}', 0)`, during))
		during++
		r.pass()
	}
	if len(r.got) != before+2*during {
		t.Errorf("%d events came, want %d: they wait for the dump", len(r.got), before+2*during)
	}
	if leafOf(t, pool, "before0") != 0 {
		t.Error("retention emptied the leaf that is being dumped")
	}

	dumped, last := 0, ""
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if strings.Contains(line, "\tbefore") {
			dumped++
		}
		if strings.HasPrefix(line, "--") && len(line) > 3 {
			last = line
		}
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := dump.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, complaints.String())
	}
	if dumped != before || !strings.Contains(last, "dump complete") {
		t.Errorf("the dump has %d events of %d, and ends with %q", dumped, before, last)
	}
	for range 2 { // the first finds what was written to the leaf late, by the look of it
		retain(t, store, aLittle)
	}
	if leafOf(t, pool, "before0") != -1 {
		t.Error("the dump is done, and the leaf wasn't emptied")
	}
}

// Between the look at the ring and the lock, another relay may empty the leaf and somebody write to it who takes it for the current
// one: these events are young, however long ago the leaf was left.
func TestALeafThatIsEmptiedTwiceKeepsWhatCameInBetween(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	r.pass()
	retain(t, store, aLittle) // moves on
	for refused := true; refused; {
		other := begin(t, pool)
		if _, err := other.Exec(t.Context(), "LOCK TABLE surepost_outbox_0 IN ACCESS SHARE MODE"); err != nil {
			t.Fatal(err)
		}
		reports := make(chan relay.RetentionReport)
		go func() {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: aLittle})
			if err != nil {
				t.Error(err)
			}
			reports <- report
		}()
		eventually(t, "Retain has asked for the lock", func() bool { // and asks again
			return count(t, pool, `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND (query LIKE 'LOCK TABLE%NOWAIT' OR query = 'rollback')`) > 0
		})
		// What another Retain does, a producer with an old snapshot after it, and a relay that passes its event.
		if _, err := other.Exec(t.Context(), `LOCK TABLE surepost_outbox_0 IN ACCESS EXCLUSIVE MODE; TRUNCATE surepost_outbox_0;
			UPDATE surepost_ring SET emptied = true WHERE leaf = 0;
			INSERT INTO surepost_outbox (time, slot, id, type, version, source, data, ring) VALUES (now(), 1, 'young', 'T', '1.0', 's', '{}', 0);
			UPDATE surepost_checkpoint SET hot = (SELECT last_value FROM surepost_sequence), next = pg_current_xact_id()::text::bigint::text::xid8,
				snap = (SELECT format('%s:%s:', x, x)::pg_snapshot FROM (SELECT pg_current_xact_id()::text::bigint + 1) AS n (x))`); err != nil {
			t.Fatal(err)
		}
		if err := other.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		report := <-reports
		if report.Emptied > 0 || leafOf(t, pool, "young") != 0 {
			t.Fatalf("%q: an event that isn't old is gone", report)
		}
		refused = slices.ContainsFunc(report.Held, func(h relay.Holdup) bool { return h.PID != 0 }) // too slow: it had given up
		if refused {                                                                                // from the beginning
			execSQL(t, pool, "UPDATE surepost_ring SET emptied = false WHERE leaf = 0")
		}
	}
}

// TRUNCATE also locks the leaf's TOAST table, which an autovacuum may hold alone, and not for a moment. Then Retain has the leaf
// locked while it waits, and so it tries once, not forty times in a row: all that reads the log waits for it.
func TestALockOnALeafsToastHoldsUpReadsOnceOnly(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	r.pass()
	retain(t, store, aLittle)
	var toast string
	if err := pool.QueryRow(t.Context(),
		"SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'surepost_outbox_0'::regclass").Scan(&toast); err != nil {
		t.Fatal(err)
	}
	vacuum := begin(t, pool)
	if _, err := vacuum.Exec(t.Context(), "SELECT count(*) FROM "+toast); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	report := retain(t, store, aLittle)
	if took := time.Since(began); took > 10*time.Second { // it waits for a second
		t.Errorf("Retain held up the log for %v", took)
	}
	requireHeld(t, report, toast)
	if pid := int(vacuum.Conn().PgConn().PID()); report.Held[0].PID != pid {
		t.Errorf("%+v is in the way, want backend %d", report.Held, pid)
	}
	if err := vacuum.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := retain(t, store, aLittle); report.Emptied != 1 {
		t.Errorf("%q: nobody is in the way, and the leaf wasn't emptied", report)
	}
}
