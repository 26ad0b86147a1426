package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// documents returns the texts of docs/*.md by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d documents, %v", len(files), err)
	}
	texts := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(file)] = string(text)
	}
	return texts
}

func blocksOf(text, language string) (blocks []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// Every block of the documents is SQL, which is run below, or commands, which are parsed by the program that they are for.
func TestTheDocumentsCommandsExist(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "surepost")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../cmd/surepost"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	parsed := 0
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile("(?m)^```(.+)$").FindAllStringSubmatch(text, -1) {
			if m[1] != "sh" && m[1] != "sql" {
				t.Errorf("%s: nothing tries blocks of %q", name, m[1])
			}
		}
		for _, block := range blocksOf(text, "sh") {
			for line := range strings.Lines(block) {
				line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
				words, err := shellWords(line)
				if err != "" {
					t.Errorf("%s: %s: %s", name, line, err)
				}
				switch {
				case len(words) == 0:
				case words[0] == "surepost":
					// Flags and arguments are parsed before the help is shown.
					cmd := exec.Command(program, append(words[1:], "--help")...)
					cmd.Env = []string{"HOME=/nowhere"}
					if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("Commands:")) {
						t.Errorf("%s: %s: %v\n%s", name, line, err, out)
					}
					parsed++
				case !slices.Contains([]string{"pg_dump", "pg_restore", "docker", "kubectl", "systemctl", "rabbitmqctl"}, words[0]):
					t.Errorf("%s: nothing tries %q", name, line)
				}
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("../docs", m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", name, err)
			}
		}
		for _, m := range regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]+)`").FindAllStringSubmatch(text, -1) {
			if out, err := exec.Command("grep", "-rlq", "--include=*_test.go", "^func "+m[1]+"(", "..").CombinedOutput(); err != nil {
				t.Errorf("%s: there is no %s: %v %s", name, m[1], err, out)
			}
		}
	}
	if parsed < 10 {
		t.Errorf("only %d commands were found", parsed)
	}
}

// shellWords splits a line at blanks, with words in double quotes.
func shellWords(line string) (words []string, problem string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	if strings.Count(line, `"`)%2 != 0 {
		problem = "a quote is open"
	}
	return words, problem
}

// asRole opens the pool's database with the rights of one of the documents' roles.
func asRole(t *testing.T, pool *pgxpool.Pool, role string) (*pgxpool.Pool, *pgxstore.Store) {
	t.Helper()
	config := pool.Config()
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET ROLE "+role)
		return err
	}
	p, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	s := pgxstore.New(p)
	t.Cleanup(func() { s.Close(context.Background()) })
	return p, s
}

// The SQL of the documents runs, and the roles of docs/operations.md are enough for what each is for.
func TestTheDocumentsSQLRuns(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres // roles belong to the server, not to the database
	pool, _ := poolOn(t, server.URL())
	for _, text := range documents(t) {
		for _, block := range blocksOf(text, "sql") {
			execSQL(t, pool, block)
		}
	}
	as := func(role string) (*pgxpool.Pool, *pgxstore.Store) { return asRole(t, pool, role) }

	producer, producerStore := as("surepost_producer")
	box, err := outbox.New(producerStore, outbox.Config{Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Second)
	write(t, producer, box,
		surepost.Event{ID: "bound", Type: "Bound", Key: "k"}, surepost.Event{ID: "unbound", Type: "Unbound", Key: "u"},
		surepost.Event{ID: "soon", Type: "Bound", Key: "k", NotBefore: soon},
		surepost.Event{ID: "never", Type: "Bound", Key: "k", NotBefore: soon.Add(time.Hour)},
		surepost.Event{ID: "later", Type: "Bound", Key: "k", NotBefore: soon.Add(time.Hour)})
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
	execSQL(t, producer, "SELECT surepost_write('Bound', '{}', source => 's')")
	if _, err := producer.Exec(t.Context(), "INSERT INTO surepost_outbox (tx, time, slot, id, type, version, source, data) VALUES ('1', now(), 1, '1', 't', '1', 's', '{}')"); err == nil {
		t.Error("a producer may set tx")
	}

	broker, err := amqptest.Start(amqptest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	queue, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{broker.URL()}}, Queue: "q", Types: []string{"Bound"},
		Handler: nothing{},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, queue.Run)
	_, relayStore := as("surepost_relay")
	r, err := relay.New(relayStore, newPublisher(t, broker.URL()), relay.Config{Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context()); err != nil {
		t.Error(err)
	}
	background(t, r.Run)
	awaitFor(t, "the relay has published three events and parked one", func() bool {
		rp := r.Report()
		return rp.Published >= 3 && rp.Parked >= 1
	})

	_, operator := as("surepost_operator")
	if status, err := operator.Status(t.Context()); err != nil || len(status.Destinations) != 1 {
		t.Errorf("status: %+v, %v", status, err)
	}
	if _, err := operator.Diagnose(t.Context(), diagnosis.Limits{}); err != nil {
		t.Error(err)
	}
	if n, err := operator.RetryParked(t.Context(), relay.ParkedFilter{Destination: "default"}, "op"); err != nil || n != 1 {
		t.Errorf("retried %d, %v", n, err)
	}
	if n, err := operator.DiscardParked(t.Context(), relay.ParkedFilter{Destination: "default"}, "op"); err != nil || n != 1 {
		t.Errorf("discarded %d, %v", n, err)
	}
	if _, err := operator.ParkedActions(t.Context(), relay.ParkedFilter{}, 10); err != nil {
		t.Error(err)
	}
	if n, err := operator.CancelScheduled(t.Context(), relay.ScheduledFilter{}, "op"); err != nil || n != 1 {
		t.Errorf("cancelled %d, %v", n, err)
	}
	if err := operator.SetLanes(t.Context(), "default", 2); err != nil {
		t.Error(err)
	}
	if _, err := operator.CreateReplay(t.Context(), "again", relay.EventFilter{}, "op"); err != nil {
		t.Error(err)
	}
	if err := operator.RemoveDestination(t.Context(), "again"); err != nil {
		t.Error(err)
	}

	_, consumerStore := as("surepost_consumer")
	in := newInbox(t, consumerStore, "c")
	if _, err := in.Process(t.Context(), received("e1", ""), func(context.Context, pgx.Tx, surepost.Event) error { return nil }); err != nil {
		t.Error(err)
	}
	if _, err := in.StartAttempt(t.Context(), "e3", 5); err != nil {
		t.Error(err)
	}
	if err := in.ForgetAttempts(t.Context(), "e3"); err != nil {
		t.Error(err)
	}
}

// nothing handles events by doing nothing.
type nothing struct{}

func (nothing) Handle(context.Context, surepost.Event) (inbox.Result, error) {
	return inbox.Handled, nil
}
