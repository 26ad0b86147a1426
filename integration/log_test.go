package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

func write(t *testing.T, pool *pgxpool.Pool, box *outbox.Outbox[pgx.Tx], events ...surepost.Event) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return box.Write(t.Context(), tx, events...) })
	if err != nil {
		t.Fatal(err)
	}
}

func numbered(n int) []surepost.Event {
	events := make([]surepost.Event, n)
	for i := range events {
		events[i] = surepost.Event{Type: "Numbered", Key: fmt.Sprint("k", i%7), Data: i}
	}
	return events
}

// execSQL runs statements one after the other.
func execSQL(t *testing.T, pool *pgxpool.Pool, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := pool.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func begin(t *testing.T, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// Neither a transaction that writes elsewhere, nor one that has written events, nor a reader's snapshot, nor a
// prepared transaction holds anybody else's events up.
func TestAHeldTransactionHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	execSQL(t, pool, "CREATE TABLE other (n int)")

	elsewhere := begin(t, pool)
	if _, err := elsewhere.Exec(t.Context(), "INSERT INTO other VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	held := begin(t, pool)
	if err := box.Write(t.Context(), held, surepost.Event{ID: "late", Type: "Held"}); err != nil {
		t.Fatal(err)
	}
	reader, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(context.Background())
	if _, err := reader.Exec(t.Context(), "SELECT count(*) FROM surepost_outbox"); err != nil {
		t.Fatal(err)
	}
	prepared := begin(t, pool)
	if err := box.Write(t.Context(), prepared, surepost.Event{ID: "prepared", Type: "Held"}); err != nil {
		t.Fatal(err)
	}
	execTx(t, prepared, "PREPARE TRANSACTION 'held'")
	_ = prepared.Rollback(t.Context())

	log, _ := openLog(t, store, "a")
	for n := range 5 {
		write(t, pool, box, numbered(10)...)
		if got := readAll(t, log, 100); len(got) != 10 {
			t.Fatalf("round %d: %d events came, want the 10 that were committed", n, len(got))
		}
	}
	if err := held.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	execSQL(t, pool, "COMMIT PREPARED 'held'")
	if got := readAll(t, log, 100); len(got) != 2 || got[0].Event.ID != "late" || got[1].Event.ID != "prepared" {
		t.Errorf("after their commits came %v, want the two held events", got)
	}
}

func execTx(t *testing.T, tx pgx.Tx, statement string) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// A large transaction that commits late fills many pages with stragglers, across a take-over, while others write on.
func TestManyStragglersComeInPages(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	log, _ := openLog(t, store, "a")

	large, second := begin(t, pool), begin(t, pool)
	for range 4 {
		for _, tx := range []pgx.Tx{large, second} {
			if err := box.Write(t.Context(), tx, numbered(600)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, pool, box, numbered(10)...)
	if got := readAll(t, log, 100); len(got) != 10 {
		t.Fatalf("%d events, want 10", len(got))
	}
	if err := large.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var last int64
	take := func(p relay.Page) {
		for _, e := range p.Entries {
			if seen[e.Event.ID] {
				t.Fatalf("event %d came twice", e.Seq)
			}
			seen[e.Event.ID] = true
			if e.Seq < last && p.Stragglers == 0 {
				t.Fatalf("seq %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
	}
	for n := 0; len(seen) < 4800+50; n++ {
		if n > 200 {
			t.Fatalf("%d events came, want 4850", len(seen))
		}
		p, err := log.Read(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		take(p)
		switch n {
		case 5: // in the middle of large's stragglers: the rest of second's must not be mixed in before its turn
			if err := second.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			write(t, pool, box, numbered(50)...)
		case 10: // a successor goes on from the checkpoint, pin included
			if err := log.Checkpoint(t.Context(), p.After, nil); err != nil {
				t.Fatal(err)
			}
			_ = log.Close(t.Context())
			log, _ = openLog(t, store, "a")
		}
	}
	if got := readAll(t, log, 100); len(got) != 0 {
		t.Errorf("%d events came after all", len(got))
	}
}

// What a relay reads must not depend on the transaction ids of the cluster that the log was written in.
func TestARestoredDumpGoesOn(t *testing.T) {
	t.Parallel()
	from, fromStore := newPool(t)
	box := newBox(t, fromStore)
	execSQL(t, from, "DO $$ BEGIN FOR i IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$") // an old cluster
	write(t, from, box, numbered(30)...)
	log, _ := openLog(t, fromStore, "a")
	page, err := log.Read(t.Context(), 20)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}

	to, toStore := newPool(t, harness.Private()) // a young cluster
	copyLog(t, from, to)
	execSQL(t, to, "SELECT setval('surepost_sequence', 30)")
	write(t, to, newBox(t, toStore), numbered(5)...)
	restored, _ := openLog(t, toStore, "a")
	if got := readAll(t, restored, 100); len(got) != 15 {
		t.Errorf("%d events came from the restored log, want the 10 unread ones and 5 new ones", len(got))
	}
}

// copyLog copies the log and its checkpoints, as dump and restore do.
func copyLog(t *testing.T, from, to *pgxpool.Pool) {
	t.Helper()
	copyTable(t, from, to, "surepost_outbox", "tx, seq, time, slot, id, type, version, source, key, correlation_id, causation_id, category, headers, data")
	copyTable(t, from, to, "surepost_checkpoint", "destination, lane, epoch, n, hot, snap, next, at")
	copyTable(t, from, to, "surepost_lease", "destination, lane, lanes, owner, epoch, expires_at")
}

func copyTable(t *testing.T, from, to *pgxpool.Pool, table, columns string) {
	t.Helper()
	rows, err := from.Query(t.Context(), "SELECT row_to_json(r)::text FROM (SELECT "+columns+" FROM "+table+") r")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if _, err := to.Exec(t.Context(), "INSERT INTO "+table+" ("+columns+") OVERRIDING SYSTEM VALUE SELECT "+columns+
			" FROM json_populate_record(NULL::"+table+", $1::text::json)", line); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASequenceBehindTheCursorHaltsTheLane(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	write(t, pool, box, numbered(50)...)
	log, _ := openLog(t, store, "a")
	page, err := log.Read(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}
	execSQL(t, pool, "ALTER TABLE surepost_outbox ALTER COLUMN seq RESTART")
	write(t, pool, box, numbered(3)...)
	if _, err = log.Read(t.Context(), 100); err == nil || errors.Is(err, relay.ErrHalt) {
		t.Fatalf("first read: %v, want the checkpoint to be read again", err)
	}
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "default", Of: 1}, "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), lease)
	if !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), "setval") {
		t.Fatalf("read: %v, want a halt that names setval", err)
	}

	// The remedy is one that works.
	applyRemedy(t, pool, err)
	log, _ = openLog(t, store, "a")
	if got := readAll(t, log, 100); len(got) != 6 {
		t.Errorf("%d events came after the remedy, want the 3 written since and the 3 that had their numbers before", len(got))
	}
}

// applyRemedy runs what a halt says is to be run.
func applyRemedy(t *testing.T, pool *pgxpool.Pool, halt error) {
	t.Helper()
	_, remedy, _ := strings.Cut(halt.Error(), "then run: ")
	remedy, _, _ = strings.Cut(remedy, "; and start")
	execSQL(t, pool, strings.Split(remedy, "; ")...)
}

// A sequence that was set back and has passed the cursor again must not go unnoticed either.
func TestASequenceThatWasSetBackWhileTheRelayWasDownHaltsTheLane(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	write(t, pool, box, numbered(30)...)
	log, lease := openLog(t, store, "a")
	page, err := log.Read(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}
	_ = log.Close(t.Context())
	execSQL(t, pool, "TRUNCATE surepost_outbox RESTART IDENTITY")
	write(t, pool, box, numbered(40)...)
	_, err = store.Open(t.Context(), lease)
	if !errors.Is(err, relay.ErrHalt) {
		t.Fatalf("open: %v, want a halt", err)
	}
	applyRemedy(t, pool, err)
	log, _ = openLog(t, store, "a")
	if got := readAll(t, log, 100); len(got) != 40 {
		t.Errorf("%d events came after the remedy, want all 40", len(got))
	}
}

// The remedy must also be right where the log was copied into a younger cluster without its sequence.
func TestTheRemedyHoldsInAYoungerCluster(t *testing.T) {
	t.Parallel()
	from, fromStore := newPool(t)
	execSQL(t, from, "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
	write(t, from, newBox(t, fromStore), numbered(30)...)
	log, _ := openLog(t, fromStore, "a")
	page, err := log.Read(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}
	to, toStore := newPool(t, harness.Private())
	copyLog(t, from, to)
	write(t, to, newBox(t, toStore), numbered(5)...)
	lease, err := toStore.Acquire(t.Context(), relay.Lane{Destination: "default", Of: 1}, "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := toStore.Open(t.Context(), lease)
	if err == nil {
		_, err = restored.Read(t.Context(), 100)
	}
	if !errors.Is(err, relay.ErrHalt) {
		t.Fatalf("%v, want a halt", err)
	}
	applyRemedy(t, to, err)
	restored, _ = openLog(t, toStore, "a")
	if got := readAll(t, restored, 100); len(got) != 10 {
		t.Errorf("%d events came after the remedy, want the 5 new ones and the 5 that had their numbers before", len(got))
	}
}

// One odd row, written by hand or by another language, must not hold up the log.
func TestAnOddRowHoldsUpNobody(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	for _, bad := range []string{
		`SELECT surepost_write('T', '1', source => 's', "time" => 'infinity')`,
		`SELECT surepost_write('T', '1', source => 's', "time" => '0044-03-15 BC')`,
		`SELECT surepost_write('T', '1', source => 's', headers => '{"CC": "q"}')`,
	} {
		if _, err := pool.Exec(t.Context(), bad); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
	execSQL(t, pool, `INSERT INTO surepost_outbox (time, slot, id, type, version, source, headers, data) VALUES
		(now(), 1, 'i', 't', '1', 's', '{"n": 1, "s": "x", "o": {"a": null}}', '1'),
		('infinity', 1, 'late', 't', '1', 's', NULL, '1'), ('0044-03-15 BC', 1, 'early', 't', '1', 's', NULL, '1'),
		(now(), 1, 'listed', 't', '1', 's', '[]', '1'), (now(), 1, 'uncategorised', 't', '1', 's', NULL, '1')`)
	log, _ := openLog(t, store, "a")
	got := readAll(t, log, 10)
	if len(got) != 5 || got[0].Event.Headers["n"] != "1" || got[0].Event.Headers["s"] != "x" || got[0].Event.Headers["o"] != `{"a": null}` ||
		!got[1].Event.Time.IsZero() || !got[2].Event.Time.IsZero() || len(got[3].Event.Headers) != 0 {
		t.Errorf("%+v", got)
	}
}

// After a failover that lost the tail, epochs are given out twice: the owner must be the same as well.
func TestAnEpochThatIsGivenOutTwiceFencesStill(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	log, lease := openLog(t, store, "second")
	page, err := log.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	execSQL(t, pool, "UPDATE surepost_lease SET epoch = epoch - 1, owner = 'first', expires_at = now() - interval '1 s'") // the tail is lost
	third, err := store.Acquire(t.Context(), lease.Lane, "third", time.Minute)
	if err != nil || third.Epoch != lease.Epoch {
		t.Fatalf("%+v, %v", third, err)
	}
	if err := store.Renew(t.Context(), lease, time.Minute); !errors.Is(err, relay.ErrLeaseLost) {
		t.Errorf("renewal: %v", err)
	}
	if err := log.Checkpoint(t.Context(), page.After, nil); !errors.Is(err, relay.ErrLeaseLost) {
		t.Errorf("checkpoint: %v", err)
	}
	if _, err := log.Unpark(t.Context(), nil, nil, []string{"k"}); !errors.Is(err, relay.ErrLeaseLost) {
		t.Errorf("unpark: %v", err)
	}
	if err := store.Release(t.Context(), lease); err != nil {
		t.Error(err)
	}
	if err := store.Renew(t.Context(), third, time.Minute); err != nil {
		t.Errorf("the release of a lost lease ended another's: %v", err)
	}
}

// Behind a pooler, the server under a log may change between a read and its checkpoint: the position belongs to the
// old one.
func TestACheckpointBelongsToItsServer(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	pool, store := poolOn(t, server.URL())
	box := newBox(t, store)
	write(t, pool, box, numbered(50)...)
	pooler := &pooler{url: server.URL()}
	db := sql.OpenDB(pooler)
	defer db.Close()
	hidden := sqlstore.New(db)
	log, lease := openLog(t, hidden, "a")
	page, err := log.Read(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	server.Restart(t)
	pool.Reset()
	pooler.reconnect(t)
	execSQL(t, pool, "DELETE FROM surepost_outbox WHERE seq > 40", "SELECT setval('surepost_sequence', 40)") // the tail is lost
	write(t, pool, box, numbered(20)...)
	if err := log.Checkpoint(t.Context(), page.After, nil); err == nil {
		t.Error("a position of the lost server was stored on the new one")
	}
	if _, err := log.Read(t.Context(), 100); err == nil {
		t.Error("the log was read on with a cursor of the lost server")
	}
	again, err := hidden.Open(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(t.Context())
	if got := readAll(t, again, 100); len(got) != 60 {
		t.Errorf("%d events came, want the 40 that survived and the 20 new ones", len(got))
	}
}

func TestChangedTablesAreRefusedAtStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ change, want string }{
		"sequence with a cache": {"ALTER SEQUENCE surepost_sequence CACHE 20", "CACHE 1"},
		"sequence that skips":   {"ALTER SEQUENCE surepost_sequence INCREMENT 10", "INCREMENT 1"},
		"no default for tx":     {"ALTER TABLE surepost_outbox ALTER COLUMN tx SET DEFAULT '3'", "pg_current_xact_id"},
		"migration missing":     {"DELETE FROM surepost_migration", "001_initial"},
		"not migrated":          {"DROP TABLE surepost_migration", "Store.Migrate"},
	} {
		t.Run(name, func(t *testing.T) {
			pool, store := newPool(t)
			if err := store.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			execSQL(t, pool, c.change)
			err := store.Check(t.Context())
			if !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want a halt that mentions %q", err, c.want)
			}
		})
	}
}

func TestALostLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	write(t, pool, newBox(t, store), numbered(3)...)
	lane := relay.Lane{Destination: "default", Of: 1}
	log, lease := openLog(t, store, "old")
	page, err := log.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	var held *relay.LeaseHeldError
	if _, err := store.Acquire(t.Context(), lane, "new", time.Minute); !errors.As(err, &held) || held.Owner != "old" || held.Expires < 50*time.Second {
		t.Fatalf("a second owner got %v, want to be told that old holds it for a minute", err)
	}
	execSQL(t, pool, "UPDATE surepost_lease SET expires_at = clock_timestamp() - interval '1 ms'")
	successor, err := store.Acquire(t.Context(), lane, "new", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if successor.Epoch != lease.Epoch+1 {
		t.Errorf("epoch %d after %d", successor.Epoch, lease.Epoch)
	}
	if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: page.Entries[0], Reason: "x"}}); !errors.Is(err, relay.ErrLeaseLost) {
		t.Errorf("checkpoint of the old owner: %v, want ErrLeaseLost", err)
	}
	if _, err := log.Unpark(t.Context(), page.Entries, nil, nil); !errors.Is(err, relay.ErrLeaseLost) {
		t.Errorf("unpark of the old owner: %v, want ErrLeaseLost", err)
	}
	if err := store.Renew(t.Context(), lease, time.Minute); !errors.Is(err, relay.ErrLeaseLost) {
		t.Errorf("renewal of the old owner: %v, want ErrLeaseLost", err)
	}
	if err := store.Release(t.Context(), lease); err != nil {
		t.Errorf("release of the old owner: %v, want nothing to happen", err)
	}
	if err := store.Renew(t.Context(), successor, time.Minute); err != nil {
		t.Errorf("renewal of the new owner: %v", err)
	}
	var checkpoints, parked int
	if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM surepost_checkpoint), (SELECT count(*) FROM surepost_parked)").Scan(&checkpoints, &parked); err != nil || checkpoints+parked != 0 {
		t.Errorf("the old owner left %d checkpoints and %d parked events (%v)", checkpoints, parked, err)
	}
}

// After a restart, possibly hidden by a pooler, the cursor in memory is of no use any more.
func TestACursorDoesNotOutliveItsServer(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	pool, store := poolOn(t, server.URL())
	log, _ := openLog(t, store, "a")
	readAll(t, log, 10)
	server.Restart(t)
	if _, err := log.Read(t.Context(), 10); err == nil {
		t.Error("the log could be read on after the server had restarted")
	}
	pool.Reset()
	if _, err := store.Acquire(t.Context(), relay.Lane{Destination: "default", Of: 1}, "a", time.Minute); err == nil {
		t.Error("the connection for leases survived the restart")
	}
	log, _ = openLog(t, store, "a")
	write(t, pool, newBox(t, store), numbered(3)...)
	if got := readAll(t, log, 10); len(got) != 3 {
		t.Errorf("%d events after the restart, want 3", len(got))
	}
}

func TestParkingIsStoredWithItsCheckpoint(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	event := func(id, key string) surepost.Event {
		return surepost.Event{ID: id, Type: "T", Key: key, Headers: map[string]string{"h": "v"}}
	}
	write(t, pool, box, event("a1", "a"), event("a2", "a"), event("a3", "a"), event("b1", "b"), event("n1", ""), event("n2", ""))
	log, _ := openLog(t, store, "x")
	page, err := log.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	e := page.Entries
	parked := []relay.Parked{{Entry: e[0], Reason: "no \"queue\" {} \\"}, {Entry: e[1], Behind: true, Reason: "behind a1"}, {Entry: e[3], Reason: "too big"}, {Entry: e[4], Reason: "no queue"}}
	for range 2 { // twice: the first may have been stored although it failed
		if err := log.Checkpoint(t.Context(), page.After, parked); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err := log.ParkedKeys(t.Context()); err != nil || len(keys) != 2 {
		t.Errorf("parked keys %v, %v; want a and b", keys, err)
	}
	list, err := store.Parked(t.Context(), relay.ParkedFilter{}, 10)
	if err != nil || len(list) != 4 || list[0].Reason != "no \"queue\" {} \\" || list[0].Event.Headers["h"] != "v" || !list[1].Behind {
		t.Fatalf("parked: %+v, %v", list, err)
	}
	released := func(want ...string) []relay.Entry {
		t.Helper()
		entries, err := log.Released(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, e := range entries {
			ids = append(ids, e.Event.ID)
		}
		if fmt.Sprint(ids) != fmt.Sprint(want) {
			t.Fatalf("released %v, want %v", ids, want)
		}
		return entries
	}
	released()
	if n, err := store.RetryParked(t.Context(), relay.ParkedFilter{IDs: []string{"a1", "n1"}}, "test"); n != 2 || err != nil {
		t.Fatalf("retried %d, %v", n, err)
	}
	got := released("a1", "a2", "n1")
	// a1 is published, a2 fails for a reason of its own now.
	clear, err := log.Unpark(t.Context(), []relay.Entry{got[0], got[2]}, []relay.Parked{{Entry: got[1], Reason: "own"}}, []string{"a"})
	if err != nil || len(clear) != 0 {
		t.Fatalf("clear %v, %v; want none", clear, err)
	}
	released()
	if n, err := store.DiscardParked(t.Context(), relay.ParkedFilter{Key: "a"}, "test"); n != 1 || err != nil {
		t.Fatalf("discarded %d, %v", n, err)
	}
	if clear, err := log.Unpark(t.Context(), nil, nil, []string{"a", "b"}); err != nil || fmt.Sprint(clear) != "[a]" {
		t.Fatalf("clear %v, %v; want a", clear, err)
	}
}

// Checkpoints don't pile up.
func TestOldCheckpointsAreRemoved(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	log, _ := openLog(t, store, "a")
	page, err := log.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
			t.Fatal(err)
		}
	}
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM surepost_checkpoint").Scan(&n); err != nil || n > 300 {
		t.Errorf("%d checkpoints are there (%v), want at most 300", n, err)
	}
}

// The relay's statements must stay index scans whatever the planner believes.
func TestReadsStayFlat(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, `INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
		SELECT now(), 1, 'e' || n, 'T', '1.0', 's', 'k' || n % 5000, '{}' FROM generate_series(1, 300000) n`)
	log, _ := openLog(t, store, "a")
	before := scannedRows(t, pool) // of the building of the indexes
	for range 10 {
		if _, err := log.Read(t.Context(), 500); err != nil {
			t.Fatal(err)
		}
	}
	execSQL(t, pool, "ANALYZE surepost_outbox")
	for range 20 {
		if _, err := log.Read(t.Context(), 500); err != nil {
			t.Fatal(err)
		}
	}
	if n := scannedRows(t, pool) - before; n > 0 {
		t.Errorf("30 reads scanned %d rows of the log from end to end", n)
	}
}

func scannedRows(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	time.Sleep(1500 * time.Millisecond) // a session reports its statistics once a second
	execSQL(t, pool, "SELECT pg_stat_clear_snapshot()")
	return count(t, pool, "SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_user_tables WHERE relname LIKE 'surepost\\_outbox\\__'")
}

// An optional lock gives order per key to writers that don't serialise by themselves.
func TestLockKeysMakesWritersOfAKeyWait(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box, err := outbox.New(store, outbox.Config{Source: "test", LockKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	first := begin(t, pool)
	if err := box.Write(t.Context(), first, surepost.Event{Type: "T", Key: "k"}); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		second <- pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			return box.Write(t.Context(), tx, surepost.Event{Type: "T", Key: "k"}, surepost.Event{Type: "T", Key: "j"})
		})
	}()
	write(t, pool, box, surepost.Event{Type: "T", Key: "other"})
	select {
	case err := <-second:
		t.Fatalf("a second writer of the key didn't wait (%v)", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

// A wrong URL is found by Check, with what to look at and without the password.
func TestAWrongURLIsExplained(t *testing.T) {
	t.Parallel()
	good := harness.Start(t, harness.Postgres()).Postgres.URL()
	for name, c := range map[string]struct{ change, to, want string }{
		"port":     {":" + portOf(t, good) + "/", ":1/", "is it running"},
		"database": {"?", "_missing?", "create the database"},
		"user":     {"//", "//nobody:secret@", "user and password"},
	} {
		url := good
		if name == "user" {
			url = "postgres://nobody:secret@" + good[strings.Index(good, "@")+1:]
		} else {
			url = strings.Replace(good, c.change, c.to, 1)
		}
		pool, err := pgxpool.New(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		err = pgxstore.New(pool).Check(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want a mention of %q and no password", name, err, c.want)
		}
		pool.Close()
	}
}

func portOf(t *testing.T, url string) string {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(config.ConnConfig.Port)
}

// A relay that finds the log empty must not take the number that the sequence will give out next for one that it has
// given out.
func TestTheVeryFirstEventIsNotLost(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	log, _ := openLog(t, store, "a")
	if got := readAll(t, log, 10); len(got) != 0 {
		t.Fatalf("%d events in a new log", len(got))
	}
	execSQL(t, pool, "SELECT pg_current_xact_id()") // others use transaction ids meanwhile
	write(t, pool, newBox(t, store), numbered(1)...)
	if got := readAll(t, log, 10); len(got) != 1 {
		t.Errorf("%d events came, want the first", len(got))
	}
	execSQL(t, pool, "ALTER SEQUENCE surepost_sequence RESTART WITH 1")
	if _, err := log.Read(t.Context(), 10); err == nil {
		t.Error("a sequence that will give out 1 again wasn't noticed")
	}
}

// A transaction with so many savepoints that its ids aren't listed one by one is found by range.
func TestAStragglerAmongManySavepointsIsNotSkipped(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	execSQL(t, pool, "CREATE TABLE other (n int)")
	write(t, pool, box, numbered(1)...)
	log, _ := openLog(t, store, "a")
	readAll(t, log, 10)
	tx := begin(t, pool)
	for range 700 {
		execTx(t, tx, "SAVEPOINT s")
		execTx(t, tx, "INSERT INTO other VALUES (1)")
		execTx(t, tx, "RELEASE s")
	}
	late := begin(t, pool) // its id lies above all of those
	for _, tx := range []pgx.Tx{tx, late} {
		if err := box.Write(t.Context(), tx, numbered(1)...); err != nil {
			t.Fatal(err)
		}
	}
	if got := readAll(t, log, 10); len(got) != 0 {
		t.Fatalf("%d uncommitted events came", len(got))
	}
	for _, tx := range []pgx.Tx{late, tx} {
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, log, 10); len(got) != 1 {
			t.Errorf("%d events came after a commit, want 1", len(got))
		}
	}
}

// What a successor has stored ends a lease that was held before, and a log that is opened again goes on counting.
func TestReopeningALogKeepsTheNewestCheckpoint(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	write(t, pool, newBox(t, store), numbered(30)...)
	log, old := openLog(t, store, "a")
	for range 3 {
		page, err := log.Read(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
			t.Fatal(err)
		}
		if log, err = store.Open(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = log.Close(context.Background()) })
	}
	if got := readAll(t, log, 10); len(got) != 0 {
		t.Errorf("%d events came again", len(got))
	}
	next, lease := openLog(t, store, "a")
	page, err := next.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Checkpoint(t.Context(), page.After, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), old); !errors.Is(err, relay.ErrLeaseLost) || lease.Epoch == old.Epoch {
		t.Errorf("the old lease: %v, want ErrLeaseLost", err)
	}
}
