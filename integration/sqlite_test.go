package integration

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

const sqliteOptions = "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=synchronous(NORMAL)&_txlock=immediate"

func openSQLite(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// newSQLite returns a handle and a store on a migrated file of the test's own.
func newSQLite(t *testing.T) (file string, db *sql.DB, store *sqlitestore.Store) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "test.db")
	db = openSQLite(t, "file:"+file+sqliteOptions)
	store = sqlitestore.New(db)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return file, db, store
}

func inSQLTx(ctx context.Context, db *sql.DB, work func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

func TestSQLiteGivesBackTheEventThatWasWritten(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	if err := store.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	box := newBox(t, store)
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, fullEvent) }); err != nil {
		t.Fatal(err)
	}
	many := make([]surepost.Event, 1000)
	for i := range many {
		many[i] = surepost.Event{ID: fmt.Sprint("e", i), Type: "T", Data: i}
	}
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, many...) }); err != nil {
		t.Fatal(err)
	}
	log, lease := openLog(t, store, "a")
	got := readAll(t, log, 300)
	if len(got) != 1001 || mustJSON(got[0].Event) != mustJSON(fullEvent) {
		t.Fatalf("%d events, the first %s\nwant %s", len(got), mustJSON(got[0].Event), mustJSON(fullEvent))
	}
	for i := range many {
		if got[i+1].Event.ID != many[i].ID {
			t.Fatalf("event %d is %s, want %s", i, got[i+1].Event.ID, many[i].ID)
		}
	}
	page, err := log.Read(t.Context(), 10)
	if err != nil || len(page.Entries) != 0 {
		t.Fatal(page, err)
	}
	if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: got[0], Reason: "r"}}); err != nil {
		t.Fatal(err)
	}
	if keys, err := log.ParkedKeys(t.Context()); err != nil || len(keys) != 1 || keys[0] != fullEvent.Key {
		t.Error(keys, err)
	}
	if list, err := store.Parked(t.Context(), relay.ParkedFilter{IDs: []string{fullEvent.ID}}, 10); err != nil || len(list) != 1 || mustJSON(list[0].Event) != mustJSON(fullEvent) {
		t.Error(list, err)
	}
	if err := store.Renew(t.Context(), lease, 1e9); err != nil {
		t.Error(err)
	}
}

// sqliteFlow is the whole path on one file: writers, a relay, an AMQP broker in this process, a consumer.
type sqliteFlow struct {
	dsn    string
	db     *sql.DB
	store  *sqlitestore.Store
	box    *outbox.Outbox[*sql.Tx]
	broker *amqptest.Broker
}

func newSQLiteFlow(t *testing.T) *sqliteFlow {
	t.Helper()
	file, db, store := newSQLite(t)
	f := &sqliteFlow{dsn: "file:" + file + sqliteOptions, db: db, store: store, box: newBox(t, store)}
	mustExec(t, db, "CREATE TABLE aggregate (key TEXT PRIMARY KEY, version INTEGER NOT NULL)",
		"CREATE TABLE effect (nth INTEGER PRIMARY KEY, key TEXT NOT NULL, version INTEGER NOT NULL)")
	for n := range 8 {
		mustExec(t, db, fmt.Sprintf("INSERT INTO aggregate VALUES ('k%d', 0)", n))
	}
	var err error
	if f.broker, err = amqptest.Start(amqptest.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.broker.Close)
	return f
}

func mustExec(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func number(t *testing.T, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// another returns a store on the file with a handle of its own, as another process has it.
func (f *sqliteFlow) another(t *testing.T) *sqlitestore.Store {
	return sqlitestore.New(openSQLite(t, f.dsn))
}

func (f *sqliteFlow) startRelay(t *testing.T, store relay.Store) (*relay.Relay, func()) {
	t.Helper()
	r, err := relay.New(store, newPublisher(t, f.broker.URL()), relay.Config{LeaseTTL: 2 * time.Second, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r, background(t, r.Run)
}

// startConsumer notes every change as an effect, and every event that should not be there.
func (f *sqliteFlow) startConsumer(t *testing.T, store *sqlitestore.Store, queue string, types ...string) (stop func()) {
	t.Helper()
	in := newInbox(t, store, queue)
	for _, kind := range types {
		in.On(kind, func(ctx context.Context, tx *sql.Tx, e surepost.Event) error {
			var c changed
			if err := e.Decode(&c); err != nil {
				return err
			}
			if e.Type != "Changed" {
				c.Key = "ghost"
			}
			_, err := tx.ExecContext(ctx, "INSERT INTO effect (key, version) VALUES (?, ?)", c.Key, c.Version)
			return err
		})
	}
	connected := make(chan struct{}, 1)
	c, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{f.broker.URL()}}, Queue: queue, Types: in.Types(), Handler: in, Logger: logger(t),
		Hooks: amqp.ConsumerHooks{OnConnect: func() {
			select {
			case connected <- struct{}{}:
			default:
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = background(t, c.Run)
	<-connected
	return stop
}

// settled waits until every committed change has its effect, then checks promises 1 to 4.
func (f *sqliteFlow) settled(t *testing.T) (changes int) {
	t.Helper()
	want := number(t, f.db, "SELECT sum(version) FROM aggregate")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if number(t, f.db, "SELECT count(*) FROM effect") >= want {
			break
		}
	}
	got := number(t, f.db, "SELECT count(*) FROM effect")
	distinct := number(t, f.db, "SELECT count(*) FROM (SELECT DISTINCT key, version FROM effect)")
	if got != want || distinct != want || want == 0 {
		t.Errorf("%d changes committed, %d effects, %d distinct: lost %d, doubled %d", want, got, distinct, want-distinct, got-distinct)
	}
	if n := number(t, f.db, "SELECT count(*) FROM effect WHERE key = 'ghost'"); n != 0 {
		t.Errorf("%d events of transactions that rolled back were published", n)
	}
	if n := number(t, f.db, "SELECT count(*) FROM (SELECT version < lag(version) OVER (PARTITION BY key ORDER BY nth) AS back FROM effect) WHERE back"); n != 0 {
		t.Errorf("%d effects came before an earlier one of their key", n)
	}
	if n := number(t, f.db, "SELECT count(*) FROM surepost_parked"); n != 0 {
		t.Errorf("%d events were parked", n)
	}
	return want
}

// Writers in processes of their own are killed in the middle of their transactions, while two relays and a consumer
// work on the same file and the lease changes hands: nothing is lost, doubled or inverted, and nothing that was rolled back
// is published.
func TestSQLiteWritersThatAreKilledLoseNothing(t *testing.T) {
	t.Parallel()
	writer := filepath.Join(t.TempDir(), "sqlitewriter")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", writer, "./testdata/sqlitewriter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f := newSQLiteFlow(t)
	f.startConsumer(t, f.another(t), "effects", "Changed", "Refused")
	for range 2 {
		f.startRelay(t, f.another(t))
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for n := range 5 {
				process := exec.Command(writer)
				process.Env = append(os.Environ(), "SQLITE_DSN="+f.dsn)
				process.Stderr = t.Output()
				out, err := process.StdoutPipe()
				if err != nil {
					t.Error(err)
					return
				}
				if err := process.Start(); err != nil {
					t.Error(err)
					return
				}
				_, err = bufio.NewReader(out).ReadString('\n') // it writes
				if err != nil {
					t.Errorf("the writer didn't begin: %v", err)
				}
				time.Sleep(time.Duration(n*37) * time.Millisecond) // at no particular point of its work
				_ = process.Process.Kill()
				if err := process.Wait(); process.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Errorf("the writer ended by itself: %v", err)
				}
				if n%2 == 1 { // the relay's lease is taken from under it, as if it had been asleep
					mustExec(t, f.db, "UPDATE surepost_lease SET epoch = epoch + 1, owner = '', expires_at = 0")
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d events", f.settled(t))
}

// SetMaxOpenConns(1) is what many do with SQLite: writer, relay and consumer share the connection, even that of
// a database in memory.
func TestSQLiteOneConnectionIsEnough(t *testing.T) {
	t.Parallel()
	f := newSQLiteFlow(t)
	f.db = openSQLite(t, ":memory:")
	f.db.SetMaxOpenConns(1)
	f.store = sqlitestore.New(f.db)
	if _, err := f.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.store.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, f.db, "CREATE TABLE aggregate (key TEXT PRIMARY KEY, version INTEGER NOT NULL)", "INSERT INTO aggregate VALUES ('k', 0)",
		"CREATE TABLE effect (nth INTEGER PRIMARY KEY, key TEXT NOT NULL, version INTEGER NOT NULL)")
	f.startConsumer(t, f.store, "effects", "Changed")
	f.startRelay(t, f.store)
	for n := range 200 {
		err := inSQLTx(t.Context(), f.db, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), "UPDATE aggregate SET version = ?", n+1); err != nil {
				return err
			}
			return f.box.Write(t.Context(), tx, surepost.Event{Type: "Changed", Key: "k", Data: changed{"k", n + 1}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	f.settled(t)
}

// A transaction of database/sql is deferred: one that reads first fails at its write if another one wrote in between.
// The store's own never do, and one of the caller's gets to know what to change.
func TestSQLiteTransactionsThatReadFirstAreToldTheRemedy(t *testing.T) {
	t.Parallel()
	file, _, store := newSQLite(t)
	db := openSQLite(t, "file:"+file+"?_pragma=busy_timeout(10000)")
	box := newBox(t, store)
	event := surepost.Event{Type: "T", Data: 1}
	err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(t.Context(), "SELECT count(*) FROM surepost_outbox").Scan(&n); err != nil {
			return err
		}
		if err := inSQLTx(t.Context(), db, func(other *sql.Tx) error { return box.Write(t.Context(), other, event) }); err != nil {
			t.Fatal(err)
		}
		return box.Write(t.Context(), tx, event)
	})
	if err == nil || amqp.IsOutage(err) {
		t.Fatalf("%v, want a conflict", err)
	}
	wantWords(t, err, "read before it wrote", "_txlock=immediate")
}

// Handlers, attempts and checkpoints of many goroutines on deferred transactions wait for each other and never fail.
func TestSQLiteWritersWaitForEachOther(t *testing.T) {
	t.Parallel()
	file, _, _ := newSQLite(t)
	var wg sync.WaitGroup
	for g := range 4 {
		store := sqlitestore.New(openSQLite(t, "file:"+file+"?_pragma=busy_timeout(30000)&_pragma=synchronous(NORMAL)"))
		lease, err := store.Acquire(t.Context(), relay.Lane{Destination: fmt.Sprint("d", g), Of: 1}, "o", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		log, err := store.Open(t.Context(), lease)
		if err != nil {
			t.Fatal(err)
		}
		box := newBox(t, store)
		wg.Go(func() {
			for n := range 50 {
				id := fmt.Sprint(g, " ", n)
				page, err := log.Read(t.Context(), 10)
				attempts, errStart := store.StartAttempt(t.Context(), "c", id, 3)
				err = errors.Join(err, errStart, log.Checkpoint(t.Context(), page.After, nil),
					store.Transact(t.Context(), "c", []string{id, id + "x"}, func(tx *sql.Tx, first []bool) error {
						if !slices.Equal(first, []bool{true, true}) {
							t.Error(first)
						}
						return box.Write(t.Context(), tx, surepost.Event{ID: id, Type: "T"})
					}),
					store.FinishAttempt(t.Context(), "c", id, "no"), store.ForgetAttempts(t.Context(), "c", id), store.Renew(t.Context(), lease, time.Minute))
				if err != nil || attempts != 0 {
					t.Errorf("%s: %d attempts, %v", id, attempts, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// More rows and ids than one SQLite statement takes.
func TestSQLiteLargeBatchesAreOneTransaction(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	events := make([]surepost.Event, 3000)
	ids := make([]string, 12_000)
	for i := range ids {
		ids[i] = fmt.Sprint("id", i)
	}
	for i := range events {
		events[i] = surepost.Event{ID: ids[i], Type: "T", Data: i}
	}
	box := newBox(t, store)
	never := errors.New("no")
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return errors.Join(box.Write(t.Context(), tx, events...), never) }); err == nil || number(t, db, "SELECT count(*) FROM surepost_outbox") != 0 {
		t.Error("a rolled back batch left something")
	}
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, events...) }); err != nil {
		t.Fatal(err)
	}
	log, lease := openLog(t, store, "a")
	got := readAll(t, log, 1000)
	for i := range events {
		if len(got) != len(events) || got[i].Event.ID != ids[i] {
			t.Fatalf("%d events, number %d is %s", len(got), i, got[i].Event.ID)
		}
	}
	for _, recorded := range []bool{true, false} {
		err := store.Transact(t.Context(), "c", ids, func(_ *sql.Tx, first []bool) error {
			if len(first) != len(ids) || slices.Contains(first, !recorded) {
				t.Errorf("recorded %v: got something else", recorded)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	parked := make([]relay.Parked, len(got))
	for i := range got {
		parked[i] = relay.Parked{Entry: got[i], Reason: "r"}
	}
	if err := log.Checkpoint(t.Context(), (relay.Position)(nil), nil); err == nil {
		t.Error("a position of nobody was stored")
	}
	page, err := log.Read(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, parked); err != nil {
		t.Fatal(err)
	}
	if n, err := store.RetryParked(t.Context(), relay.ParkedFilter{IDs: ids}, "test"); err != nil || n != int64(len(events)) {
		t.Error(n, err)
	}
	released, err := log.Released(t.Context(), 20_000)
	if err != nil || len(released) != len(events) {
		t.Fatal(len(released), err)
	}
	if _, err := log.Unpark(t.Context(), released, nil, nil); err != nil || number(t, db, "SELECT count(*) FROM surepost_parked") != 0 {
		t.Error(lease, err)
	}
}

// A row that somebody wrote by hand must not hold up the log.
func TestSQLiteOddRowsDoNotHoldUpTheLog(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	mustExec(t, db, `INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, headers, data) VALUES
		(9223372036854775807, 0, 'late', 'T', '1', 's', 'k', '[1]', '1'), (-9223372036854775808, -1, 'early', 'T', '1', 's', '', 'no', 'no'),
		(-62135596800000000, 9999, 'first', 'T', '1', 's', 'k', '{"n": 1}', '{}')`)
	log, _ := openLog(t, store, "a")
	got := readAll(t, log, 10)
	if len(got) != 3 || !got[0].Event.Time.IsZero() || !got[1].Event.Time.IsZero() || got[2].Event.Time.Year() != 1 || got[2].Event.Headers["n"] != "1" {
		t.Errorf("%+v", got)
	}
}

// writeN writes events n, n+1, … of one key.
func writeN(t *testing.T, db *sql.DB, store *sqlitestore.Store, prefix string, n int) {
	t.Helper()
	box := newBox(t, store)
	for i := range n {
		err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error {
			return box.Write(t.Context(), tx, surepost.Event{ID: fmt.Sprint(prefix, i), Type: "T", Key: "k", Data: i})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func ids(entries []relay.Entry) string {
	var s []string
	for _, e := range entries {
		s = append(s, e.Event.ID)
	}
	return strings.Join(s, " ")
}

// The outbox was loaded from an older copy, and its checkpoints weren't: numbers behind the cursor are given out again.
// The lane halts, whether the numbers have caught up with the cursor or not, and goes on after the remedy.
func TestSQLiteAnOutboxThatWasSetBackHaltsTheLane(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]int{"numbers behind the cursor": 1, "numbers beyond the cursor": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, db, store := newSQLite(t)
			writeN(t, db, store, "a", 4)
			log, lease := openLog(t, store, "r")
			readAll(t, log, 10)
			page, err := log.Read(t.Context(), 10)
			if err != nil {
				t.Fatal(err)
			}
			if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
				t.Fatal(err)
			}
			mustExec(t, db, "DELETE FROM surepost_outbox WHERE seq > 2", "UPDATE sqlite_sequence SET seq = 2")
			writeN(t, db, store, "b", after)

			// In memory the cursor came from this log: it is dropped, and the checkpoint decides.
			if _, err := log.Read(t.Context(), 10); err == nil || errors.Is(err, relay.ErrHalt) {
				t.Fatalf("%v, want an error that makes the relay read its checkpoint again", err)
			}
			_, err = store.Open(t.Context(), lease)
			if !errors.Is(err, relay.ErrHalt) {
				t.Fatalf("%v, want a halt", err)
			}
			_, remedy, _ := strings.Cut(err.Error(), "transaction: ")
			remedy, _, _ = strings.Cut(remedy, " and start the relay")
			err = inSQLTx(t.Context(), db, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(t.Context(), remedy)
				return err
			})
			if err != nil {
				t.Fatalf("%s: %v", remedy, err)
			}
			again, err := store.Open(t.Context(), lease)
			if err != nil {
				t.Fatal(err)
			}
			want := "a0 a1 b0"
			for n := 1; n < after; n++ {
				want += fmt.Sprint(" b", n)
			}
			if got := ids(readAll(t, again, 10)); got != want {
				t.Errorf("after the remedy: %s, want %s", got, want)
			}
		})
	}
}

// The whole file is restored from an older copy, its checkpoints included, under a relay that runs: what is written to the
// copy is published, and nothing is skipped because of what the relay remembers.
func TestSQLiteARestoredFileSkipsNothing(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]int{"behind the cursor": 1, "beyond the cursor": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, db, store := newSQLite(t)
			writeN(t, db, store, "a", 2)
			_, lease := openLog(t, store, "r")
			copied := file + ".copy"
			if _, err := db.Exec("VACUUM INTO ?", copied); err != nil {
				t.Fatal(err)
			}
			writeN(t, db, store, "b", 2)
			log, err := store.Open(t.Context(), lease)
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(readAll(t, log, 10)); got != "a0 a1 b0 b1" {
				t.Fatal(got)
			}
			mustExec(t, db, fmt.Sprintf("ATTACH '%s' AS older", copied)) // db has had one connection so far
			err = inSQLTx(t.Context(), db, func(tx *sql.Tx) error {
				for _, table := range []string{"surepost_outbox", "surepost_checkpoint", "surepost_lease", "sqlite_sequence"} {
					if _, err := tx.ExecContext(t.Context(), fmt.Sprintf("DELETE FROM main.%s; INSERT INTO main.%[1]s SELECT * FROM older.%[1]s", table)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			writeN(t, db, store, "c", after)
			if page, err := log.Read(t.Context(), 10); err == nil || errors.Is(err, relay.ErrHalt) {
				t.Fatalf("read %s, %v, want an error that makes the relay read its checkpoint again", ids(page.Entries), err)
			}
			log, err = store.Open(t.Context(), lease)
			if err != nil {
				t.Fatal(err)
			}
			want := "a0 a1"
			for n := range after {
				want += fmt.Sprint(" c", n)
			}
			if got := ids(readAll(t, log, 10)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// What can't work is said at the start, each with its remedy, and halts the relay.
func TestSQLiteFilesThatCannotWorkAreNamedWithTheirRemedy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	migrated := func(name string) string {
		db := openSQLite(t, "file:"+path(name)+sqliteOptions)
		if _, err := sqlitestore.New(db).Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		return path(name)
	}
	good := "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(100)"
	if err := os.WriteFile(path("text"), []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	migrated("old")
	mustExec(t, openSQLite(t, path("old")), "DELETE FROM surepost_migration")
	migrated("byhand")
	mustExec(t, openSQLite(t, path("byhand")), "DROP TABLE surepost_outbox", "CREATE TABLE surepost_outbox (seq INTEGER PRIMARY KEY, id TEXT)")
	for _, test := range []struct {
		name, dsn string
		words     []string
	}{
		{"no tables", "file:" + path("empty") + good, []string{"no surepost_migration", "Store.Migrate", "Store.MigrationSQL"}},
		{"tables of an older version", "file:" + path("old") + good, []string{"missing: 001_initial", "Store.Migrate"}},
		{"outbox changed by hand", "file:" + path("byhand") + good, []string{"surepost_outbox", "AUTOINCREMENT", "Store.MigrationSQL"}},
		{"rollback journal, no timeout, no sync", "file:" + path("journal") + "?_pragma=busy_timeout(0)&_pragma=synchronous(OFF)",
			[]string{"journal_mode delete", "_pragma=journal_mode(WAL)", "_journal_mode=WAL", "busy_timeout is 0", "_busy_timeout=5000", "synchronous is OFF", "NORMAL"}},
		{"read-only", "file:" + migrated("readonly") + "?mode=ro&_pragma=busy_timeout(100)", []string{"able to write the file", "mode=ro"}},
		{"query only", "file:" + migrated("queryonly") + good + "&_pragma=query_only(1)", []string{"query_only is on"}},
		{"read-only path", "file:/proc/surepost.db" + good, []string{"check that the file's directory exists", "-wal and -shm"}},
		{"no such directory", "file:" + path("no/such.db") + good, []string{"check that the file's directory exists"}},
		{"not a database", "file:" + path("text") + good, []string{"isn't an SQLite database"}},
		{"in memory, many connections", ":memory:", []string{"in memory", "use a file", "SetMaxOpenConns(1)"}},
		{"shared memory", "file:shared?mode=memory&cache=shared&_pragma=read_uncommitted(1)", []string{"in memory", "read_uncommitted is on"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := sqlitestore.New(openSQLite(t, test.dsn)).Check(t.Context())
			if !errors.Is(err, relay.ErrHalt) {
				t.Fatalf("%v, want a halt", err)
			}
			wantWords(t, err, test.words...)
		})
	}
	for _, dsn := range []string{"file:" + path("readonly") + "?mode=ro", "file:/proc/surepost.db", "file:" + path("text")} {
		store, err := sqlitestore.NewWithConfig(openSQLite(t, dsn), sqlitestore.Config{Prefix: "other_"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = store.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "sqlitestore: ") || !strings.Contains(err.Error(), "(Surepost must") &&
			!strings.Contains(err.Error(), "(check that") && !strings.Contains(err.Error(), "(the file isn't") {
			t.Errorf("migrate %s: %v, want the remedy", dsn, err)
		}
	}
	for _, prefix := range []string{"A", "1x", "sqlite_", "a b", "_x", strings.Repeat("a", 33)} {
		if _, err := sqlitestore.NewWithConfig(nil, sqlitestore.Config{Prefix: prefix}); err == nil || !strings.Contains(err.Error(), "Config.Prefix") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	db := openSQLite(t, "file:"+path("empty2")+good)
	box := newBox(t, sqlitestore.New(nil))
	err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, surepost.Event{Type: "T"}) })
	wantWords(t, err, "call Store.Migrate")
	if _, err := sqlitestore.New(nil).Migrate(t.Context()); err == nil {
		t.Error("a store without a *sql.DB migrated")
	}
}

// What the file can't do at the moment is no event's fault; what a handler does to itself is.
func TestSQLiteOutagesAreToldFromFailures(t *testing.T) {
	t.Parallel()
	file, db, store := newSQLite(t)
	mustExec(t, db, "CREATE TABLE effect (id TEXT PRIMARY KEY)")
	handle := func(ctx context.Context, on *sql.DB, id string, work func(tx *sql.Tx) error) error {
		in := newInbox(t, sqlitestore.New(on), "c")
		_, err := in.Process(ctx, received(id, "k"), func(_ context.Context, tx *sql.Tx, _ surepost.Event) error { return work(tx) })
		return err
	}
	effect := func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "INSERT INTO effect VALUES (?)", strings.Repeat("x", 1<<20))
		return err
	}
	impatient := openSQLite(t, "file:"+file+"?_pragma=busy_timeout(1)")
	patient := openSQLite(t, "file:"+file+"?_pragma=busy_timeout(60000)")
	outages, failures := map[string]error{}, map[string]error{}
	err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { // it holds the lock
		if err := store.LockKeys(t.Context(), tx, []string{"k"}); err != nil {
			return err
		}
		outages["the lock is held"] = handle(t.Context(), impatient, "e1", effect)
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		outages["the lock is held for longer than HandlerTimeout"] = handle(short, patient, "e1", effect)
		_, outages["an attempt can't be noted"] = sqlitestore.New(impatient).StartAttempt(t.Context(), "c", "e1", 3)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	outages["the disk is full"] = handle(t.Context(), openSQLite(t, "file:"+file+"?_pragma=max_page_count(1)"), "e2", effect)
	outages["read-only"] = handle(t.Context(), openSQLite(t, "file:"+file+"?mode=ro"), "e3", effect)
	outages["gone"] = handle(t.Context(), openSQLite(t, "file:"+file+"/no"), "e4", effect)
	failures["the handler waits for itself"] = handle(t.Context(), impatient, "e5", func(tx *sql.Tx) error {
		_, err := impatient.ExecContext(t.Context(), "INSERT INTO effect VALUES ('x')")
		return err
	})
	failures["the handler's mistake"] = handle(t.Context(), db, "e6", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "INSERT INTO nowhere VALUES (1)")
		return err
	})
	if err := handle(t.Context(), db, "e7", effect); err != nil {
		t.Error(err)
	}
	failures["a duplicate row"] = handle(t.Context(), db, "e8", effect)
	for name, err := range outages {
		if err == nil || !amqp.IsOutage(err) || inbox.IsPermanent(err) {
			t.Errorf("%s: %v is no outage", name, err)
		}
	}
	for name, err := range failures {
		if err == nil || amqp.IsOutage(err) {
			t.Errorf("%s: %v is an outage", name, err)
		}
	}
}

func TestSQLiteMigrationsAtTheSameTime(t *testing.T) {
	t.Parallel()
	for range 20 { // the race is a matter of microseconds
		file := filepath.Join(t.TempDir(), "test.db")
		mustExec(t, openSQLite(t, file), "PRAGMA journal_mode = WAL")
		start := make(chan struct{})
		var wg sync.WaitGroup
		var applied atomic.Int64
		for range 4 {
			db := openSQLite(t, "file:"+file+"?_pragma=busy_timeout(30000)&_pragma=synchronous(NORMAL)")
			if err := db.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				<-start
				done, err := sqlitestore.New(db).Migrate(t.Context())
				if err != nil {
					t.Error(err)
				}
				applied.Add(int64(len(done)))
			})
		}
		close(start)
		wg.Wait()
		store := sqlitestore.New(openSQLite(t, "file:"+file+sqliteOptions))
		status, err := store.MigrationStatus(t.Context())
		if err != nil || applied.Load() != int64(len(status)) || len(status) == 0 || time.Since(status[0].AppliedAt).Abs() > time.Hour {
			t.Fatalf("%d migrations were applied by 4 processes at once; status %+v, %v", applied.Load(), status, err)
		}
		if err := store.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// The script that teams run with their own tool leaves what Migrate leaves.
func TestSQLiteMigrationSQLIsTheSameAsMigrate(t *testing.T) {
	t.Parallel()
	_, migrated, _ := newSQLite(t)
	db := openSQLite(t, "file:"+filepath.Join(t.TempDir(), "test.db")+sqliteOptions)
	store := sqlitestore.New(db)
	if status, err := store.MigrationStatus(t.Context()); err != nil || len(status) == 0 || !status[0].AppliedAt.IsZero() {
		t.Errorf("before: %+v, %v", status, err)
	}
	mustExec(t, db, "BEGIN;"+store.MigrationSQL(0)+"COMMIT;")
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if done, err := store.Migrate(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("Migrate after the script applied %v, %v; want nothing", done, err)
	}
	const schema = "SELECT group_concat(sql, ';' ORDER BY name) FROM sqlite_master"
	var a, b string
	if err := errors.Join(db.QueryRow(schema).Scan(&a), migrated.QueryRow(schema).Scan(&b)); err != nil || a != b || a == "" {
		t.Errorf("%v: the script leaves\n%s\nMigrate\n%s", err, a, b)
	}
}
