package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// newWorld returns writers' work on the pool's database, as TestLateCommitIsNotSkipped has it.
func newWorld(t *testing.T, pool *pgxpool.Pool, store *pgxstore.Store) *world {
	t.Helper()
	execSQL(t, pool, "CREATE TABLE aggregate (key text PRIMARY KEY, version int NOT NULL)",
		"INSERT INTO aggregate SELECT 'k' || n, 0 FROM generate_series(1, 40) n", "CREATE TABLE other (n int)")
	return &world{pool: pool, box: newBox(t, store), committed: map[string]string{}, rolledBack: map[string]bool{}}
}

// work runs writers until stop is called.
func (w *world) work(t *testing.T, writers int, seed uint64) (stop func()) {
	ending := make(chan struct{})
	var writing sync.WaitGroup
	for n := range writers {
		writing.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			for {
				select {
				case <-ending:
					return
				default:
					w.transaction(t, rnd)
				}
			}
		})
	}
	return func() { close(ending); writing.Wait() }
}

func testSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SUREPOST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("SUREPOST_SEED=%d", seed)
	return seed
}

// The number of lanes is drawn anew all the time, while writers commit late, and lanes are taken over from older
// checkpoints: every committed event is handed out, and each key's first occurrences come in commit order.
func TestLaneCountsChangeUnderLateCommits(t *testing.T) {
	seconds := 6
	if _, routed := routeOf(t); routed {
		seconds = 3
	}
	seed := testSeed(t)
	pool, store := newPool(t)
	w := newWorld(t, pool, store)
	stop := w.work(t, 20, seed)
	r := &laneReader{t: t, store: store, rnd: rand.New(rand.NewPCG(seed, 1000)), of: 1, seen: map[string]bool{}}
	if _, err := store.Join(t.Context(), "default", "reader", "1", 1, time.Minute); err != nil {
		t.Fatal(err)
	}
	r.elect()
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		r.turn()
	}
	stop()
	r.drain()
	lost, ghosts, inversions := w.compare(r.first)
	t.Logf("%d committed, %d handed out again, %d as stragglers; %d changes of lanes, %d take-overs: %d lost, %d ghosts, %d inversions",
		len(w.committed), r.again, r.stragglers, r.changes, r.takeovers, lost, ghosts, inversions)
	if lost+ghosts+inversions > 0 {
		t.Errorf("%d lost, %d ghosts, %d inversions", lost, ghosts, inversions)
	}
	if r.changes < 2 || r.takeovers < 2 || r.stragglers == 0 || r.again == 0 {
		t.Errorf("the test doesn't bite: %d changes, %d take-overs, %d stragglers, %d repeated", r.changes, r.takeovers, r.stragglers, r.again)
	}
}

// laneReader reads all lanes, by turns.
type laneReader struct {
	t     *testing.T
	store *pgxstore.Store
	rnd   *rand.Rand
	of    int
	logs  []relay.Log

	first                                 []string
	seen                                  map[string]bool
	again, stragglers, changes, takeovers int
}

func (r *laneReader) open(index int) relay.Log {
	r.t.Helper()
	lease, err := r.store.Acquire(r.t.Context(), relay.Lane{Destination: "default", Index: index, Of: r.of}, "reader", time.Minute)
	if err != nil {
		r.t.Fatal(err)
	}
	log, err := r.store.Open(r.t.Context(), lease)
	if err != nil {
		r.t.Fatal(err)
	}
	return log
}

func (r *laneReader) elect() {
	for _, log := range r.logs {
		_ = log.Close(r.t.Context())
	}
	r.logs = nil
	for i := range r.of {
		r.logs = append(r.logs, r.open(i))
	}
}

func (r *laneReader) read(i, limit int) relay.Page {
	r.t.Helper()
	page, err := r.logs[i].Read(r.t.Context(), limit)
	if err != nil {
		r.t.Fatal(err)
	}
	r.stragglers += page.Stragglers
	for _, e := range page.Entries {
		if e.Event.Slot()%r.of != i {
			r.t.Fatalf("lane %d of %d has an event of slot %d", i, r.of, e.Event.Slot())
		}
		if r.seen[e.Event.ID] {
			r.again++
			continue
		}
		r.seen[e.Event.ID] = true
		r.first = append(r.first, e.Event.ID)
	}
	return page
}

func (r *laneReader) turn() {
	r.t.Helper()
	i := r.rnd.IntN(r.of)
	page := r.read(i, []int{1, 7, 50, 1000}[r.rnd.IntN(4)])
	switch n := r.rnd.IntN(100); {
	case n < 15:
		if err := r.logs[i].Checkpoint(r.t.Context(), page.After, nil); err != nil {
			r.t.Fatal(err)
		}
	case n < 18:
		r.takeovers++
		_ = r.logs[i].Close(r.t.Context())
		r.logs[i] = r.open(i)
	case n < 24:
		of := []int{1, 2, 3, 5}[r.rnd.IntN(4)]
		if of == r.of {
			return
		}
		old, lane := r.logs[i], page.After
		if err := r.store.SetLanes(r.t.Context(), "default", of); err != nil {
			r.t.Fatal(err)
		}
		if err := old.Checkpoint(r.t.Context(), lane, nil); !errors.Is(err, relay.ErrLeaseLost) {
			r.t.Fatalf("an old lane's checkpoint: %v", err)
		}
		r.changes++
		r.of = of
		r.elect()
	}
}

// drain reads what is left.
func (r *laneReader) drain() {
	for i := range r.of {
		for page := r.read(i, 1000); page.Full || len(page.Entries) > 0; {
			page = r.read(i, 1000)
		}
	}
}

// Relays publish while the number of lanes is changed, and are stopped and started.
func TestLaneCountsChangeUnderRelays(t *testing.T) {
	t.Parallel()
	const seconds = 8
	seed := testSeed(t)
	pool, store := newPool(t)
	w := newWorld(t, pool, store)
	broker := relaytest.NewPublisher()
	var relays sync.WaitGroup
	ending := make(chan struct{})
	for n := range 3 {
		rnd := rand.New(rand.NewPCG(seed, uint64(100+n)))
		own := pgxstore.New(pool)
		t.Cleanup(func() { own.Close(context.Background()) })
		relays.Go(func() {
			for running := true; running; {
				r, err := relay.New(own, broker, relay.Config{LeaseTTL: time.Second, Lanes: 2, PageEvents: 20, BackoffMax: 200 * time.Millisecond, Logger: logger(t)})
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
				time.AfterFunc(time.Duration(1000+rnd.IntN(4000))*time.Millisecond, cancel)
				select {
				case <-ending:
					running = false
					cancel()
				default:
				}
				if err := r.Run(ctx); err != nil {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	stop := w.work(t, 12, seed)
	rnd := rand.New(rand.NewPCG(seed, 1000))
	changes := 0
	for end := time.Now().Add(seconds * time.Second); time.Now().Before(end); {
		time.Sleep(time.Duration(200+rnd.IntN(800)) * time.Millisecond)
		if err := store.SetLanes(t.Context(), "default", []int{1, 2, 3, 5}[rnd.IntN(4)]); err != nil {
			t.Error(err)
		}
		changes++
	}
	stop()
	var first []string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		first = firstOccurrences(broker.Published())
		if len(first) >= len(w.committed) || time.Now().After(deadline) {
			break
		}
	}
	close(ending)
	relays.Wait()
	lost, ghosts, inversions := w.compare(first)
	t.Logf("%d committed, %d published, %d changes of lanes: %d lost, %d ghosts, %d inversions",
		len(w.committed), len(broker.Published()), changes, lost, ghosts, inversions)
	if lost+ghosts+inversions > 0 || changes < 5 {
		t.Errorf("%d lost, %d ghosts, %d inversions, %d changes", lost, ghosts, inversions, changes)
	}
}

func firstOccurrences(events []surepost.Event) (first []string) {
	seen := map[string]bool{}
	for _, e := range events {
		if !seen[e.ID] {
			seen[e.ID] = true
			first = append(first, e.ID)
		}
	}
	return first
}

// laneRelay is a relay process with ways of its own to the servers.
type laneRelay struct {
	name   string
	pg, mq *harness.Proxy
	cmd    *exec.Cmd
	log    *lockedBuffer
}

// Three relays share six lanes on real servers. Each in turn is killed, stopped for longer than its lease, and cut off: its
// lanes are served by others within two leases, the one that wakes up changes nothing any more, and all that was committed
// meanwhile arrives, in order per key.
func TestThreeRelaysShareSixLanes(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	binary := filepath.Join(t.TempDir(), "lanerelay")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./testdata/lanerelay").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env := harness.Start(t, harness.Postgres(), harness.RabbitMQ())
	pool, store := poolOn(t, env.Postgres.URL())
	w := newWorld(t, pool, store)
	ch := amqpChannel(t, env.RabbitMQ.URL())
	bindQueue(t, ch, "all", nil)
	got := collect(t, ch, "all")

	start := func(r *laneRelay, name string) {
		t.Helper()
		r.name, r.log = name, &lockedBuffer{}
		r.cmd = exec.Command(binary)
		r.cmd.Env = append(os.Environ(), "POSTGRES_URL="+r.pg.URL(), "RABBIT_URL="+r.mq.URL(), "OWNER="+name, "LEASE="+ttl.String())
		r.cmd.Stderr = r.log
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	var relays []*laneRelay
	for n := range 3 {
		r := &laneRelay{pg: env.Postgres.Proxy(t), mq: env.RabbitMQ.Proxy(t)}
		start(r, fmt.Sprint("relay ", n))
		t.Cleanup(func() {
			_ = r.cmd.Process.Signal(syscall.SIGCONT)
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
			if t.Failed() {
				t.Logf("%s:\n%s", r.name, r.log)
			}
		})
		relays = append(relays, r)
	}
	l := &laneTable{t, pool}
	l.awaitShares(2, 2, 2)
	stop := w.work(t, 6, testSeed(t))

	kill := func(r *laneRelay) { _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() }
	for n, fault := range []struct {
		name        string
		begin, mend func(r *laneRelay)
	}{
		{"killed", kill, func(r *laneRelay) { start(r, r.name+" again") }},
		{
			"stopped",
			func(r *laneRelay) { _ = r.cmd.Process.Signal(syscall.SIGSTOP) },
			func(r *laneRelay) { _ = r.cmd.Process.Signal(syscall.SIGCONT) },
		},
		{
			"cut off",
			func(r *laneRelay) { r.pg.Stall(); r.mq.Stall() },
			func(r *laneRelay) { r.pg.Resume(); r.mq.Resume() },
		},
	} {
		r := relays[n]
		had := l.of(r.name)
		began := time.Now()
		fault.begin(r)
		served := l.awaitServed(r.name, had, 4*ttl)
		t.Logf("%s %s: its lanes %v were served by others after %v", r.name, fault.name, slices.Sorted(maps.Keys(had)), served.Sub(began).Round(10*time.Millisecond))
		if took := served.Sub(began); took > 2*ttl {
			t.Errorf("%s %s: its lanes were served by others after %v, want within %v", r.name, fault.name, took, 2*ttl)
		}
		name := r.name
		fault.mend(r)
		l.awaitShares(2, 2, 2)
		if fault.name != "killed" && !strings.Contains(r.log.String(), relay.ErrLeaseLost.Error()) {
			t.Errorf("%s, which was %s, doesn't say that it lost a lease", name, fault.name)
		}
	}
	stop()
	if n := count(t, pool, `SELECT count(*) FROM surepost_checkpoint old JOIN surepost_checkpoint new USING (destination, lane)
		WHERE old.epoch < new.epoch AND old.at > new.at`); n != 0 {
		t.Errorf("%d checkpoints were written by relays that had lost the lane", n)
	}
	var first []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		seen := map[string]bool{}
		first = nil
		for _, id := range got.await(t, 1) {
			if !seen[id] {
				seen[id] = true
				first = append(first, id)
			}
		}
		if len(first) >= len(w.committed) || time.Now().After(deadline) {
			break
		}
	}
	lost, ghosts, inversions := w.compare(first)
	t.Logf("%d committed, %d arrived: %d lost, %d ghosts, %d inversions", len(w.committed), len(got.await(t, 1)), lost, ghosts, inversions)
	if lost+ghosts+inversions > 0 {
		t.Errorf("%d lost, %d ghosts, %d inversions", lost, ghosts, inversions)
	}
}

// laneTable looks at the leases.
type laneTable struct {
	t    *testing.T
	pool *pgxpool.Pool
}

type laneLease struct {
	Lane    int
	Owner   string
	Epoch   int64
	Running bool // it hasn't run out
}

func (l *laneTable) leases() []laneLease {
	l.t.Helper()
	rows, err := l.pool.Query(l.t.Context(), "SELECT lane, owner, epoch, expires_at > clock_timestamp() AS running FROM surepost_lease ORDER BY lane")
	if err != nil {
		l.t.Fatal(err)
	}
	leases, err := pgx.CollectRows(rows, pgx.RowToStructByPos[laneLease])
	if err != nil {
		l.t.Fatal(err)
	}
	return leases
}

// of returns the owner's lanes, with their epochs.
func (l *laneTable) of(owner string) map[int]int64 {
	has := map[int]int64{}
	for _, lease := range l.leases() {
		if lease.Owner == owner {
			has[lease.Lane] = lease.Epoch
		}
	}
	return has
}

func (l *laneTable) awaitShares(want ...int) {
	l.t.Helper()
	var last []laneLease
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		has := map[string]int{}
		last = l.leases()
		for _, lease := range last {
			if lease.Running {
				has[lease.Owner]++
			}
		}
		delete(has, "")
		if slices.Equal(slices.Sorted(maps.Values(has)), want) {
			return
		}
	}
	l.t.Fatalf("the relays don't come to shares of %v: %+v", want, last)
}

// awaitServed waits until others have stored that they published on each of the lanes.
func (l *laneTable) awaitServed(owner string, lanes map[int]int64, limit time.Duration) time.Time {
	l.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		served := 0
		for lane, epoch := range lanes {
			served += count(l.t, l.pool, `SELECT count(*) FROM surepost_lease WHERE lane = $1 AND epoch > $2 AND owner NOT IN ('', $3)
				AND EXISTS (SELECT FROM surepost_checkpoint c WHERE c.lane = $1 AND c.epoch > $2)`, lane, epoch, owner)
		}
		if served == len(lanes) {
			return time.Now()
		}
	}
	l.t.Fatalf("the lanes %v of %s aren't served by others within %v: %+v", lanes, owner, limit, l.leases())
	return time.Time{}
}

// A lane without events of its own gets past those of others in reads of a bounded size.
func TestAReadOfALaneIsBounded(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	var mine, other string
	for n := 0; mine == "" || other == ""; n++ {
		key := fmt.Sprint("key ", n)
		if (surepost.Event{Key: key}).Slot()%2 == 0 {
			mine = key
		} else {
			other = key
		}
	}
	const rows = 50_000
	execSQL(t, pool, fmt.Sprintf(`INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
		SELECT now(), %d, 'e' || n, 'T', '1.0', 's', '%s', 'null' FROM generate_series(1, %d) n`, surepost.Event{Key: other}.Slot(), other, rows),
		// A slot of any kind is read by one lane or the other.
		fmt.Sprintf(`INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
		SELECT now(), s, 'odd' || s, 'T', '1.0', 's', NULL, 'null' FROM unnest(ARRAY[-1, -2, 1024, 1025, %d]) s`, surepost.Event{Key: mine}.Slot()))
	if _, err := store.Join(t.Context(), "default", "a", "1", 2, time.Minute); err != nil {
		t.Fatal(err)
	}
	r := &laneReader{t: t, store: store, of: 2}
	var ids []string
	for i := range 2 {
		log, reads, began := r.open(i), 0, time.Now()
		for full := true; full; reads++ {
			page, err := log.Read(t.Context(), 10_000)
			if err != nil {
				t.Fatal(err)
			}
			full = page.Full
			for _, e := range page.Entries {
				if !strings.HasPrefix(e.Event.ID, "e") {
					ids = append(ids, e.Event.ID)
				}
			}
			if i == 0 && len(page.Entries) > 0 && full {
				t.Errorf("read %d of the quiet lane returned %d events", reads, len(page.Entries))
			}
		}
		t.Logf("lane %d read in %d reads of %v", i, reads, (time.Since(began) / time.Duration(reads)).Round(time.Millisecond))
		if i == 0 && reads != 3 {
			t.Errorf("the quiet lane got past %d rows in %d reads, want 3 of 20000 rows at most", rows, reads)
		}
		_ = log.Close(t.Context())
	}
	slices.Sort(ids)
	if want := []string{"odd-1", "odd-2", fmt.Sprint("odd", surepost.Event{Key: mine}.Slot()), "odd1024", "odd1025"}; !slices.Equal(ids, slices.Sorted(slices.Values(want))) {
		t.Errorf("with slots out of the ordinary came %v, want %v", ids, want)
	}
}

// Transaction ids of two clusters can't be compared: after a dump was restored, every lane must have moved first.
func TestLanesOfTwoClustersAreNotMixed(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	if _, err := store.Join(t.Context(), "default", "reader", "1", 2, time.Minute); err != nil {
		t.Fatal(err)
	}
	r := &laneReader{t: t, store: store, of: 2, seen: map[string]bool{}}
	r.elect()
	for i, log := range r.logs {
		if err := log.Checkpoint(t.Context(), r.read(i, 10).After, nil); err != nil {
			t.Fatal(err)
		}
	}
	const elder = "UPDATE surepost_checkpoint SET snap = '900000000:900000000:', next = '900000001' WHERE lane = "
	execSQL(t, pool, elder+"0")
	if err := store.SetLanes(t.Context(), "default", 3); err == nil || !strings.Contains(err.Error(), "restored") {
		t.Errorf("one lane of the old cluster, one of this: %v", err)
	}
	execSQL(t, pool, elder+"1")
	if err := store.SetLanes(t.Context(), "default", 3); err != nil {
		t.Errorf("both of the old one: %v", err)
	}
}

// Somebody who holds a destination's row keeps its lanes from being taken, not from being renewed.
func TestRenewalsDoNotWaitForAnAcquisitionThatWaits(t *testing.T) {
	t.Parallel()
	const ttl = 20 * time.Second // the wait is a tenth
	pool, store := newPool(t)
	acquire := func(lane int) (relay.Lease, error) {
		return store.Acquire(t.Context(), relay.Lane{Destination: "default", Index: lane, Of: 2}, "a", ttl)
	}
	lease, err := acquire(0)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), "SELECT FROM surepost_destination FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := acquire(1)
		waiting <- err
	}()
	for began := time.Now(); count(t, pool, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0; {
		if time.Since(began) > 10*time.Second {
			t.Fatal("nobody waits for the destination's row")
		}
	}
	if err := store.Renew(t.Context(), lease, ttl); err != nil {
		t.Errorf("renew: %v", err)
	}
	var held *relay.LeaseHeldError
	if err := <-waiting; err == nil || errors.As(err, &held) || errors.Is(err, relay.ErrHalt) {
		t.Errorf("acquiring a lane while the destination's row is held: %v, want an error that passes", err)
	}
	_ = tx.Rollback(t.Context())
	if _, err := acquire(1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAPoolWithoutAConnectionForALaneSaysSo(t *testing.T) {
	t.Parallel()
	url := harness.Start(t, harness.Postgres()).Postgres.URL()
	poolOn(t, url) // which migrates
	db := openSQL(t, "pgx", url)
	db.SetMaxOpenConns(3)
	store := newSQLStore(t, db)
	for n := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if n == 2 {
			ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		}
		lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "default", Index: n, Of: 3}, "a", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		log, err := store.Open(ctx, lease)
		cancel()
		if n == 2 {
			if err == nil || !strings.Contains(err.Error(), "SetMaxOpenConns") {
				t.Errorf("the third lane of a relay with 3 connections: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = log.Close(context.Background()) })
	}
}

// A failover that lost its tail may have lost a lease, and with it the number of lanes that it is for. Whoever opens the log with it
// would begin at the place of another number's lane, which has passed what this one's never had.
func TestALeaseThatAFailoverLostOpensNoLog(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	openLog(t, store, "first") // makes the destination
	if err := store.SetLanes(t.Context(), "default", 3); err != nil {
		t.Fatal(err)
	}
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "default", Index: 1, Of: 3}, "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for name, lost := range map[string]string{
		"the number of lanes": "UPDATE surepost_lease SET lanes = 6 WHERE lane = 1",
		"the epoch":           "UPDATE surepost_lease SET lanes = 3, epoch = epoch - 1 WHERE lane = 1",
		"the lease":           "DELETE FROM surepost_lease WHERE lane = 1",
	} {
		func() {
			log, err := store.Open(t.Context(), lease)
			if err != nil {
				t.Fatalf("before %s was lost: %v", name, err)
			}
			defer log.Close(t.Context())
			defer execSQL(t, pool, "INSERT INTO surepost_lease SELECT * FROM kept ON CONFLICT (destination, lane) DO UPDATE "+
				"SET lanes = excluded.lanes, epoch = excluded.epoch")
			execSQL(t, pool, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM surepost_lease WHERE lane = 1")
			execSQL(t, pool, lost)
			if log, err := store.Open(t.Context(), lease); !errors.Is(err, relay.ErrLeaseLost) {
				t.Errorf("after %s was lost the log is opened: %v, %v; want ErrLeaseLost", name, log, err)
			}
		}()
	}
}
