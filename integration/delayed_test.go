package integration

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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

// shuffledDelays returns delayed events of 20 keys, in no order, within a span from a moment on.
func shuffledDelays(n int, from time.Time, span time.Duration) []surepost.Event {
	events := make([]surepost.Event, n)
	for i := range events {
		due := from
		if span > 0 {
			due = from.Add(rand.N(span))
		}
		events[i] = surepost.Event{ID: fmt.Sprint("e", i), Type: "Due", Key: fmt.Sprint("k", i%20), NotBefore: due.UTC().Truncate(time.Microsecond)}
	}
	return events
}

// wantInOrderOfDue demands that the ids are those of the events, each once and in the order of each key.
func wantInOrderOfDue(t *testing.T, got []surepost.Event, events []surepost.Event) {
	t.Helper()
	byDue := slices.Clone(events)
	slices.SortStableFunc(byDue, func(a, b surepost.Event) int { return a.NotBefore.Compare(b.NotBefore) })
	perKey := func(list []surepost.Event) map[string][]string {
		keys := map[string][]string{}
		for _, e := range list {
			keys[e.Key] = append(keys[e.Key], e.ID)
		}
		return keys
	}
	have := perKey(got)
	for key, want := range perKey(byDue) {
		if !slices.Equal(have[key], want) {
			t.Errorf("of %s came %q, want %q", key, have[key], want)
		}
	}
	if len(got) != len(events) {
		t.Errorf("%d came, want %d", len(got), len(events))
	}
}

func TestDelayedEventsArePublishedWithinASecondInOrder(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	_, other := poolOn(t, pool.Config().ConnString())
	box := newBox(t, store)
	publisher := relaytest.NewPublisher()
	var mu sync.Mutex
	var arrived []surepost.Event
	var at []time.Time
	all := make(chan struct{})
	const n = 1000
	publisher.Decide(func(e relay.Entry) relaytest.Fate {
		mu.Lock()
		defer mu.Unlock()
		arrived, at = append(arrived, e.Event), append(at, time.Now())
		if len(arrived) == n {
			close(all)
		}
		return relaytest.Confirm
	})
	ctx, cancel := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	for i, on := range []relay.Store{store, other} { // one leads, both move
		r, err := relay.New(on, publisher, relay.Config{Owner: fmt.Sprint("relay ", i), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		relays.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	defer relays.Wait()
	defer cancel()

	events := shuffledDelays(n, time.Now().Add(5*time.Second), 3*time.Second)
	for chunk := range slices.Chunk(events, 50) {
		write(t, pool, box, chunk...)
	}
	if late := time.Until(events[0].NotBefore.Truncate(time.Second)); late < -3*time.Second {
		t.Fatal("the machine is too slow to write a thousand events in some seconds")
	}
	select {
	case <-all:
	case <-time.After(time.Minute):
		t.Fatal("not all have arrived")
	}
	mu.Lock()
	defer mu.Unlock()
	wantInOrderOfDue(t, arrived, events)
	due := map[string]time.Time{}
	for _, e := range events {
		due[e.ID] = e.NotBefore
	}
	delays := make([]time.Duration, n)
	for i, e := range arrived {
		delays[i] = at[i].Sub(due[e.ID])
	}
	slices.Sort(delays)
	t.Logf("published after they were due: first %v, median %v, 99%% within %v, last %v", delays[0], delays[n/2], delays[n*99/100], delays[n-1])
	if delays[0] < 0 {
		t.Errorf("an event was published %v early", -delays[0])
	}
	if delays[n*99/100] > time.Second { // the last ones may be another process's time slice
		t.Errorf("1%% of the events came later than %v after they were due", delays[n*99/100])
	}
}

func TestKilledMoversLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	const n = 3000
	events := shuffledDelays(n, time.Now().Add(4*time.Second), 0)
	for chunk := range slices.Chunk(events, 500) {
		write(t, pool, box, chunk...)
	}
	time.Sleep(time.Until(events[0].NotBefore))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var movers sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		_, mover := poolOn(t, pool.Config().ConnString())
		movers.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-done:
					return
				default:
					_, _, _ = mover.MoveDue(ctx, 25) // killed now and then
				}
			}
		})
	}
	killed := 0
	for {
		left := count(t, pool, "SELECT count(*) FROM surepost_scheduled")
		if left == 0 {
			break
		}
		killed += count(t, pool, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'WITH mover%' AND state = 'active' AND random() < 0.5`)
		if ctx.Err() != nil {
			t.Fatalf("%d events are left", left)
		}
	}
	close(done)
	movers.Wait()
	t.Logf("movers were killed %d times", killed)
	if killed < 3 {
		t.Errorf("only %d movers were killed: that shows nothing", killed)
	}
	log, _ := openLog(t, store, "a")
	var got []surepost.Event
	for _, e := range readAll(t, log, 500) {
		got = append(got, e.Event)
	}
	wantInOrderOfDue(t, got, events)
}

// A function can't get a parameter: migration 006 makes a new one.
func TestSurepostWriteDelaysAndKeepsItsGrants(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres // roles belong to the server
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store := pgxstore.New(pool)
	defer store.Close(context.Background())
	before, _, _ := strings.Cut(store.MigrationSQL(0), "\n-- Migration 006_")
	exec(before)
	exec("CREATE ROLE writer; CREATE ROLE granter; CREATE ROLE stranger; REVOKE ALL ON FUNCTION surepost_write FROM PUBLIC; " +
		"GRANT EXECUTE ON FUNCTION surepost_write TO writer; GRANT EXECUTE ON FUNCTION surepost_write TO granter WITH GRANT OPTION")
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]string{"writer": "true false", "granter": "true true", "stranger": "false false"} {
		var may, gives bool
		err := conn.QueryRow(t.Context(), `SELECT has_function_privilege($1, oid, 'EXECUTE'), has_function_privilege($1, oid, 'EXECUTE WITH GRANT OPTION')
			FROM pg_proc WHERE proname = 'surepost_write'`, role).Scan(&may, &gives)
		if err != nil || fmt.Sprint(may, gives) != want {
			t.Errorf("%s: %v %v (%v), want %s", role, may, gives, err, want)
		}
	}

	exec(`SELECT surepost_write('Now', '1', source => 's', id => 'now', not_before => now() - interval '1 hour')`)
	exec(`SELECT surepost_write('Later', '{"n": 2}', key => 'k', source => 's', id => 'later', correlation_id => 'c', headers => '{"h": "v"}',
		not_before => '2998-01-02 03:04:05.000006+00')`)
	for _, bad := range []string{"infinity", "-infinity", "0044-03-15 BC"} {
		_, err := conn.Exec(t.Context(), `SELECT surepost_write('T', '1', source => 's', not_before => $1::text::timestamptz)`, bad)
		if err == nil || !strings.Contains(err.Error(), "not_before") {
			t.Errorf("not_before %s: %v", bad, err)
		}
	}
	log, _ := openLog(t, store, "a")
	if got := readAll(t, log, 10); len(got) != 1 || got[0].Event.ID != "now" {
		t.Errorf("the log has %+v, want the event that was due", got)
	}
	list, err := store.Scheduled(t.Context(), relay.ScheduledFilter{}, 10)
	due := time.Date(2998, 1, 2, 3, 4, 5, 6000, time.UTC)
	if err != nil || len(list) != 1 {
		t.Fatalf("scheduled are %+v (%v), want one", list, err)
	}
	if e := list[0].Event; e.ID != "later" || !e.NotBefore.Equal(due) || !e.Time.Equal(due) || e.Key != "k" || e.CorrelationID != "c" || e.Headers["h"] != "v" {
		t.Errorf("scheduled is %+v", e)
	}
	exec(`UPDATE surepost_scheduled SET not_before = now()`)
	if n, _, err := store.MoveDue(t.Context(), 10); n != 1 || err != nil {
		t.Fatalf("moved %d (%v), want 1", n, err)
	}
	got := readAll(t, log, 10)
	if len(got) != 1 || got[0].Event.Slot() != (surepost.Event{Key: "k"}).Slot() || got[0].Event.ID != "later" {
		t.Errorf("the log has got %+v", got)
	}
	if slots := count(t, pool, "SELECT count(*) FROM surepost_outbox WHERE id = 'later' AND slot = $1", (surepost.Event{Key: "k"}).Slot()); slots != 1 {
		t.Error("the moved event has another slot than its key")
	}
}

func TestABatchDelaysItsEventsToo(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	batch := &pgx.Batch{}
	err := store.Queue(t.Context(), box, batch, surepost.Event{ID: "later", Type: "T", NotBefore: time.Now().Add(time.Hour)}, surepost.Event{ID: "now", Type: "T"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Queue(t.Context(), box, batch, surepost.Event{ID: "alone", Type: "T", NotBefore: time.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if err := pool.SendBatch(t.Context(), batch).Close(); err != nil {
		t.Fatal(err)
	}
	log, _ := openLog(t, store, "a")
	if got := readAll(t, log, 10); len(got) != 1 || got[0].Event.ID != "now" {
		t.Errorf("the log has %+v, want the event that isn't delayed", got)
	}
	list, err := store.Scheduled(t.Context(), relay.ScheduledFilter{}, 10)
	if err != nil || len(list) != 2 || list[0].Event.ID != "alone" || list[1].Event.ID != "later" {
		t.Errorf("scheduled are %+v (%v)", list, err)
	}
}
