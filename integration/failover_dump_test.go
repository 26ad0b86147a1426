package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
)

// A dump is taken while events are unpublished and others' transactions run, and restored into a younger cluster, whose
// transaction ids are lower than all that the dump has: the relay there reads on where the old one was.
func TestARestoredDumpIsReadOn(t *testing.T) {
	t.Parallel()
	old := harness.Start(t, harness.Postgres(harness.Private(), harness.Image("none"))).Postgres
	young := harness.Start(t, harness.Postgres(harness.Private(), harness.Image("none"))).Postgres
	pool, store := poolOn(t, old.URL())
	box := newBox(t, store)
	execSQL(t, pool, "CREATE TABLE burnt (n int)",
		"DO $$ BEGIN FOR n IN 1..20000 LOOP BEGIN INSERT INTO burnt VALUES (n); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$")

	named := func(prefix string, n int) (events []surepost.Event) {
		for i := range n {
			events = append(events, surepost.Event{ID: fmt.Sprint(prefix, i), Type: "T", Key: fmt.Sprint("k", i%5)})
		}
		return events
	}
	late := begin(t, pool) // is running when the checkpoint is made, and commits before the dump: a straggler
	if err := box.Write(t.Context(), late, named("late", 10)...); err != nil {
		t.Fatal(err)
	}
	lost := begin(t, pool) // doesn't commit before the dump
	if err := box.Write(t.Context(), lost, named("lost", 10)...); err != nil {
		t.Fatal(err)
	}
	write(t, pool, box, named("published", 100)...)
	log, _ := openLog(t, store, "old")
	page, err := log.Read(t.Context(), 1000)
	if err != nil || len(page.Entries) != 100 {
		t.Fatalf("%d entries, %v", len(page.Entries), err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, pool, box, named("unpublished", 100)...)

	dump := filepath.Join(t.TempDir(), "dump")
	run(t, "pg_dump", "--format=custom", "--file="+dump, "--dbname="+old.URL())
	if err := lost.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, "pg_restore", "--exit-on-error", "--no-owner", "--dbname="+young.URL(), dump)

	restored, store := poolOn(t, young.URL())
	if before, after := count(t, pool, "SELECT pg_current_xact_id()::text::int"), count(t, restored, "SELECT pg_current_xact_id()::text::int"); after >= before {
		t.Fatalf("transaction %d on the young cluster, %d on the old one: this shows nothing", after, before)
	}
	execSQL(t, restored, "UPDATE surepost_lease SET owner = '', expires_at = clock_timestamp()")
	box = newBox(t, store)
	write(t, restored, box, named("new", 100)...)
	held := begin(t, restored)
	if err := box.Write(t.Context(), held, named("held", 10)...); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	left := func() {
		t.Helper()
		if n := statusOf(t, store).Backlog(); n != int64(210-len(got)) {
			t.Errorf("the status tells of %d events, want %d", n, 210-len(got))
		}
	}
	left()
	for round := range 2 {
		log, _ = openLog(t, store, "young")
		// The stragglers fill the first pages, after each of which another relay takes over.
		for full := true; full; {
			page, err := log.Read(t.Context(), 4)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Entries {
				got[e.Event.ID]++
			}
			full = page.Full
			if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
				t.Fatal(err)
			}
			if round == 0 && len(got) < 40 {
				left()
			}
			log, _ = openLog(t, store, "young")
		}
		_ = held.Commit(t.Context()) // before the second reading
	}
	for prefix, n := range map[string]int{"late": 10, "unpublished": 100, "new": 100, "held": 10} {
		for i := range n {
			id := fmt.Sprint(prefix, i)
			if got[id] != 1 {
				t.Errorf("event %s came %d times", id, got[id])
			}
			delete(got, id)
		}
	}
	if len(got) != 0 {
		t.Errorf("these came, too: %v", got)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// pgbouncer in transaction mode is killed and started again under load, twice: producers, relay and consumer all work
// through it.
func TestAPgBouncerRestartLosesNothing(t *testing.T) {
	t.Parallel()
	env := harness.Start(t, harness.Postgres(), harness.RabbitMQ())
	bouncer := startBouncer(t, env.Postgres.AdminURL(), transactions...)
	routePools(t, bouncer, pgx.QueryExecModeExec)
	f := newFlow(t, env)
	if config := f.producer.Config().ConnConfig; fmt.Sprintf("127.0.0.1:%d", config.Port) != bouncer.address {
		t.Fatalf("the producers' pool leads to port %d, past pgbouncer", config.Port)
	}
	f.startConsumer(t)
	r, _ := f.startRelay(t)
	stop := f.keepProducing(t, 4)
	for range 2 {
		more := int(r.Report().Published) + 150
		awaitFor(t, "the relay publishes on", func() bool { return int(r.Report().Published) >= more })
		bouncer.kill()
		time.Sleep(500 * time.Millisecond) // the outage
		bouncer.start()
	}
	more := int(r.Report().Published) + 150
	awaitFor(t, "the relay publishes on", func() bool { return int(r.Report().Published) >= more })
	stop()
	n := f.settled(t, 30*time.Second)
	if rp := r.Report(); f.unroutable.Load() != 0 || rp.Parked != 0 || rp.LastError == nil {
		t.Errorf("%d tries were spent: %+v", f.unroutable.Load(), rp)
	}
	t.Logf("%d events, %+v", n, r.Report())
}
