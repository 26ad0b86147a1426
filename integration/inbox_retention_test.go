package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// idOf returns an id that begins like a UUIDv7 of t.
func idOf(t time.Time, n int) string {
	ms := t.UnixMilli()
	return fmt.Sprintf("%08x-%04x-7000-8000-%012x", ms>>16, ms&0xffff, n)
}

// leafOfID returns the number of the leaf that ids of t are in.
func leafOfID(t time.Time) string {
	return strconv.FormatInt(t.UnixMilli()/(4*24*time.Hour).Milliseconds()%16, 10)
}

// handle records the event for the consumer, and reports whether that was the first time.
func handle(t *testing.T, store *pgxstore.Store, ids ...string) (first []bool) {
	t.Helper()
	err := store.Transact(t.Context(), "c", ids, func(_ pgx.Tx, f []bool) error {
		first = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return first
}

func prune(t *testing.T, store *pgxstore.Store, window time.Duration) inbox.PruneReport {
	t.Helper()
	report, err := store.PruneInbox(t.Context(), window)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func recorded(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return count(t, pool, "SELECT count(*) FROM surepost_inbox")
}

func TestOldInboxRecordsGoAndYoungOnesStay(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	const window = 30 * 24 * time.Hour
	now := time.Now()
	old, young := now.Add(-40*24*time.Hour), now.Add(-time.Hour)
	ids := []string{idOf(old, 1), idOf(old, 2), idOf(young, 1), "evt_old", "evt_young"}
	for _, f := range handle(t, store, ids...) {
		if !f {
			t.Fatal("a new id isn't the first")
		}
	}
	execSQL(t, pool, "UPDATE surepost_inbox SET handled_at = now() - interval '40 days' WHERE event_id = 'evt_old' OR event_id = '"+ids[0]+"' OR event_id = '"+ids[1]+"'",
		"INSERT INTO surepost_inbox_attempt (consumer, event_id, started, last_started_at) VALUES ('c', 'a', 1, now() - interval '40 days'), ('c', 'b', 1, now())")

	report := prune(t, store, window)
	if report.Emptied != 1 || report.Removed != 1 || report.Attempts != 1 || len(report.Held) > 0 {
		t.Errorf("%+v, want one leaf emptied, and a record and an attempt removed", report)
	}
	if n := recorded(t, pool); n != 2 {
		t.Errorf("%d records are left, want 2", n)
	}
	want := []bool{true, true, false, true, false}
	for i, f := range handle(t, store, ids...) {
		if f != want[i] {
			t.Errorf("event %s is handled as new: %t", ids[i], f)
		}
	}
}

// A record that is younger than the window keeps its leaf, whose old records go one by one when they are overdue.
func TestALeafWithAYoungRecordIsNotEmptied(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	old := time.Now().Add(-50 * 24 * time.Hour)
	ids := []string{idOf(old, 1), idOf(old, 2), idOf(old, 3)}
	handle(t, store, ids...)
	execSQL(t, pool, "UPDATE surepost_inbox SET handled_at = now() - interval '31 days' WHERE event_id = '"+ids[1]+"'",
		"UPDATE surepost_inbox SET handled_at = now() - interval '50 days' WHERE event_id = '"+ids[2]+"'")
	report := prune(t, store, 30*24*time.Hour)
	if report.Emptied != 0 || report.Removed != 1 || recorded(t, pool) != 2 {
		t.Errorf("%+v, %d records left: want the overdue one removed, and nothing else", report, recorded(t, pool))
	}
	if handle(t, store, ids[0])[0] {
		t.Error("an event is handled again within the window")
	}
}

// Whoever handles an old event while its leaf is to be emptied isn't forgotten: it holds the leaf, and commits before the lock.
func TestAnOldEventThatIsBeingHandledKeepsItsLeaf(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	old := time.Now().Add(-50 * 24 * time.Hour)
	handle(t, store, idOf(old, 1))
	execSQL(t, pool, "UPDATE surepost_inbox SET handled_at = now() - interval '50 days'")
	late := idOf(old, 2)
	err := store.Transact(t.Context(), "c", []string{late}, func(pgx.Tx, []bool) error {
		report := prune(t, store, 30*24*time.Hour)
		if report.Emptied > 0 || len(report.Held) != 1 || !strings.Contains(report.Held[0], "is in use") {
			t.Errorf("%+v, want the leaf held", report)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	prune(t, store, 30*24*time.Hour)
	if handle(t, store, late)[0] {
		t.Error("the event is handled again")
	}
}

// Between the look at a leaf and the lock on it an old event may be handled: that is seen under the lock.
func TestWhatIsHandledBeforeTheLockIsSeenUnderIt(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	old := time.Now().Add(-50 * 24 * time.Hour)
	const window = 30 * 24 * time.Hour
	leaf, err := strconv.Atoi(leafOfID(old))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	prune(t, store, window)
	perLeaf := time.Since(began) / 17
	emptied := 0
	for i := range 150 {
		execSQL(t, pool, "DELETE FROM surepost_inbox", "INSERT INTO surepost_inbox SELECT 'c', '"+idOf(old, 0)+"', now() - interval '50 days', "+leafOfID(old))
		late := idOf(old, 1+i)
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(time.Duration(max(leaf-1, 0))*perLeaf + rand.N(4*perLeaf)) // about when the leaf's turn comes
			handle(t, store, late)
		}()
		emptied += prune(t, store, window).Emptied
		<-done
		if handle(t, store, late)[0] {
			t.Fatalf("round %d: the event is handled again", i)
		}
	}
	if emptied == 0 {
		t.Error("the test doesn't bite: no leaf was emptied")
	}
}

// The second of two copies waits for the first, whichever leaf theirs is, and in whatever order batches name them.
func TestCopiesWaitForEachOtherInEveryLeaf(t *testing.T) {
	t.Parallel()
	_, store := newPool(t)
	now := time.Now()
	ids := []string{idOf(now, 1), idOf(now.Add(-5*24*time.Hour), 1), "evt_1", strings.ToUpper(idOf(now, 255)), "0190f0e5"}
	for i := range ids {
		failed := errors.New("rolled back")
		second := make(chan bool, 1)
		err := store.Transact(t.Context(), "c", ids[:i+1], func(_ pgx.Tx, first []bool) error {
			go func() {
				var f bool
				err := store.Transact(context.WithoutCancel(t.Context()), "c", []string{ids[i]}, func(_ pgx.Tx, first []bool) error {
					f = first[0]
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				second <- f
			}()
			select {
			case <-second:
				t.Errorf("a copy of %s doesn't wait", ids[i])
			case <-time.After(100 * time.Millisecond):
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		if !<-second {
			t.Errorf("the copy of %s isn't handled after the first failed", ids[i])
		}
		if handle(t, store, ids[i])[0] {
			t.Errorf("%s is handled again", ids[i])
		}
	}
}

func TestInboxRecordsMoveIntoTheRing(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	script, _, _ := strings.Cut(store.MigrationSQL(0), "\n-- Migration 008")
	now := time.Now()
	ids := []string{"", "evt_1", "01234567-89ab-", "01234567-89ab-7", "01234567-89ab-4", "0123456789ab-7d", "01234567-8_ab-7", "+1234567-89ab-7", "0123456g-89ab-7",
		"ffffffff-ffff-7", "FFFFFFFF-FFFF-7xyz", "00000000-0000-7", "ﬀ234567-89ab-7"}
	for i := range 200 {
		ids = append(ids, idOf(now.Add(-time.Duration(i)*9*time.Hour), i))
	}
	turn := time.UnixMilli(now.UnixMilli() / 345_600_000 * 345_600_000) // from one leaf to the next
	ids = append(ids, idOf(turn, 1000), idOf(turn.Add(-time.Millisecond), 1001))
	values := make([]string, len(ids))
	for i, id := range ids {
		values[i] = "('c', '" + id + "')"
	}
	execSQL(t, pool, "CREATE SCHEMA old", "SET search_path = old; "+script+"; INSERT INTO surepost_inbox VALUES "+strings.Join(values, ", ")+"; RESET search_path")
	config := pool.Config()
	config.ConnConfig.RuntimeParams["search_path"] = "old"
	oldPool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer oldPool.Close()
	oldStore := pgxstore.New(oldPool)
	defer oldStore.Close(context.Background())
	if _, err := oldStore.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, f := range handle(t, oldStore, ids...) {
		if f {
			t.Errorf("event %q, handled before the migration, is handled again", ids[i])
		}
	}
	if n := count(t, oldPool, "SELECT count(DISTINCT leaf) FROM surepost_inbox"); n != 17 {
		t.Errorf("the records are in %d leaves, want 17", n)
	}
}
