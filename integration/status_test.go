package integration

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

func statusOf(t *testing.T, store interface{ relay.Store }) relay.DestinationStatus {
	t.Helper()
	status := outboxStatus(t, store)
	if len(status.Destinations) != 1 {
		t.Fatalf("%d destinations, want 1: %+v", len(status.Destinations), status)
	}
	return status.Destinations[0]
}

func outboxStatus(t *testing.T, store relay.Store) relay.OutboxStatus {
	t.Helper()
	status, err := store.(interface {
		Status(ctx context.Context) (relay.OutboxStatus, error)
	}).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func checkpoint(t *testing.T, log relay.Log, limit int) relay.Page {
	t.Helper()
	page, err := log.Read(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}
	return page
}

// What the relay's next reads would return is the backlog: fresh events, and those that commit late.
func TestTheStatusCountsWhatTheCursorHasNotPassed(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	if got := statusOf(t, store); got.Name != relay.DefaultDestination || got.Lanes != 1 || len(got.LanesStatus) != 1 || got.Backlog() != 0 ||
		got.LanesStatus[0].Owner != "" || !got.OldestUnpublished().IsZero() {
		t.Errorf("of an outbox that nobody has used: %+v", got)
	}
	old := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
	write(t, pool, box, surepost.Event{Type: "T", Time: old}, surepost.Event{Type: "T"})
	if got := statusOf(t, store); got.Backlog() != 2 || !got.OldestUnpublished().Equal(old) {
		t.Errorf("before any relay: %+v", got)
	}
	late := begin(t, pool)
	lateAt := time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond)
	if err := box.Write(t.Context(), late, surepost.Event{Type: "Late", Time: lateAt}, surepost.Event{Type: "Late"}); err != nil {
		t.Fatal(err)
	}
	write(t, pool, box, numbered(10)...)

	log, lease := openLog(t, store, "a")
	checkpoint(t, log, 100)
	got := statusOf(t, store)
	lane := got.LanesStatus[0]
	if got.Backlog() != 0 || lane.Owner != "a" || lane.Epoch != lease.Epoch || lane.Expires < 50*time.Second || lane.Expires > time.Minute ||
		time.Since(lane.CheckpointAt).Abs() > time.Minute || lane.Lane != lease.Lane {
		t.Errorf("after a checkpoint: %+v", got)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, pool, box, numbered(3)...)
	if got := statusOf(t, store); got.Backlog() != 5 || !got.OldestUnpublished().Equal(lateAt) {
		t.Errorf("2 late and 3 fresh events: %+v", got)
	}
	checkpoint(t, log, 1) // pins the snapshot behind the first straggler
	if got := statusOf(t, store); got.Backlog() != 4 {
		t.Errorf("after one of two late events, %d are left, want 4", got.Backlog())
	}
	for checkpoint(t, log, 100).Full {
	}
	if got := statusOf(t, store); got.Backlog() != 0 || !got.OldestUnpublished().IsZero() {
		t.Errorf("after all: %+v", got)
	}
	due := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	write(t, pool, box, surepost.Event{Type: "T", NotBefore: due.Add(time.Hour)}, surepost.Event{Type: "T", NotBefore: due})
	status := outboxStatus(t, store)
	if status.Scheduled != 2 || !status.ScheduledDue.Equal(due) {
		t.Errorf("with two scheduled: %+v", status)
	}
	if status.LogBytes < 8192 || status.InboxBytes < 8192 || !status.OldestEvent.Equal(old) {
		t.Errorf("of the tables: %+v", status)
	}
	if err := store.Release(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	if lane := statusOf(t, store).LanesStatus[0]; lane.Owner != "" || lane.Expires != 0 {
		t.Errorf("a lane that was released: %+v", lane)
	}
}

// Each lane counts the events of its slots, and a replay the numbers up to its end, until it is done.
func TestTheStatusIsOfEachLaneAndDestination(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	events := make([]surepost.Event, 300)
	want := make([]int64, 3)
	for i := range events {
		events[i] = surepost.Event{ID: fmt.Sprint("e", i), Type: "T", Key: fmt.Sprint("k", i%50)}
		want[events[i].Slot()%3]++
	}
	write(t, pool, box, events...)
	execSQL(t, pool, "INSERT INTO surepost_destination (name, lanes) VALUES ('default', 3)",
		`INSERT INTO surepost_destination (name, filter, until_seq, created_by) VALUES ('again', '{}', 120, 'me')`,
		`INSERT INTO surepost_destination (name, filter, until_seq, created_by, done_at) VALUES ('done', '{}', 120, 'me', now())`,
		"INSERT INTO surepost_relay (destination, owner, instance, expires_at) VALUES ('default', 'alive', 'i', now() + interval '1 minute'), ('default', 'dead', 'i', now())",
		"INSERT INTO surepost_parked (destination, seq, key, slot, behind, reason, time, id, type, version, source, data) VALUES "+
			"('default', 1, 'a', 1, false, 'unroutable', now(), '1', 'T', '1', 's', '1'), ('default', 2, 'a', 1, true, 'behind', now(), '2', 'T', '1', 's', '1'), "+
			"('default', 3, '', 1, false, 'unroutable', now(), '3', 'T', '1', 's', '1')")
	got := outboxStatus(t, store)
	if len(got.Destinations) != 3 {
		t.Fatalf("%d destinations, want 3", len(got.Destinations))
	}
	again, def, done := got.Destinations[0], got.Destinations[1], got.Destinations[2]
	for i, n := range want {
		if lane := def.LanesStatus[i]; lane.Backlog != n || lane.Lane != (relay.Lane{Destination: "default", Index: i, Of: 3}) {
			t.Errorf("lane %d: %+v, want %d events", i, lane, n)
		}
	}
	if len(def.Relays) != 1 || def.Relays[0].Owner != "alive" || def.Relays[0].Expires <= 0 || def.Parked != 3 || def.ParkedKeys != 1 || def.ParkedAt.IsZero() {
		t.Errorf("the default destination: %+v", def)
	}
	if again.Backlog() != 120 || again.Replay == nil || again.Replay.CreatedBy != "me" || !again.Replay.DoneAt.IsZero() {
		t.Errorf("a replay: %+v", again)
	}
	if done.Backlog() != 0 || done.Replay == nil || done.Replay.DoneAt.IsZero() {
		t.Errorf("a replay that is done: %+v", done)
	}
}

// The backlog of a relay that was down for days costs no more to see than one of ten thousand events, and is estimated.
func TestTheStatusOfALongLogIsCheap(t *testing.T) {
	t.Parallel()
	url := harness.Start(t, harness.Postgres()).Postgres.URL()
	pool, store := poolOn(t, url)
	box := newBox(t, store)
	for range 12 {
		write(t, pool, box, numbered(5000)...)
	}
	if got := statusOf(t, store).Backlog(); got != 60_000 {
		t.Errorf("%d events with one lane, want 60000: no numbers are missing", got)
	}
	execSQL(t, pool, "INSERT INTO surepost_destination (name, lanes) VALUES ('default', 7)", "ANALYZE surepost_outbox")
	if got := statusOf(t, store).Backlog(); got < 50_000 || got > 70_000 {
		t.Errorf("about %d events with seven lanes, want about 60000", got)
	}
	held, log := begin(t, pool), relay.Log(nil)
	if err := box.Write(t.Context(), held, numbered(10)...); err != nil {
		t.Fatal(err)
	}
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "again", Of: 1}, "a", time.Minute)
	if err == nil {
		log, err = store.Open(t.Context(), lease)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(context.Background())
	for checkpoint(t, log, 5000).Full {
	}
	if err := held.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, plan := range plansOf(t, url, func(store *pgxstore.Store) { outboxStatus(t, store) }) {
		// An empty partition may be scanned.
		scanned := regexp.MustCompile(`Seq Scan on surepost_outbox[^>]*(actual time=\S+ rows=[1-9]|Rows Removed by Filter: [1-9])`)
		if scanned.MatchString(plan) || strings.Contains(plan, "JIT:") {
			t.Errorf("the log is scanned, or the statement is compiled:\n%s", plan)
		}
		for _, removed := range regexp.MustCompile(`(?s)outbox_seq[^>]*Rows Removed by Filter: (\d+)`).FindAllStringSubmatch(plan, -1) {
			t.Errorf("%s rows of the log are read in vain:\n%s", removed[1], plan)
		}
		for _, rows := range regexp.MustCompile(`on surepost_outbox\S*(?: \w+)?\s+\([^)]*\) \(actual time=\S+ rows=(\d+)`).FindAllStringSubmatch(plan, -1) {
			if n, _ := strconv.Atoi(rows[1]); n > 10_000 {
				t.Errorf("%d rows of the log are read:\n%s", n, plan)
			}
		}
	}
}

// plansOf returns the plans of all statements that a store runs, with what they have read.
func plansOf(t *testing.T, url string, run func(store *pgxstore.Store)) (plans []string) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if strings.Contains(n.Message, "plan:") {
			plans = append(plans, n.Message)
		}
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; SET client_min_messages = log`)
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	run(pgxstore.New(pool))
	if len(plans) == 0 {
		t.Fatal("there are no plans")
	}
	return plans
}

// The other databases' stores tell as much.
func TestTheStatusOfEveryStoreTellsWhatIsLeft(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T) (*sql.DB, interface {
		relay.Store
		outbox.Store[*sql.Tx]
	}){
		"SQLite": func(t *testing.T) (*sql.DB, interface {
			relay.Store
			outbox.Store[*sql.Tx]
		}) {
			_, db, store := newSQLite(t)
			return db, store
		},
		"MariaDB": func(t *testing.T) (*sql.DB, interface {
			relay.Store
			outbox.Store[*sql.Tx]
		}) {
			db, store := newMariaDB(t)
			return db, store
		},
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, store := open(t)
			box := newBox(t, store)
			old := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
			writeDB := func(events ...surepost.Event) {
				t.Helper()
				if err := inTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, events...) }); err != nil {
					t.Fatal(err)
				}
			}
			if got := statusOf(t, store); got.Name != relay.DefaultDestination || got.Backlog() != 0 || got.LanesStatus[0].Owner != "" {
				t.Errorf("of an outbox that nobody has used: %+v", got)
			}
			writeDB(surepost.Event{Type: "T", Key: "k"}, surepost.Event{Type: "T", Time: old}, surepost.Event{Type: "T"})
			if got := statusOf(t, store); got.Backlog() != 3 || !got.OldestUnpublished().Equal(old) {
				t.Errorf("before any relay: %+v", got)
			}
			log, lease := openLog(t, store, "a")
			page, err := log.Read(t.Context(), 2)
			if err != nil {
				t.Fatal(err)
			}
			if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: page.Entries[0], Reason: "unroutable"}}); err != nil {
				t.Fatal(err)
			}
			got := statusOf(t, store)
			if lane := got.LanesStatus[0]; got.Backlog() != 1 || lane.Owner != "a" || lane.Epoch != lease.Epoch || lane.Expires <= 0 || lane.Expires > time.Minute ||
				got.Parked != 1 || got.ParkedKeys != 1 || time.Since(got.ParkedAt).Abs() > time.Minute {
				t.Errorf("after the first two: %+v", got)
			}
			if status := outboxStatus(t, store); status.LogBytes < 4096 || status.OldestEvent.IsZero() {
				t.Errorf("of the tables: %+v", status)
			}
			due := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
			writeDB(surepost.Event{Type: "T", NotBefore: due}, surepost.Event{Type: "T", NotBefore: due.Add(time.Hour)})
			if status := outboxStatus(t, store); status.Scheduled != 2 || !status.ScheduledDue.Equal(due) || status.Destinations[0].Backlog() != 1 {
				t.Errorf("with two scheduled: %+v", status)
			}
			for range 11 {
				writeDB(numbered(1000)...)
			}
			if got := statusOf(t, store); got.Backlog() != 11_001 {
				t.Errorf("%d events, want 11001: no numbers are missing", got.Backlog())
			}
		})
	}
}
