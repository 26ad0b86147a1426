package integration

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

// passSQLite reads the log and stores how far it came, as a relay does whose broker confirms everything.
func passSQLite(t *testing.T, store *sqlitestore.Store, destination string) (n int) {
	t.Helper()
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: destination, Of: 1}, "reader", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	log, err := store.Open(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(context.WithoutCancel(t.Context()))
	for {
		page, err := log.Read(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Checkpoint(t.Context(), page.After, nil); err != nil {
			t.Fatal(err)
		}
		if n += len(page.Entries); !page.Full {
			return n
		}
	}
}

func retainSQLite(t *testing.T, store *sqlitestore.Store, keep time.Duration) relay.RetentionReport {
	t.Helper()
	time.Sleep(time.Millisecond) // so that what is there is older than a little
	report, err := store.Retain(t.Context(), relay.Retention{Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func writeSQLite(t *testing.T, db *sql.DB, store *sqlitestore.Store, events ...surepost.Event) {
	t.Helper()
	box := newBox(t, store)
	if err := inSQLTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, events...) }); err != nil {
		t.Fatal(err)
	}
}

func inLog(t *testing.T, db *sql.DB) int {
	t.Helper()
	return number(t, db, "SELECT count(*) FROM surepost_outbox")
}

// What is removed leaves its pages to the events to come: a log through which many times its retention passes stays as large as the
// retention, and so does the inbox.
func TestASQLiteFileGrowsToItsRetentionAndNoFurther(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	data := strings.Repeat("x", 900)
	var pages []int
	for cycle := range 10 {
		events := make([]surepost.Event, 1000)
		ids := make([]string, len(events))
		for i := range events {
			ids[i] = fmt.Sprintf("evt_%d_%d", cycle, i)
			events[i] = surepost.Event{ID: ids[i], Type: "T", Data: data}
		}
		writeSQLite(t, db, store, events...)
		if err := store.Transact(t.Context(), "c", ids, func(*sql.Tx, []bool) error { return nil }); err != nil {
			t.Fatal(err)
		}
		passSQLite(t, store, "default")
		if report := retainSQLite(t, store, aLittle); report.Removed != 1000 || inLog(t, db) != 0 {
			t.Fatalf("%s, and %d are left", report, inLog(t, db))
		}
		if report, err := store.PruneInbox(t.Context(), aLittle); err != nil || report.Removed != 1000 {
			t.Fatalf("%+v, %v", report, err)
		}
		pages = append(pages, number(t, db, "PRAGMA page_count"))
	}
	if first, last := pages[1], pages[len(pages)-1]; last > first+first/10 {
		t.Errorf("the file's pages after each cycle: %v", pages)
	}
	if n := number(t, db, "SELECT count(*) FROM surepost_mark"); n > 2 {
		t.Errorf("%d marks are kept of an empty log", n)
	}
}

// The lock is free between short transactions: others write while a large log is emptied.
func TestSQLiteWritersGoOnWhileEventsAreRemoved(t *testing.T) {
	t.Parallel()
	file, db, store := newSQLite(t)
	const events, step = 40_000, 4000
	for range events / step {
		writeSQLite(t, db, store, numbered(step)...)
	}
	passSQLite(t, store, "default")
	ids := make([]string, 20_000)
	for i := range ids {
		ids[i] = fmt.Sprint("evt_", i)
	}
	if err := store.Transact(t.Context(), "c", ids, func(*sql.Tx, []bool) error { return nil }); err != nil {
		t.Fatal(err)
	}
	other := openSQLite(t, "file:"+file+sqliteOptions)
	for name, work := range map[string]func() (int64, error){
		"Retain": func() (int64, error) {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: aLittle})
			return report.Removed, err
		},
		"PruneInbox": func() (int64, error) {
			report, err := store.PruneInbox(t.Context(), aLittle)
			return report.Removed, err
		},
	} {
		var working atomic.Bool
		working.Store(true)
		var meanwhile int
		var longest time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			for working.Load() {
				began := time.Now()
				_, err := other.ExecContext(t.Context(), "INSERT INTO surepost_scheduled (not_before, written_at, time, slot, id, type, version, source, data) "+
					"VALUES (9e15, 0, 0, 0, 'x', 'T', '1', 's', '{}')")
				if err != nil {
					t.Error(err)
					return
				}
				if working.Load() { // else it may have waited until all was over
					meanwhile++
					longest = max(longest, time.Since(began))
				}
			}
		}()
		began := time.Now()
		removed, err := work()
		for n := removed; err == nil && n > 0 && removed < 20_000; removed += n { // a call has a limit of time, which a busy machine reaches
			n, err = work()
		}
		took := time.Since(began)
		working.Store(false)
		<-done
		if err != nil || removed < 20_000 {
			t.Fatalf("%s: %d removed, %v", name, removed, err)
		}
		t.Logf("%s: %d removed in %v, and %d others wrote meanwhile, who waited for %v at most", name, removed, took, meanwhile, longest)
		if meanwhile < 10 {
			t.Errorf("%s: %d wrote while %d were removed in %v", name, meanwhile, removed, took)
		}
	}
}

// A log that was set back has numbers below a cursor that nobody has read.
func TestASQLiteLogThatWasSetBackIsNotEmptied(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	writeSQLite(t, db, store, numbered(10)...)
	passSQLite(t, store, "default")
	retainSQLite(t, store, time.Hour) // marks
	mustExec(t, db, "UPDATE surepost_mark SET at = 0", "DELETE FROM surepost_outbox", "DELETE FROM sqlite_sequence WHERE name = 'surepost_outbox'")
	for _, n := range []int{4, 8} { // behind the cursor, and past it
		writeSQLite(t, db, store, numbered(n)...)
		for range 3 {
			if report := retainSQLite(t, store, aLittle); report.Removed > 0 || len(report.Held) != 1 || !strings.Contains(report.String(), "set back") {
				t.Fatalf("Retain reports %s", report)
			}
		}
	}
	if n := inLog(t, db); n != 12 {
		t.Errorf("%d events are left of 12 that nobody has read", n)
	}
}

// Marks of a clock, or of a log, that was set back since say nothing.
func TestAMarkThatCannotBeTrueIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]string{
		"of the future":        "UPDATE surepost_mark SET at = at + 86400000000",
		"above what was drawn": "UPDATE surepost_mark SET at = 0, seq = seq + 1000",
	} {
		_, db, store := newSQLite(t)
		writeSQLite(t, db, store, numbered(5)...)
		passSQLite(t, store, "default")
		retainSQLite(t, store, time.Hour)
		mustExec(t, db, wrong)
		writeSQLite(t, db, store, numbered(5)...)
		passSQLite(t, store, "default")
		if report := retainSQLite(t, store, time.Hour); report.Removed > 0 {
			t.Errorf("with a mark %s, events go before their time: %s", name, report)
		}
		if report := retainSQLite(t, store, aLittle); report.Removed != 10 {
			t.Errorf("with a mark %s, events stay: %s", name, report)
		}
	}
}

// Events stay for at least as long as they must, and not for much longer, however often is looked.
func TestSQLiteMarksAreFew(t *testing.T) {
	t.Parallel()
	_, db, store := newSQLite(t)
	const keep = 2 * time.Second
	written := map[int]time.Time{}
	passSQLite(t, store, "default")
	most := 0
	for began := time.Now(); time.Since(began) < 2*keep; {
		writeSQLite(t, db, store, surepost.Event{Type: "T"})
		written[len(written)+1] = time.Now()
		passSQLite(t, store, "default")
		retainSQLite(t, store, keep)
		most = max(most, number(t, db, "SELECT count(*) FROM surepost_mark"))
	}
	oldest := number(t, db, "SELECT min(seq) FROM surepost_outbox")
	if age := time.Since(written[oldest]); oldest == 1 || age > keep+keep/2 {
		t.Errorf("the oldest event is number %d, of %v ago", oldest, age)
	}
	if most > 40 {
		t.Errorf("there were %d marks", most)
	}
}

// Who finds the file locked says so, and tries another time.
func TestALockedSQLiteFileHoldsUpRetentionOnly(t *testing.T) {
	t.Parallel()
	file, db, store := newSQLite(t)
	writeSQLite(t, db, store, numbered(5)...)
	passSQLite(t, store, "default")
	retainSQLite(t, store, time.Hour) // marks
	time.Sleep(time.Millisecond)
	if err := store.Transact(t.Context(), "c", []string{"e"}, func(*sql.Tx, []bool) error { return nil }); err != nil {
		t.Fatal(err)
	}
	impatient := sqlitestore.New(openSQLite(t, "file:"+file+"?_pragma=busy_timeout(20)"))
	holder := beginDB(t, db) // immediate, by newSQLite's options
	report, err := impatient.Retain(t.Context(), relay.Retention{Keep: aLittle})
	if err != nil || len(report.Held) != 1 || !strings.Contains(report.String(), "held the file's write lock") {
		t.Errorf("%s, %v", report, err)
	}
	pruned, err := impatient.PruneInbox(t.Context(), aLittle)
	if err != nil || len(pruned.Held) != 1 || !strings.Contains(pruned.Held[0], "held the file's write lock") {
		t.Errorf("%+v, %v", pruned, err)
	}
	if err := holder.Rollback(); err != nil {
		t.Fatal(err)
	}
	if report := retainSQLite(t, impatient, aLittle); report.Removed != 5 {
		t.Errorf("afterwards: %s", report)
	}
}

// Two relays and a consumer at work on a file whose events are kept for some milliseconds: nothing is lost, doubled or inverted.
func TestSQLiteRelaysThatRemoveAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	f := newSQLiteFlow(t)
	f.startConsumer(t, f.another(t), "effects", "Changed")
	removed := new(atomic.Int64)
	for range 2 {
		r, err := relay.New(f.another(t), newPublisher(t, f.broker.URL()), relay.Config{
			LeaseTTL: 2 * time.Second, Logger: logger(t), Retention: 20 * time.Millisecond,
			Hooks: relay.Hooks{OnRetention: func(report relay.RetentionReport, err error) {
				if err != nil {
					t.Error(err)
				}
				removed.Add(report.Removed)
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		background(t, r.Run)
	}
	for n := range 400 {
		key := fmt.Sprintf("k%d", n%8)
		err := inSQLTx(t.Context(), f.db, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), "UPDATE aggregate SET version = version + 1 WHERE key = ?", key); err != nil {
				return err
			}
			return f.box.Write(t.Context(), tx, surepost.Event{Type: "Changed", Key: key, Data: changed{key, n/8 + 1}})
		})
		if err != nil {
			t.Fatal(err)
		}
		if n%100 == 50 { // the lease is taken from under whoever has it
			mustExec(t, f.db, "UPDATE surepost_lease SET epoch = epoch + 1, owner = '', expires_at = 0")
		}
	}
	n := f.settled(t)
	eventually(t, "the log is empty", func() bool { return inLog(t, f.db) == 0 })
	eventually(t, "all is said to be removed", func() bool { return removed.Load() == int64(n) })
}
