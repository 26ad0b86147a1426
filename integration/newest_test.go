package integration

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// However the filter cuts it, the newest events are the log read backwards, whatever the leaf that they are in.
func TestTheNewestEventsComeFirst(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	type lister interface {
		Events(ctx context.Context, filter relay.EventFilter, after int64, limit int) ([]relay.Entry, error)
		Newest(ctx context.Context, filter relay.EventFilter, limit int) ([]relay.Entry, error)
	}
	stores := map[string]lister{"pgxstore": store}
	for _, driver := range []string{"pgx", "postgres"} {
		stores[driver] = newSQLStore(t, openSQL(t, driver, pool.Config().ConnString()))
	}
	for name, s := range stores {
		if list, err := s.Newest(t.Context(), relay.EventFilter{}, 10); err != nil || len(list) != 0 {
			t.Errorf("%s: of an empty log: %v, %v", name, list, err)
		}
	}
	write(t, pool, box, surepost.Event{ID: "first", Type: "Rare", Key: "k"})
	late := begin(t, pool)
	if err := box.Write(t.Context(), late, surepost.Event{ID: "late", Type: "Rare"}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		write(t, pool, box, numbered(5000)...)
		lost := begin(t, pool)
		if err := box.Write(t.Context(), lost, numbered(10)...); err != nil {
			t.Fatal(err)
		}
		_ = lost.Rollback(t.Context())
		if i == 1 {
			retain(t, store, aLittle) // moves on to the next leaf
			write(t, pool, box, surepost.Event{ID: "middle", Type: "Rare"})
		}
	}
	if list, err := store.Newest(t.Context(), relay.EventFilter{Types: []string{"Rare"}}, 5); err != nil || len(list) != 2 || list[0].Event.ID != "middle" {
		t.Errorf("%d rare events (%v), want middle and first: late isn't committed", len(list), err)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, pool, box, surepost.Event{ID: "last", Type: "Rare", Key: "k"})
	all, err := store.Events(t.Context(), relay.EventFilter{}, 0, 100_000)
	if err != nil || len(all) != 25_004 {
		t.Fatalf("%d events, %v", len(all), err)
	}
	slices.Reverse(all)
	for name, s := range stores {
		for n, c := range []struct {
			filter relay.EventFilter
			limit  int
		}{
			{relay.EventFilter{}, 1}, {relay.EventFilter{}, 7}, {relay.EventFilter{}, 2500}, {relay.EventFilter{}, 30_000},
			{relay.EventFilter{Types: []string{"Rare"}}, 3}, {relay.EventFilter{Types: []string{"Rare"}}, 100}, {relay.EventFilter{Keys: []string{"k"}}, 2},
			{relay.EventFilter{Keys: []string{"k3"}}, 1500}, {relay.EventFilter{IDs: []string{"first", "nobody's"}}, 5}, {relay.EventFilter{Until: all[20_000].Event.Time}, 3},
			{relay.EventFilter{Types: []string{"Unheard of"}}, 5},
		} {
			var want []int64
			for _, e := range all {
				if len(want) < c.limit && c.filter.Matches(&e.Event) {
					want = append(want, e.Seq)
				}
			}
			got, err := s.Newest(t.Context(), c.filter, c.limit)
			if err != nil {
				t.Fatal(err)
			}
			var seqs []int64
			for _, e := range got {
				seqs = append(seqs, e.Seq)
			}
			if !slices.Equal(seqs, want) {
				t.Errorf("%s, case %d: %d events %.60v, want %d %.60v", name, n, len(seqs), fmt.Sprint(seqs), len(want), fmt.Sprint(want))
			}
			if len(got) > 0 && mustJSON(got[0].Event) != mustJSON(all[slices.IndexFunc(all, func(e relay.Entry) bool { return e.Seq == seqs[0] })].Event) {
				t.Errorf("%s, case %d: event %s isn't what was written", name, n, mustJSON(got[0].Event))
			}
		}
		if _, err := s.Newest(t.Context(), relay.EventFilter{Types: []string{""}}, 5); err == nil {
			t.Errorf("%s: an invalid filter is taken", name)
		}
	}
}

// The newest events of a long log cost what those of a short one do, with and without statistics.
func TestTheNewestEventsAreReadFromTheEnd(t *testing.T) {
	t.Parallel()
	url := harness.Start(t, harness.Postgres()).Postgres.URL()
	pool, store := poolOn(t, url)
	box := newBox(t, store)
	for range 8 {
		write(t, pool, box, numbered(5000)...)
	}
	for _, statistics := range []string{"SELECT 1", "ANALYZE surepost_outbox"} {
		execSQL(t, pool, statistics)
		seen := 0
		for _, plan := range plansOf(t, url, func(store *pgxstore.Store) {
			if list, err := store.Newest(t.Context(), relay.EventFilter{}, 20); err != nil || len(list) != 20 {
				t.Fatalf("%d events, %v", len(list), err)
			}
		}) {
			for _, rows := range regexp.MustCompile(`on surepost_outbox\S*(?: \w+)?\s+\([^)]*\) \(actual time=\S+ rows=(\d+)`).FindAllStringSubmatch(plan, -1) {
				n, _ := strconv.Atoi(rows[1])
				if seen += n; n > 21 {
					t.Errorf("after %s: %d rows are read for 20:\n%s", statistics, n, plan)
				}
			}
			if strings.Contains(plan, "Rows Removed by Filter: ") {
				t.Errorf("after %s, rows are read in vain:\n%s", statistics, plan)
			}
		}
		if seen < 20 {
			t.Errorf("the plans tell of %d rows: this shows nothing", seen)
		}
	}
}
