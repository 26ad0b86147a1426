package integration

import (
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"
)

// A copy of an old event that is being handled, and a new one, are waited for by nobody who prunes; what they hold is left for another
// time, and the rest goes, however many pages it is on.
func TestPruningInMariaDBWaitsForNobody(t *testing.T) {
	t.Parallel()
	db, store := newMariaDB(t)
	const n = 3500
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("evt_%05d", i)
	}
	record := func(consumer string, work func(first []bool) error, ids ...string) {
		t.Helper()
		err := store.Transact(t.Context(), consumer, ids, func(_ *sql.Tx, first []bool) error { return work(first) })
		if err != nil {
			t.Fatal(err)
		}
	}
	nothing := func([]bool) error { return nil }
	for _, consumer := range []string{"a", "b"} {
		record(consumer, nothing, ids...)
	}
	execDB(t, db, "UPDATE surepost_inbox SET handled_at = handled_at - INTERVAL 40 DAY WHERE event_id <> 'evt_01234'",
		"INSERT INTO surepost_inbox_attempt (consumer, event_id, started, last_started_at) VALUES ('a', 'old', 1, UTC_TIMESTAMP(6) - INTERVAL 40 DAY), ('a', 'held', 1, UTC_TIMESTAMP(6) - INTERVAL 40 DAY), ('a', 'young', 1, UTC_TIMESTAMP(6))")
	attempt := beginDB(t, db)
	if _, err := attempt.Exec("SELECT * FROM surepost_inbox_attempt WHERE consumer = 'a' AND event_id = 'held' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	record("a", func(first []bool) error {
		if first[0] || !first[1] {
			t.Errorf("the copy and the new event are new: %v", first)
		}
		report, err := store.PruneInbox(t.Context(), 30*24*time.Hour)
		if err != nil || report.Removed != 2*n-3 || report.Attempts != 1 || time.Since(began) > 20*time.Second {
			t.Errorf("in %v: %+v, %v; want %d records and 1 attempt removed", time.Since(began), report, err, 2*n-3)
		}
		return nil
	}, "evt_02345", "evt_02345x")
	if err := attempt.Rollback(); err != nil {
		t.Fatal(err)
	}
	if left := countDB(t, db, "SELECT COUNT(*) FROM surepost_inbox"); left != 4 { // two young ones, what was held, and the new
		t.Errorf("%d records are left, want 4", left)
	}
	// Many who prune, while others record: a record goes once, and nobody fails.
	execDB(t, db, "UPDATE surepost_inbox SET handled_at = handled_at - INTERVAL 40 DAY")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var removed, attempts int64
	for range 4 {
		wg.Go(func() {
			report, err := store.PruneInbox(t.Context(), 30*24*time.Hour)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			removed += report.Removed
			attempts += report.Attempts
		})
	}
	wg.Wait()
	if report, err := store.PruneInbox(t.Context(), 30*24*time.Hour); err != nil || removed+report.Removed != 4 || attempts+report.Attempts != 1 {
		t.Errorf("%d records and %d attempts were removed, and then %+v, %v; want 4 and 1", removed, attempts, report, err)
	}
	if left := countDB(t, db, "SELECT COUNT(*) FROM surepost_inbox") + countDB(t, db, "SELECT COUNT(*) FROM surepost_inbox_attempt"); left != 1 {
		t.Errorf("%d records are left, want the young attempt", left)
	}
}
