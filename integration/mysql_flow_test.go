package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
)

// The whole path with MariaDB as the services' database: it is killed and restarted and its connections are cut, while
// two relays stand by for each other. Every change that was committed has one effect, in its key's order.
func TestAMariaDBCrashLosesNothing(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t, harness.Private())
	db, store := mariaDBOn(t, server.DSN())
	box := newBox(t, store)
	broker, err := amqptest.Start(amqptest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	execDB(t, db, "CREATE TABLE aggregate (k VARCHAR(10) PRIMARY KEY, version INT NOT NULL) ENGINE = InnoDB",
		"CREATE TABLE effect (nth BIGINT AUTO_INCREMENT PRIMARY KEY, k VARCHAR(10), version INT) ENGINE = InnoDB")
	for n := range 10 {
		execDB(t, db, fmt.Sprintf("INSERT INTO aggregate VALUES ('k%d', 0)", n))
	}

	in := newInbox(t, store, "effects")
	in.On("Changed", func(ctx context.Context, tx *sql.Tx, e surepost.Event) error {
		var c changed
		if err := e.Decode(&c); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO effect (k, version) VALUES (?, ?)", c.Key, c.Version)
		return err
	})
	bound := make(chan struct{}, 1)
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{broker.URL()}}, Queue: "effects", Types: in.Types(), Handler: in, Logger: logger(t),
		Hooks: amqp.ConsumerHooks{OnConnect: func() {
			select {
			case bound <- struct{}{}:
			default:
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, consumer.Run)
	<-bound
	for range 2 {
		own := mysqlstore.New(openMySQL(t, server.DSN()))
		t.Cleanup(func() { own.Close(context.Background()) })
		r, err := relay.New(own, newPublisher(t, broker.URL()), relay.Config{LeaseTTL: 2 * time.Second, Logger: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		background(t, r.Run)
	}

	ctx, stop := context.WithCancel(t.Context())
	var producing sync.WaitGroup
	for range 4 {
		producing.Go(func() {
			for ctx.Err() == nil {
				err := inTx(context.WithoutCancel(ctx), db, func(tx *sql.Tx) error {
					c := changed{Key: fmt.Sprint("k", rand.IntN(10))}
					if _, err := tx.Exec("UPDATE aggregate SET version = version + 1 WHERE k = ?", c.Key); err != nil {
						return err
					}
					if err := tx.QueryRow("SELECT version FROM aggregate WHERE k = ?", c.Key).Scan(&c.Version); err != nil {
						return err
					}
					return box.Write(ctx, tx, surepost.Event{Type: "Changed", Key: c.Key, Data: c})
				})
				if err != nil {
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	time.Sleep(time.Second)
	server.Kill(t)
	time.Sleep(time.Second)
	server.Start(t)
	time.Sleep(2 * time.Second)
	for range 3 {
		killConnections(t, db)
		time.Sleep(700 * time.Millisecond)
	}
	server.Restart(t)
	time.Sleep(2 * time.Second)
	stop()
	producing.Wait()

	want, got, before := 0, 0, -1
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		want, got = countDB(t, db, "SELECT SUM(version) FROM aggregate"), countDB(t, db, "SELECT COUNT(*) FROM effect")
		if got >= want && countDB(t, db, "SELECT COUNT(*) FROM surepost_outbox") == 0 {
			break
		}
		if got > before {
			before, deadline = got, time.Now().Add(30*time.Second)
		}
	}
	distinct := countDB(t, db, "SELECT COUNT(*) FROM (SELECT DISTINCT k, version FROM effect) d")
	if got != want || distinct != want || want < 100 {
		t.Errorf("%d changes committed, %d effects, %d distinct: lost %d, doubled %d", want, got, distinct, want-distinct, got-distinct)
	}
	if n := countDB(t, db, "SELECT COUNT(*) FROM (SELECT version < LAG(version) OVER (PARTITION BY k ORDER BY nth) AS back FROM effect) o WHERE back"); n != 0 {
		t.Errorf("%d effects came before an earlier one of their key", n)
	}
	if n := countDB(t, db, "SELECT COUNT(*) FROM surepost_parked"); n != 0 {
		t.Errorf("%d events were parked", n)
	}
	if n := countDB(t, db, "SELECT COUNT(*) FROM surepost_outbox"); n != 0 {
		t.Errorf("%d events stay in the log", n)
	}
	t.Logf("%d events", want)
}

// killConnections ends all connections but its own.
func killConnections(t *testing.T, db *sql.DB) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rows, err := conn.QueryContext(t.Context(), "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db IS NOT NULL")
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	_ = rows.Close()
	for _, id := range ids {
		_, _ = conn.ExecContext(t.Context(), fmt.Sprint("KILL ", id)) // it may have ended by itself
	}
}

// A held transaction, one that has written events or one that only reads, delays nobody: neither the reads nor the
// checkpoints, nor those who write.
func TestAHeldTransactionInMariaDBHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	db, store := newMariaDB(t)
	box := newBox(t, store)
	held := beginDB(t, db)
	if err := box.Write(t.Context(), held, surepost.Event{ID: "late", Type: "Held", Key: "k1"}); err != nil {
		t.Fatal(err)
	}
	reader, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback()
	if err := reader.QueryRow("SELECT COUNT(*) FROM surepost_outbox").Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	log, _ := openLog(t, store, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := range 5 {
		err := inTx(ctx, db, func(tx *sql.Tx) error { return box.Write(ctx, tx, numbered(10)...) })
		if err != nil {
			t.Fatal(err)
		}
		p, err := log.Read(ctx, 100)
		if err != nil || len(p.Entries) != 10 {
			t.Fatalf("round %d: %d events came, %v; want the 10 that were committed", n, len(p.Entries), err)
		}
		if err := log.Checkpoint(ctx, p.After, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := held.Commit(); err != nil {
		t.Fatal(err)
	}
	p, err := log.Read(ctx, 100)
	if err != nil || len(p.Entries) != 1 || p.Stragglers != 1 || p.Entries[0].Event.ID != "late" {
		t.Errorf("after its commit came %+v, %v; want the held event as a straggler", p.Entries, err)
	}
}

// Numbers that are drawn a second time, after a TRUNCATE or a failover that lost the tail, cost no event: not even one
// that has the number of one in hand.
func TestNumbersThatAreDrawnAgainLoseNothing(t *testing.T) {
	t.Parallel()
	db, store := newMariaDB(t)
	box := newBox(t, store)
	writeDB(t, db, box, numbered(20)...)
	log, _ := openLog(t, store, "a")
	first, err := log.Read(t.Context(), 8)
	if err != nil || len(first.Entries) != 8 {
		t.Fatalf("%d, %v", len(first.Entries), err)
	}
	parked := []relay.Parked{{Entry: first.Entries[0], Reason: "x"}}
	if err := log.Checkpoint(t.Context(), first.After, parked); err != nil {
		t.Fatal(err)
	}
	second, err := log.Read(t.Context(), 8)
	if err != nil || len(second.Entries) != 8 {
		t.Fatalf("%d, %v", len(second.Entries), err)
	}
	execDB(t, db, "TRUNCATE surepost_outbox")
	writeDB(t, db, box, numbered(30)...)
	got := map[string]bool{}
	take := func(entries []relay.Entry) {
		for _, e := range entries {
			if got[e.Event.ID] {
				t.Errorf("event %d came twice", e.Seq)
			}
			got[e.Event.ID] = true
		}
	}
	take(readAll(t, log, 7))
	// Parks and deletes what is there no more, not what has its number now.
	if err := log.Checkpoint(t.Context(), second.After, []relay.Parked{{Entry: second.Entries[3], Reason: "x"}}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); len(got) < 30 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		take(readAll(t, log, 7)) // the sweep finds them
	}
	if len(got) != 30 {
		t.Errorf("%d of the 30 new events came", len(got))
	}
	list, err := store.Parked(t.Context(), relay.ParkedFilter{}, 10)
	if err != nil || len(list) != 1 || list[0].Event.ID != first.Entries[0].Event.ID {
		t.Errorf("parked: %+v, %v", list, err)
	}
}

// An optional lock gives order per key to writers that don't serialise by themselves, and no two that lock several keys
// wait for each other.
func TestLockKeysMakesWritersOfAKeyWaitInMariaDB(t *testing.T) {
	t.Parallel()
	db, store := newMariaDB(t)
	first := beginDB(t, db)
	if err := store.LockKeys(t.Context(), first, []string{"a", "k"}); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	tx := beginDB(t, db)
	go func() { second <- store.LockKeys(t.Context(), tx, []string{"j", "k"}) }()
	third := beginDB(t, db)
	if err := store.LockKeys(t.Context(), third, []string{"other"}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-second:
		t.Fatalf("a second writer of the key didn't wait (%v)", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	_ = tx.Rollback()
	_ = third.Rollback()

	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 20 {
				keys := []string{fmt.Sprint("k", rand.IntN(5)), fmt.Sprint("l", rand.IntN(5)), fmt.Sprint("m", rand.IntN(5))} // sorted
				err := inTx(t.Context(), db, func(tx *sql.Tx) error { return store.LockKeys(t.Context(), tx, keys) })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	execDB(t, db, "DELETE FROM surepost_lock")
	err := inTx(t.Context(), db, func(tx *sql.Tx) error { return store.LockKeys(t.Context(), tx, []string{"k"}) })
	if !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), "MigrationSQL") {
		t.Errorf("without the lock table's rows: %v, want an error that says how to restore them", err)
	}
}

// The numbers of transactions that rolled back are forgotten in time, so that reads and successors needn't look at them
// for ever; those of a transaction that is open are not, and its event comes as soon as it is committed.
func TestAGapIsClosedWhenItsTransactionRolledBackAndNotBefore(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t, harness.Private())
	db, store := mariaDBOn(t, server.DSN())
	execDB(t, db, "SET GLOBAL innodb_lock_wait_timeout = 1") // gaps stay open for longer than an INSERT may wait
	box := newBox(t, store)
	rolledBack, held := beginDB(t, db), beginDB(t, db)
	if err := box.Write(t.Context(), rolledBack, numbered(10)...); err != nil { // 1 to 10
		t.Fatal(err)
	}
	if err := box.Write(t.Context(), held, numbered(5)...); err != nil { // 11 to 15
		t.Fatal(err)
	}
	if err := box.Write(t.Context(), rolledBack, numbered(10)...); err != nil { // 16 to 25
		t.Fatal(err)
	}
	writeDB(t, db, box, numbered(1)...) // 26
	log, lease := openLog(t, store, "a")
	read := func(want int) {
		t.Helper()
		p, err := log.Read(t.Context(), 100)
		if err != nil || len(p.Entries) != want {
			t.Fatalf("%d events, %v; want %d", len(p.Entries), err, want)
		}
		if err := log.Checkpoint(t.Context(), p.After, nil); err != nil {
			t.Fatal(err)
		}
	}
	settled := func() int { return countDB(t, db, "SELECT settled FROM surepost_lease") }
	wait := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); settled() != want; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("settled up to %d, want %d", settled(), want)
			}
			read(0)
		}
	}
	read(1)
	if n := settled(); n != 0 {
		t.Errorf("settled up to %d while 1 to 25 are open", n)
	}
	if err := rolledBack.Rollback(); err != nil {
		t.Fatal(err)
	}
	writeDB(t, db, box, numbered(2)...) // 27 and 28
	read(2)
	if n := settled(); n != 0 {
		t.Errorf("settled up to %d at once", n)
	}
	// The gap of 1 to 25 as a whole isn't empty while 11 to 15 are open.
	time.Sleep(25 * time.Second)
	read(0)
	read(0)
	if n := settled(); n != 0 {
		t.Errorf("settled up to %d while 11 to 15 are open", n)
	}
	if err := held.Commit(); err != nil {
		t.Fatal(err)
	}
	read(5)
	wait(28)

	// A successor begins there, and misses nothing.
	writeDB(t, db, box, numbered(3)...)
	_ = log.Close(t.Context())
	next, err := store.Open(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close(t.Context())
	if got := readAll(t, next, 100); len(got) != 3 || got[0].Seq != 29 {
		t.Errorf("the successor got %d events", len(got))
	}
}
