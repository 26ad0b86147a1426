package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// One lane is held up at its beginning, the other has parked events, some of which an operator discards. Then the cause of all
// that goes away, and the one new lane begins where the first stood: it publishes again what was published, and leaves out
// what was discarded.
func TestWhatWasDiscardedStaysSoWithNewLanes(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	broker := relaytest.NewPublisher()
	var mended atomic.Bool
	broker.Decide(func(e relay.Entry) relaytest.Fate {
		switch {
		case mended.Load():
			return relaytest.Confirm
		case e.Event.Type == "Stuck":
			return relaytest.Reject
		case e.Event.Type == "Unwanted":
			return relaytest.Refuse
		}
		return relaytest.Confirm
	})
	run := func() (stop func()) {
		r, err := relay.New(store, broker, relay.Config{Lanes: 2, PageEvents: 4, BackoffMax: 200 * time.Millisecond, Logger: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		return background(t, r.Run)
	}
	stop := run()

	key := map[int]string{} // of each lane
	for n := 0; len(key) < 2; n++ {
		k := fmt.Sprint("k", n)
		key[(&surepost.Event{Key: k}).Slot()%2] = k
	}
	keyless := func(id string) string { // of the lane that isn't held up
		for (&surepost.Event{ID: id}).Slot()%2 != 0 {
			id += "_"
		}
		return id
	}
	kept, unkeyed := keyless("kept"), keyless("unkeyed")
	of := func(id, typ, key string) surepost.Event { return surepost.Event{ID: id, Type: typ, Key: key} }
	box := newBox(t, store)
	write(t, pool, box, of("stuck", "Stuck", key[1]), of("first", "T", key[0]), of("no", "Unwanted", key[0]), of("behind", "T", key[0]),
		of("neither", "Unwanted", key[0]), of(kept, "Unwanted", ""), of(unkeyed, "Unwanted", ""))
	parked := func() (ids []string) {
		list, err := store.Parked(t.Context(), relay.ParkedFilter{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			ids = append(ids, p.Event.ID)
		}
		return ids
	}
	published := func() (ids []string) {
		for _, e := range broker.Published() {
			ids = append(ids, e.ID)
		}
		return ids
	}
	eventually(t, "five are parked", func() bool { return len(parked()) == 5 })
	unwanted := []string{"no", "neither", unkeyed}
	if n, err := store.DiscardParked(t.Context(), relay.ParkedFilter{IDs: unwanted}, "test"); n != 3 || err != nil {
		t.Fatalf("discarded %d, %v", n, err)
	}
	eventually(t, "what waited behind the discarded event is published", func() bool { return slices.Contains(published(), "behind") })

	stop()
	mended.Store(true)
	if err := store.SetLanes(t.Context(), "default", 1); err != nil {
		t.Fatal(err)
	}
	run()
	write(t, pool, box, of("last", "T", key[1]))
	eventually(t, "the last is published", func() bool { return slices.Contains(published(), "last") })
	awaitCheckpoint(t, pool)
	if n := strings.Count(strings.Join(published(), " "), "first"); n != 2 {
		t.Errorf("the test doesn't bite: the new lane has published %q", published())
	}
	for _, id := range unwanted {
		if slices.Contains(published(), id) {
			t.Errorf("%s was discarded, and published: %q", id, published())
		}
	}
	if got := parked(); !slices.Equal(got, []string{kept}) {
		t.Errorf("parked are %q, want only what wasn't discarded", got)
	}
}

// An operator discards an event that was parked and read again, at the very moment at which it is parked again: the checkpoint's
// statement has begun, and so sees the discard's row only as something that is in the way.
func TestADiscardThatMeetsACheckpointWins(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	write(t, pool, newBox(t, store), surepost.Event{ID: "x", Type: "T", Key: "k"})
	log, _ := openLog(t, store, "a")
	page, err := log.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	parked := []relay.Parked{{Entry: page.Entries[0], Reason: "r"}}
	if err := log.Checkpoint(t.Context(), page.After, parked); err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	// What DiscardParked does in one statement, held open.
	for _, statement := range []string{
		"INSERT INTO surepost_parked_action (action, by, destination, seq, event_id, type, key, reason) SELECT 'discard', 'test', destination, seq, id, type, key, reason FROM surepost_parked",
		"DELETE FROM surepost_parked",
	} {
		if _, err := tx.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	stored := make(chan error, 1)
	go func() { stored <- log.Checkpoint(t.Context(), page.After, parked) }()
	// It is done, or waits for the discard.
	eventually(t, "the checkpoint has come to the discarded row", func() bool {
		waits := count(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'WITH held AS%'")
		return len(stored) > 0 || waits > 0
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := await(t, stored); err != nil {
		t.Fatal(err)
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_parked"); n != 0 {
		t.Errorf("what was discarded is parked again")
	}
}

// A relay's role that was granted what the previous version asked for may go on: the migration grants it the right to see
// discards.
func TestTheMigrationLetsRelaysSeeDiscards(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	script, _, _ := strings.Cut(store.MigrationSQL(0), "\n-- Migration 009")
	role, other := fmt.Sprint("relay_before_009_", os.Getpid()), fmt.Sprint("producer_before_009_", os.Getpid())
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), fmt.Sprintf("DROP OWNED BY %s, %s; DROP ROLE %[1]s, %[2]s", role, other))
		if err != nil {
			t.Error(err)
		}
	})
	execSQL(t, pool, "CREATE SCHEMA old", "SET search_path = old; "+script+"; CREATE ROLE "+role+"; CREATE ROLE "+other+
		"; GRANT SELECT, INSERT, DELETE ON surepost_checkpoint TO "+role+"; GRANT INSERT ON surepost_outbox TO "+other+"; RESET search_path")
	config := pool.Config()
	config.ConnConfig.RuntimeParams["search_path"] = "old"
	oldPool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(oldPool.Close)
	old := pgxstore.New(oldPool)
	t.Cleanup(func() { old.Close(context.Background()) })
	if _, err := old.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{role: "SELECT", other: ""} {
		var got string
		err := oldPool.QueryRow(t.Context(), "SELECT concat_ws(', ', CASE WHEN has_table_privilege($1, 'surepost_parked_action', 'SELECT') THEN 'SELECT' END, "+
			"CASE WHEN has_table_privilege($1, 'surepost_parked_action', 'INSERT, UPDATE, DELETE') THEN 'more' END)", name).Scan(&got)
		if err != nil || got != want {
			t.Errorf("%s was granted %q (%v), want %q", name, got, err, want)
		}
	}
}
