package main

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

// What the doctor lists is enough: whoever is granted it, and nothing else, runs a relay, and acts as an operator.
func TestTheDoctorListsWhatARoleLacksAsGrants(t *testing.T) {
	s := openShop(t)
	role := func(name string) (string, user) {
		t.Helper()
		name = name + strings.ToLower(surepost.NewID()[30:])
		_, err := s.pool.Exec(t.Context(), "CREATE ROLE "+name+" LOGIN PASSWORD 'secret'")
		must(t, err)
		t.Cleanup(func() {
			if _, err := s.pool.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+name+"; DROP ROLE "+name); err != nil {
				t.Error(err)
			}
		})
		u, err := url.Parse(s.pool.Config().ConnString())
		must(t, err)
		u.User = url.UserPassword(name, "secret")
		return name, user{t, append(slices.Clone(s.env), "SUREPOST_DATABASE_URL_FILE=", "SUREPOST_DATABASE_URL="+u.String())}
	}
	lacking := func(u user, as string) (found []cli.FindingView) {
		t.Helper()
		r := u.run("doctor", "--json", "--as="+as)
		for _, f := range lines[cli.FindingView](t, r.out) {
			if f.Code == "privileges-missing" {
				found = append(found, f)
			}
		}
		return found
	}
	mended := func(name, as string) user {
		t.Helper()
		name, u := role(name)
		// Without the first of them nothing else can be looked at, which the doctor says too.
		_, err := s.pool.Exec(t.Context(), "GRANT SELECT ON surepost_migration TO "+name)
		must(t, err)
		found := lacking(u, as)
		if len(found) != 1 || found[0].Severity != "critical" || !strings.Contains(found[0].Remedy, "GRANT ") {
			t.Fatalf("of a %s with no privileges at all: %+v", as, found)
		}
		_, err = s.pool.Exec(t.Context(), found[0].Remedy)
		must(t, err)
		if found := lacking(u, as); len(found) > 0 {
			t.Errorf("a %s that was granted what the doctor said lacks %+v", as, found)
		}
		return u
	}
	relay := mended("relay_", "relay")
	if found := lacking(relay, "operator"); len(found) != 1 || !strings.Contains(found[0].Remedy, "parked_action") {
		t.Errorf("a relay's role as an operator: %+v", found)
	}
	process := relay.start("relay")
	s.write(surepost.Event{ID: "one", Type: "OrderCreated"}, surepost.Event{ID: "two", Type: "Unwanted"})
	s.receives(1)
	operator := mended("operator_", "operator")
	shows(operator, "what is parked", func(p []cli.ParkedView) bool { return len(p) == 1 }, "parked", "list")
	operator.ok("parked", "discard", "--id=two", "--yes")
	operator.ok("destinations", "add", "second", "--from=now")
	operator.ok("destinations", "lanes", "second", "2")
	operator.ok("destinations", "remove", "second", "--yes")
	process.signal(syscall.SIGTERM)
	if code := process.ends(); code != 0 || strings.Contains(process.output(), "permission denied") {
		t.Errorf("the relay ends with %d:\n%s", code, process.output())
	}
	s.refused(2, "use reader, relay, operator, producer, consumer", "doctor", "--as=admin")
}
