package main

import (
	"database/sql"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/cmd/surepost/internal/cli"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

// openShopOn is openShop with another database than PostgreSQL. The tables aren't there yet.
func openShopOn(t *testing.T, kind string) *shop {
	services := []harness.Service{harness.RabbitMQ()}
	if kind == "MariaDB" {
		services = append(services, harness.MariaDB())
	}
	env := harness.Start(t, services...)
	s := &shop{user: user{t: t, env: []string{"SUREPOST_BROKER_URLS=" + env.RabbitMQ.URL(), "SUREPOST_HTTP_LISTEN=off",
		"SUREPOST_RELAY_UNROUTABLE_TRIES=1", "SUREPOST_RELAY_LEASE_TTL=3s"}}}
	if kind == "MariaDB" {
		u, err := url.Parse(env.MariaDB.URL())
		must(t, err)
		password, _ := u.User.Password()
		u.User = url.User(u.User.Username())
		file := filepath.Join(t.TempDir(), "password")
		write(t, file, password)
		s.env = append(s.env, "SUREPOST_DATABASE_URL="+u.String(), "SUREPOST_DATABASE_PASSWORD_FILE="+file)
		db, err := sql.Open("mysql", env.MariaDB.DSN())
		must(t, err)
		t.Cleanup(func() { db.Close() })
		box, err := outbox.New(mysqlstore.New(db), outbox.Config{Source: "shop"})
		must(t, err)
		s.commit = committing(t, db, box)
	} else {
		file := filepath.Join(t.TempDir(), "shop.db")
		s.env = append(s.env, "SUREPOST_DATABASE_URL="+file)
		db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(5000)&_txlock=immediate")
		must(t, err)
		t.Cleanup(func() { db.Close() })
		box, err := outbox.New(sqlitestore.New(db), outbox.Config{Source: "shop"})
		must(t, err)
		s.commit = committing(t, db, box)
	}
	s.listen(env.RabbitMQ.URL())
	return s
}

func committing(t *testing.T, db *sql.DB, box *outbox.Outbox[*sql.Tx]) func(events ...surepost.Event) error {
	return func(events ...surepost.Event) error {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := box.Write(t.Context(), tx, events...); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func TestAnOperatorsDayOnOtherDatabases(t *testing.T) {
	for kind, name := range map[string]string{"MariaDB": "MySQL or MariaDB", "SQLite": "SQLite"} {
		t.Run(kind, func(t *testing.T) {
			s := openShopOn(t, kind)
			if kind == "MariaDB" { // a file isn't there before it is migrated
				s.refused(3, "igrate", "relay")
				r := s.run("doctor", "--json")
				if f := lines[cli.FindingView](t, r.out); r.code != 5 || f[0].Code != "store-check" || f[0].Severity != "critical" {
					t.Errorf("the doctor, without tables: %s", r)
				}
			}
			if sql := one[cli.SQLView](s.user, "migrate", "sql"); !strings.Contains(sql.SQL, "CREATE TABLE") {
				t.Errorf("migrate sql: %.200s", sql.SQL)
			}
			all := list[cli.MigrationView](s.user, "migrate", "up")
			if again := list[cli.MigrationView](s.user, "migrate", "up"); len(all) == 0 || len(again) != 0 {
				t.Errorf("applied are %+v, and then %+v", all, again)
			}
			status := list[cli.MigrationView](s.user, "migrate", "status")
			if len(status) != len(all) || slices.ContainsFunc(status, func(m cli.MigrationView) bool {
				return m.AppliedAt == nil || time.Since(*m.AppliedAt).Abs() > time.Hour
			}) {
				t.Errorf("migrate status: %+v", status)
			}

			s.write(surepost.Event{ID: "one", Type: "OrderCreated", Key: "k", Data: 1})
			if got := one[cli.StatusView](s.user, "status"); got.Database != name {
				t.Errorf("status: %+v", got)
			}
			relay := s.start("relay", "--log-format=json")
			if got := s.receives(1); got[0] != "one" {
				t.Errorf("published was %v", got)
			}
			s.write(surepost.Event{ID: "two", Type: "Unwanted", Key: "q", Data: 2}, surepost.Event{ID: "three", Type: "OrderCreated", Key: "q", Data: 3})
			parked := shows(s.user, "what is parked", func(p []cli.ParkedView) bool { return len(p) == 2 }, "parked", "list")
			if parked[0].Event.ID != "two" || parked[0].Reason == "" || !parked[1].Behind {
				t.Errorf("parked list: %+v", parked)
			}
			if got := one[cli.ParkedView](s.user, "parked", "show", "two"); got.Event.ID != "two" {
				t.Errorf("parked show: %+v", got)
			}
			if got := one[cli.CountView](s.user, "parked", "retry", "--id=two", "--by=anna"); got.Count != 1 {
				t.Errorf("parked retry: %+v", got)
			}
			shows(s.user, "that it is parked again", func(p []cli.ParkedView) bool { return len(p) == 2 && !p[0].Retrying }, "parked", "list")
			s.refused(2, "add --yes", "parked", "discard", "--id=two")
			s.ok("parked", "discard", "--id=two", "--yes")
			s.refused(1, "it was discarded or published before", "parked", "discard", "--id=two", "--yes")
			if got := s.receives(1); got[0] != "three" {
				t.Errorf("published was %v", got)
			}
			if log := list[cli.ParkedActionView](s.user, "parked", "log"); len(log) != 2 || log[0].Action != "discard" || log[1].By != "anna" {
				t.Errorf("parked log: %+v", log)
			}

			s.write(surepost.Event{ID: "later", Type: "OrderCreated", Data: 5, NotBefore: time.Now().Add(24 * time.Hour)})
			if got := list[cli.ScheduledView](s.user, "scheduled", "list", "--from=23h", "--until=25h"); len(got) != 1 || got[0].Event.ID != "later" {
				t.Errorf("scheduled list: %+v", got)
			}
			s.ok("scheduled", "cancel", "--id=later", "--yes")
			if log := list[cli.CancellationView](s.user, "scheduled", "log"); len(log) != 1 || log[0].ID != "later" {
				t.Errorf("scheduled log: %+v", log)
			}
			shows(s.user, "that nothing waits", func(v []cli.StatusView) bool {
				return len(v) == 1 && len(v[0].Destinations) == 1 && *v[0].Destinations[0].Backlog == 0 && v[0].Destinations[0].LaneStates[0].Owner != ""
			}, "status")
			if r := s.run("doctor", "--all"); r.code != 0 {
				t.Errorf("the doctor: %s", r)
			}

			// What only PostgreSQL's log can do.
			for _, command := range [][]string{{"events", "list"}, {"events", "show", "one"}, {"events", "tail"}, {"replay", "list"}, {"replay", "start", "again", "--all", "--yes"},
				{"destinations", "list"}, {"destinations", "add", "second"}, {"destinations", "lanes", "default", "3"}} {
				s.refused(2, "only PostgreSQL's can", command...)
			}
			s.refused(2, "relay.lanes is 3", "relay", "--relay-lanes=3")
			if kind == "MariaDB" {
				s.refused(2, "relay.destination is \"second\"", "relay", "--relay-destination=second")
			}
			relay.signal(syscall.SIGTERM)
			if code := relay.ends(); code != 0 {
				t.Errorf("the relay ends with %d", code)
			}
		})
	}
}

// The second one changes nothing, and says what to do; one that was restarted waits for its own lease to run out.
func TestOfTwoRelaysOfOneNameTheSecondIsRefused(t *testing.T) {
	for _, kind := range []string{"PostgreSQL", "MariaDB", "SQLite"} {
		t.Run(kind, func(t *testing.T) {
			var s *shop
			if kind == "PostgreSQL" {
				s = openShop(t)
			} else {
				s = openShopOn(t, kind)
				s.ok("migrate", "up")
			}
			s.env = append(s.env, "SUREPOST_HTTP_LISTEN=off", "SUREPOST_RELAY_OWNER=shop-relay")
			first := s.start("relay")
			first.says("leading")
			epoch := func() cli.LaneView {
				return shows(s.user, "the lane", func(v []cli.StatusView) bool {
					return len(v[0].Destinations) == 1 && len(v[0].Destinations[0].LaneStates) == 1
				}, "status")[0].Destinations[0].LaneStates[0]
			}
			before := epoch()
			if !strings.HasPrefix(before.Owner, "shop-relay") {
				t.Errorf("the lane's relay is %q", before.Owner)
			}
			second := s.start("relay")
			if code := second.ends(); code != 3 {
				t.Errorf("a second one ends with %d", code)
			}
			second.says(`is named "shop-relay": give each its own relay.owner`)
			if after := epoch(); after.Owner != before.Owner || after.Epoch != before.Epoch {
				t.Errorf("the lane has changed hands: it was %+v, and is %+v", before, after)
			}
			s.write(surepost.Event{ID: "one", Type: "OrderCreated"})
			s.receives(1)

			first.signal(syscall.SIGKILL)
			first.ends()
			third := s.start("relay")
			third.says("waiting for a relay of the same name")
			s.write(surepost.Event{ID: "two", Type: "OrderCreated"})
			for s.receives(1)[0] != "two" { // the first may come again
			}
			if strings.Contains(third.output(), "halted") {
				t.Error("the one that was restarted gave up")
			}
		})
	}
}
