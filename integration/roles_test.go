package integration

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// grants is the block of SQL that makes the roles: the same in the README and in docs/operations.md.
func grants(t *testing.T) string {
	t.Helper()
	var blocks []string
	for _, file := range []string{"../README.md", "../docs/operations.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range blocksOf(string(text), "sql") {
			if strings.Contains(block, "CREATE ROLE surepost_producer") {
				blocks = append(blocks, block)
			}
		}
	}
	if len(blocks) != 2 || blocks[0] != blocks[1] {
		t.Fatalf("the README and docs/operations.md have %d blocks of grants, which must be two and the same", len(blocks))
	}
	return blocks[0]
}

// shop is a database of its own in a server of its own, migrated by a plain owner, with the documents' roles.
type shop struct {
	t       *testing.T
	url     string // the administrator's
	program string
	broker  string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres // roles belong to the server, not to the database
	broker, err := amqptest.Start(amqptest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	s := &shop{t: t, url: server.URL(), program: filepath.Join(t.TempDir(), "surepost"), broker: broker.URL()}
	build := exec.Command("go", "build", "-o", s.program, ".")
	build.Dir = "../cmd/surepost"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	admin := s.pool("")
	execSQL(t, admin, "CREATE ROLE shop_owner LOGIN PASSWORD 'p'", "CREATE DATABASE shop OWNER shop_owner")
	s.url = strings.Replace(s.url, s.database(), "/shop", 1)
	s.run("shop_owner", 0, "migrate", "up")
	admin = s.pool("")
	execSQL(t, admin, grants(t), "CREATE TABLE orders (id text)",
		"CREATE ROLE a_producer LOGIN PASSWORD 'p' IN ROLE surepost_producer", "CREATE ROLE a_relay LOGIN PASSWORD 'p' IN ROLE surepost_relay",
		"CREATE ROLE a_consumer LOGIN PASSWORD 'p' IN ROLE surepost_consumer", "CREATE ROLE an_operator LOGIN PASSWORD 'p' IN ROLE surepost_operator",
		"CREATE ROLE a_service LOGIN PASSWORD 'p' IN ROLE surepost_producer, surepost_consumer")
	return s
}

func (s *shop) database() string {
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	return u.Path
}

// as returns the URL of a login; of the administrator for "".
func (s *shop) as(login string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	if login != "" {
		u.User = url.UserPassword(login, "p")
	}
	return u.String()
}

func (s *shop) pool(login string) *pgxpool.Pool {
	s.t.Helper()
	pool, err := pgxpool.New(s.t.Context(), s.as(login))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(pool.Close)
	return pool
}

func (s *shop) store(login string) (*pgxpool.Pool, *pgxstore.Store) {
	s.t.Helper()
	pool := s.pool(login)
	store := pgxstore.New(pool)
	s.t.Cleanup(func() { store.Close(context.Background()) })
	return pool, store
}

// run runs the command line as a login.
func (s *shop) run(login string, code int, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Env = []string{"HOME=/nowhere", "SUREPOST_DATABASE_URL=" + s.as(login), "SUREPOST_BROKER_URLS=" + s.broker}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("as %s: surepost %s: exit code %d, want %d (%v)\n%s%s", login, strings.Join(args, " "), got, code, err, &out, &errs)
	}
	if strings.Contains(out.String()+errs.String(), "permission denied") {
		s.t.Errorf("as %s: surepost %s:\n%s%s", login, strings.Join(args, " "), &out, &errs)
	}
	return out.String()
}

// Everything that Surepost does on PostgreSQL runs under logins of the documents' roles, and the tables belong to somebody
// who is no superuser.
func TestTheRolesAreEnoughAndNoMore(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	admin := s.pool("")

	// The producer, in Go and in SQL; delayed events, one of which it takes back.
	producer, producerStore := s.store("a_producer")
	box, err := outbox.New(producerStore, outbox.Config{Source: "s", LockKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Second)
	write(t, producer, box, surepost.Event{ID: "one", Type: "Bound", Key: "k"})
	write(t, producer, box,
		surepost.Event{ID: "unbound", Type: "Unbound", Key: "u"}, surepost.Event{ID: "behind", Type: "Bound", Key: "u"},
		surepost.Event{ID: "soon", Type: "Bound", Key: "k", NotBefore: soon}, surepost.Event{ID: "never", Type: "Bound", Key: "k", NotBefore: soon.Add(time.Hour)},
		surepost.Event{ID: "later", Type: "Bound", Key: "k", NotBefore: soon.Add(time.Hour)})
	execSQL(t, producer, "SELECT surepost_write('Bound', '{}', source => 's', key => 'k')",
		"SELECT surepost_write('Bound', '{}', source => 's', id => 'by hand', not_before => now() + interval '1 hour')")
	err = pgx.BeginFunc(t.Context(), producer, func(tx pgx.Tx) error {
		n, err := box.Cancel(t.Context(), tx, "never")
		if n != 1 {
			t.Errorf("the producer took %d delayed events back", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// The consumer, whose handler emits: a member of two roles. It keeps its inbox short itself.
	service, serviceStore := s.store("a_service")
	followUps, err := outbox.New(serviceStore, outbox.Config{Source: "service"})
	if err != nil {
		t.Fatal(err)
	}
	in := newInbox(t, serviceStore, "c")
	in.On("Bound", func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		return followUps.Write(ctx, tx, surepost.Event{Type: "Effect", Key: e.Key})
	})
	queue, err := amqp.NewConsumer(amqp.ConsumerConfig{Connection: amqp.Connection{URLs: []string{s.broker}}, Queue: "q", Types: []string{"Bound"},
		Handler: in, BatchSize: 10})
	if err != nil {
		t.Fatal(err)
	}
	effects, err := amqp.NewConsumer(amqp.ConsumerConfig{Connection: amqp.Connection{URLs: []string{s.broker}}, Queue: "effects", Types: []string{"Effect"},
		Handler: nothing{}})
	if err != nil {
		t.Fatal(err)
	}
	background(t, queue.Run)
	background(t, effects.Run)

	// Two relays that share lanes, one of which leaves; they move what is due, park and retry.
	s.run("an_operator", 0, "destinations", "list")
	_, relayStore := s.store("a_relay")
	config := relay.Config{Lanes: 2, LeaseTTL: 2 * time.Second, UnroutableTries: 2, Logger: logger(t)}
	r, err := relay.New(relayStore, newPublisher(t, s.broker), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err != nil {
		t.Error(err)
	}
	stopFirst := background(t, r.Run)
	second, err := relay.New(relayStore, newPublisher(t, s.broker), config)
	if err != nil {
		t.Fatal(err)
	}
	background(t, second.Run)
	awaitFor(t, "the relays share the lanes", func() bool {
		return count(t, admin, "SELECT count(DISTINCT owner) FROM surepost_lease WHERE owner <> ''") == 2
	})
	stopFirst()
	awaitFor(t, "what was due is handled, and what isn't bound is parked with what is behind it", func() bool {
		return count(t, admin, "SELECT count(*) FROM surepost_inbox WHERE event_id IN ('one', 'soon')") == 2 && count(t, admin, "SELECT count(*) FROM surepost_parked") == 2
	})

	// The operator, at the command line.
	for _, args := range [][]string{
		{"status"}, {"events", "list"}, {"events", "show", "one"}, {"scheduled", "list"}, {"scheduled", "cancel", "--id", "later", "--yes"}, {"scheduled", "log"},
		{"parked", "list"}, {"parked", "show", "unbound"}, {"parked", "retry", "--id", "unbound"}, {"migrate", "status"},
		{"destinations", "lanes", "default", "3"}, {"destinations", "add", "archive", "--from", "beginning"}, {"destinations", "remove", "archive", "--yes"},
		{"replay", "start", "again", "--type", "Bound", "--queue", "q", "--yes"}, {"replay", "start", "dry", "--all", "--dry-run"}, {"replay", "list"},
		{"replay", "cancel", "again", "--yes"}, {"deadletters", "list", "q"},
	} {
		s.run("an_operator", 0, args...)
	}
	execSQL(t, admin, "INSERT INTO surepost_outbox (time, slot, id, type, version, source, data) VALUES (now(), 1, 'odd', 'Odd', '1', 's', '{}')")
	s.run("an_operator", 0, "replay", "start", "nowhere", "--type", "Odd", "--yes") // which parks it
	s.run("an_operator", 0, "parked", "discard", "--relay-destination", "nowhere", "--all", "--yes")
	s.run("an_operator", 0, "parked", "log")
	awaitFor(t, "the retried event is parked once more", func() bool {
		return count(t, admin, "SELECT count(*) FROM surepost_parked WHERE destination = 'default' AND id = 'unbound' AND retry_at IS NULL") == 1
	})
	s.run("an_operator", 0, "parked", "discard", "--id", "unbound", "--yes")
	awaitFor(t, "what was behind it goes on", func() bool {
		return count(t, admin, "SELECT count(*) FROM surepost_inbox WHERE event_id = 'behind'") == 1
	})
	if report := s.run("an_operator", 4, "doctor"); strings.Contains(report, "privileges") {
		t.Errorf("doctor misses rights:\n%s", report)
	}
	if report := s.run("a_relay", 4, "doctor"); strings.Contains(report, "privileges-missing") {
		t.Errorf("doctor misses a relay's rights:\n%s", report)
	}
	s.run("an_operator", 0, "destinations", "remove", "nowhere", "--yes")

	// Retention is the relay's, pruning the consumer's.
	awaitFor(t, "a leaf of the log is emptied", func() bool {
		report, err := relayStore.Retain(t.Context(), relay.Retention{Keep: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		write(t, producer, box, surepost.Event{Type: "Bound"}) // so that there is something to leave
		return report.Emptied > 0
	})
	for range 2 { // the second is an update
		if _, err := in.StartAttempt(t.Context(), "e3", 5); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(in.FinishAttempt(t.Context(), "e3", errors.New("no luck")), in.ForgetAttempts(t.Context(), "e3")); err != nil {
		t.Error(err)
	}
	long := time.Now().Add(-20 * 24 * time.Hour)
	handle(t, serviceStore, idOf(long, 1), "old", "young")
	execSQL(t, admin, "UPDATE surepost_inbox SET handled_at = now() - interval '20 days' WHERE event_id IN ('old', '"+idOf(long, 1)+"')")
	if report := prune(t, serviceStore, 10*24*time.Hour); report.Emptied != 1 || report.Removed != 1 || len(report.Held) > 0 {
		t.Errorf("pruned %+v", report)
	}
	service.Close()

	for login, statements := range map[string][]string{
		"a_producer": {
			"SELECT FROM surepost_outbox", "UPDATE surepost_outbox SET data = '{}'", "DELETE FROM surepost_outbox", "TRUNCATE surepost_outbox_1",
			"INSERT INTO surepost_outbox (tx, time, slot, id, type, version, source, data) VALUES ('1', now(), 1, '1', 't', '1', 's', '{}')",
			"INSERT INTO surepost_outbox (seq, time, slot, id, type, version, source, data) OVERRIDING SYSTEM VALUE VALUES (1, now(), 1, '1', 't', '1', 's', '{}')",
			"INSERT INTO surepost_outbox_1 (time, slot, id, type, version, source, data, ring) VALUES (now(), 1, '1', 't', '1', 's', '{}', 1)",
			"SELECT nextval('surepost_sequence')", "SELECT last_value FROM surepost_sequence", "UPDATE surepost_ring SET left_at = now()",
			"SELECT data FROM surepost_scheduled", "UPDATE surepost_scheduled SET data = '{}'", "UPDATE surepost_scheduled SET not_before = now()", "TRUNCATE surepost_scheduled",
			"INSERT INTO surepost_scheduled (tx, not_before, time, slot, id, type, version, source, data) VALUES ('1', now(), now(), 1, '1', 't', '1', 's', '{}')",
			"SELECT FROM surepost_parked", "SELECT FROM surepost_lease", "SELECT FROM surepost_destination", "SELECT FROM surepost_inbox", "SELECT FROM surepost_migration",
		},
		"a_relay": {
			"INSERT INTO surepost_outbox (tx, time, slot, id, type, version, source, data) VALUES ('1', now(), 1, '1', 't', '1', 's', '{}')",
			"UPDATE surepost_outbox SET data = '{}'", "DELETE FROM surepost_outbox", "DELETE FROM surepost_outbox_1", "TRUNCATE surepost_outbox", "SELECT setval('surepost_sequence', 1)",
			"SELECT nextval('surepost_sequence')", "INSERT INTO surepost_migration (version, name) VALUES (99, 'x')", "UPDATE surepost_destination SET lanes = 5", "DELETE FROM surepost_destination",
			"INSERT INTO surepost_destination (name, filter) VALUES ('x', '{}')", "DELETE FROM surepost_lease", "UPDATE surepost_checkpoint SET hot = 1", "TRUNCATE surepost_parked",
			"UPDATE surepost_scheduled SET data = '{}'", "INSERT INTO surepost_scheduled (not_before, time, slot, id, type, version, source, data) VALUES (now(), now(), 1, '1', 't', '1', 's', '{}')",
			"INSERT INTO surepost_ring (leaf) VALUES (7)", "DELETE FROM surepost_ring", "UPDATE surepost_ring SET leaf = 7", "SELECT FROM surepost_inbox", "DELETE FROM surepost_parked_action",
			"INSERT INTO surepost_cancellation (by, event_id, type, key, source, not_before) VALUES ('', '', '', '', '', now())",
		},
		"a_consumer": {
			"SELECT FROM surepost_outbox", "INSERT INTO surepost_outbox (time, slot, id, type, version, source, data) VALUES (now(), 1, '1', 't', '1', 's', '{}')",
			"SELECT surepost_write('T', '{}', source => 's')", "UPDATE surepost_inbox SET handled_at = now()", "DELETE FROM surepost_inbox", "TRUNCATE surepost_inbox",
			"UPDATE surepost_inbox_0 SET event_id = 'x'", "UPDATE surepost_inbox_other SET handled_at = now()", "INSERT INTO surepost_inbox_0 (consumer, event_id, leaf) VALUES ('c', 'x', 0)",
			"TRUNCATE surepost_inbox_attempt", "SELECT FROM surepost_scheduled", "SELECT FROM surepost_parked", "SELECT FROM surepost_ring", "SELECT FROM surepost_lease",
		},
		"an_operator": {
			"INSERT INTO surepost_outbox (time, slot, id, type, version, source, data) VALUES (now(), 1, '1', 't', '1', 's', '{}')", "SELECT surepost_write('T', '{}', source => 's')",
			"UPDATE surepost_outbox SET data = '{}'", "DELETE FROM surepost_outbox", "TRUNCATE surepost_outbox_0", "SELECT setval('surepost_sequence', 1)", "UPDATE surepost_ring SET left_at = now()",
			"UPDATE surepost_scheduled SET data = '{}'", "INSERT INTO surepost_scheduled (not_before, time, slot, id, type, version, source, data) VALUES (now(), now(), 1, '1', 't', '1', 's', '{}')",
			"UPDATE surepost_parked_action SET by = 'somebody else'", "DELETE FROM surepost_parked_action", "UPDATE surepost_cancellation SET by = 'somebody else'", "DELETE FROM surepost_cancellation",
			"UPDATE surepost_checkpoint SET hot = 1", "DELETE FROM surepost_inbox", "INSERT INTO surepost_inbox (consumer, event_id, leaf) VALUES ('c', 'x', 0)", "SELECT FROM surepost_inbox_attempt",
			"UPDATE surepost_migration SET version = 99",
		},
	} {
		pool := s.pool(login)
		for _, statement := range append(statements, "SELECT FROM orders", "CREATE TABLE public.mine (id int)", "DROP TABLE surepost_outbox", "ALTER TABLE surepost_lease ADD COLUMN x int",
			"CREATE FUNCTION public.surepost_ring() RETURNS smallint LANGUAGE sql AS 'SELECT 1::smallint'", "CREATE ROLE another", "SET ROLE shop_owner") {
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), statement)
				return errors.Join(err, errRolledBack)
			})
			var refused *pgconn.PgError
			if !errors.As(err, &refused) || refused.Code != "42501" {
				t.Errorf("%s may %s: %v", login, statement, err)
			}
		}
	}
}

// errRolledBack ends a transaction that must leave nothing.
var errRolledBack = errors.New("rolled back")
