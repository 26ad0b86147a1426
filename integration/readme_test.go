package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// readmeBlocks returns the code blocks of a language, in order.
func readmeBlocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("the README has no %s block", language)
	}
	return blocks
}

// readmeProgram is what the README's pieces stand in.
const readmeProgram = `package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

type Order struct {
	ID       int
	Customer string
	Item     string
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rabbitURL := os.Getenv("RABBIT_URL")
	pool, err := pgxpool.New(ctx, os.Getenv("POSTGRES_URL"))
	if err != nil {
		log.Fatal(err)
	}
	pool.Exec(ctx, "CREATE TABLE orders (id int, customer text); CREATE TABLE stock (item text, count int); INSERT INTO stock VALUES ('tea', 10)")
PIECES
	for count := 10; count == 10; time.Sleep(10 * time.Millisecond) {
		if err := pool.QueryRow(ctx, "SELECT count FROM stock").Scan(&count); err != nil {
			log.Fatal(err)
		}
		if count < 10 {
			fmt.Println("stock", count)
		}
	}
}
`

func TestTheReadmesProgramRuns(t *testing.T) {
	t.Parallel()
	env := harness.Start(t, harness.Postgres(), harness.RabbitMQ())
	dir, err := os.MkdirTemp("testdata", "readme") // inside the module, so that its requirements apply
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pieces := readmeBlocks(t, "go")
	if len(pieces) != 3 {
		t.Fatalf("the README has %d pieces of Go, want 3", len(pieces))
	}
	program := strings.Replace(readmeProgram, "PIECES", strings.Join(pieces, ""), 1)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", "./"+dir)
	cmd.Env = append(os.Environ(), "POSTGRES_URL="+env.Postgres.URL(), "RABBIT_URL="+env.RabbitMQ.URL())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "stock 9") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Every block is run somewhere: Go and SQL below, the shell's commands by .ci/run, an envelope here.
func TestEveryBlockOfTheReadmeIsRun(t *testing.T) {
	t.Parallel()
	ci, err := os.ReadFile("../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range readmeBlocks(t, "sh") {
		for line := range strings.Lines(block) {
			if !strings.Contains(string(ci), strings.TrimSpace(line)) {
				t.Errorf("CI doesn't run %q", line)
			}
		}
	}
	for _, block := range readmeBlocks(t, "json") {
		if e, err := surepost.ParseEnvelope([]byte(block)); err != nil || e.Type != "OrderCreated" {
			t.Errorf("%+v, %v", e, err)
		}
	}
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^```(.+)$").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains("sh go sql json", m[1]) {
			t.Errorf("nothing runs blocks of %q", m[1])
		}
	}
}

// The README's grants are enough for each role, and no more than the tables.
func TestTheReadmesSQLRuns(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres // roles belong to the server, not to the database
	pool, _ := poolOn(t, server.URL())
	for _, block := range readmeBlocks(t, "sql") {
		execSQL(t, pool, block)
	}
	as := func(role string) (*pgxpool.Pool, *pgxstore.Store) { return asRole(t, pool, role) }
	producer, producerStore := as("surepost_producer")
	box, err := outbox.New(producerStore, outbox.Config{Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	write(t, producer, box, surepost.Event{Type: "T", Key: "k"})
	execSQL(t, producer, "SELECT surepost_write('T', '{}', source => 's')")
	if _, err := producer.Exec(t.Context(), "INSERT INTO surepost_outbox (tx, time, slot, id, type, version, source, data) VALUES ('1', now(), 1, '1', 't', '1', 's', '{}')"); err == nil {
		t.Error("a producer may set tx")
	}

	_, relayStore := as("surepost_relay")
	if err := relayStore.Check(t.Context()); err != nil {
		t.Error(err)
	}
	log, lease := openLog(t, relayStore, "a")
	page, err := log.Read(t.Context(), 10)
	if err != nil || len(page.Entries) != 3 {
		t.Fatalf("%d entries, %v", len(page.Entries), err)
	}
	for range 300 { // the trimming too
		if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: page.Entries[0], Reason: "r"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Released(t.Context(), 10); err != nil {
		t.Error(err)
	}
	if _, err := log.Unpark(t.Context(), page.Entries[:1], nil, []string{"k"}); err != nil {
		t.Error(err)
	}
	if err := relayStore.Renew(t.Context(), lease, time.Minute); err != nil {
		t.Error(err)
	}

	_, consumerStore := as("surepost_consumer")
	in := newInbox(t, consumerStore, "c")
	if _, err := in.Process(t.Context(), received("e1", ""), func(context.Context, pgx.Tx, surepost.Event) error { return nil }); err != nil {
		t.Error(err)
	}
	in.On("OrderCreated", func(context.Context, pgx.Tx, surepost.Event) error { return nil })
	if _, err := in.HandleBatch(t.Context(), []surepost.Event{received("e1", ""), received("e2", "")}); err != nil {
		t.Error(err)
	}
	for range 2 { // the second is an update
		if _, err := in.StartAttempt(t.Context(), "e3", 5); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(in.FinishAttempt(t.Context(), "e3", errors.New("no luck")), in.ForgetAttempts(t.Context(), "e3")); err != nil {
		t.Error(err)
	}
}
