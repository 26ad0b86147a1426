package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// hostile are texts that end a quote, an identifier or a statement, or are no name that one would choose.
var hostile = []string{`"; DROP TABLE bystander; --`, `'); DROP TABLE bystander; --`, `$$; DROP TABLE bystander; $$`, `\'; DROP TABLE bystander`, `%s%n%I`,
	`{"a",NULL}`, "NULL", "SELECT", "Ünï cödé ☃", "a\tb\nc", strings.Repeat("é", 127), "${outbox}", "$1", "/*"}

// A schema is quoted wherever it stands: in any case, with blanks, quotes and what ends a statement, and as long as PostgreSQL's
// names can be. Names, keys and types that users bring are parameters.
func TestHostileNamesStayNames(t *testing.T) {
	t.Parallel()
	pool, _ := poolOn(t, harness.Start(t, harness.Postgres()).Postgres.URL())
	execSQL(t, pool, "CREATE TABLE bystander (id int)")
	for i, schema := range []string{`Up"; DROP TABLE bystander; --`, "SELECT", "Ünï cödé", strings.Repeat("x", 63), strings.Repeat("p", 31) + `"` + strings.Repeat("é", 15)} {
		t.Run(fmt.Sprintf("%.20s", schema), func(t *testing.T) {
			prefix := "sure_"
			if i%2 == 1 {
				prefix = strings.Repeat("p", 32)
			}
			store, err := pgxstore.NewWithConfig(pool, sqlstore.Config{Schema: schema, Prefix: prefix})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { store.Close(context.Background()) })
			if _, err := store.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := store.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			box, err := outbox.New(store, outbox.Config{Source: hostile[0], LockKeys: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range hostile {
				write(t, pool, box, surepost.Event{ID: "id " + name[:min(len(name), 200)], Type: name, Key: name, Data: name, Headers: map[string]string{"h" + name[:min(len(name), 200)]: name}})
				write(t, pool, box, surepost.Event{Type: name}, surepost.Event{Type: name, Key: name}) // in one statement
				if _, err := pool.Exec(t.Context(), "SELECT "+pgx.Identifier{schema, prefix + "write"}.Sanitize()+"($1, '{}', key => $1, source => $1)", name); err != nil {
					t.Error(err)
				}
				in := newInbox(t, store, name[:min(len(name), 200)])
				for range 2 {
					if _, err := in.Process(t.Context(), received(name, name), func(context.Context, pgx.Tx, surepost.Event) error { return nil }); err != nil {
						t.Error(err)
					}
				}
				if destination := name[:min(len(name), 200)]; relay.ValidDestination(destination) == nil {
					if _, err := store.CreateReplay(t.Context(), destination, relay.EventFilter{Types: []string{name}, Keys: []string{name}}, name[:min(len(name), 200)]); err != nil {
						t.Errorf("%q: %v", destination, err)
					}
					if err := store.RemoveDestination(t.Context(), destination); err != nil {
						t.Errorf("%q: %v", destination, err)
					}
				}
				if _, err := store.RetryParked(t.Context(), relay.ParkedFilter{Destination: name, Key: name, Type: name, IDs: []string{name}, Reason: name}, "op"); err != nil {
					t.Errorf("%q: %v", name, err)
				}
				if _, err := store.CancelScheduled(t.Context(), relay.ScheduledFilter{Key: name, Type: name, Source: name, IDs: []string{name}}, "op"); err != nil {
					t.Errorf("%q: %v", name, err)
				}
			}
			log, _ := openLog(t, store, hostile[0])
			page, err := log.Read(t.Context(), 1000)
			if err != nil || len(page.Entries) != 4*len(hostile) {
				t.Fatalf("%d entries, %v", len(page.Entries), err)
			}
			for i, e := range page.Entries {
				if want := hostile[i/4]; e.Event.Type != want || i%4 == 0 && (e.Event.Key != want || len(e.Event.Headers) == 0) {
					t.Errorf("entry %d is %+v, want %q", i, e.Event, want)
				}
			}
			if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: page.Entries[0], Reason: hostile[1]}}); err != nil {
				t.Error(err)
			}
			if _, err := store.Diagnose(t.Context(), diagnosis.Limits{}); err != nil {
				t.Error(err)
			}
			if _, err := store.Status(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := store.Retain(t.Context(), relay.Retention{Keep: 1}); err != nil {
				t.Error(err)
			}
			if _, err := store.PruneInbox(t.Context(), 1e9); err != nil {
				t.Error(err)
			}
		})
	}
	if n := count(t, pool, "SELECT count(*) FROM bystander"); n != 0 {
		t.Errorf("a bystander has %d rows", n)
	}
}
