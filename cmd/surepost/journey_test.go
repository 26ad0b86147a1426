package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/cmd/surepost/internal/cli"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// shop is a database and a broker with a producer and a queue.
type shop struct {
	user
	pool    *pgxpool.Pool
	box     *outbox.Outbox[pgx.Tx]
	commit  func(events ...surepost.Event) error // elsewhere than in PostgreSQL
	channel *amqp091.Channel
	came    <-chan amqp091.Delivery
}

// openShop migrates a database with the program itself, and binds a queue to what the type Order* is published under.
func openShop(t *testing.T, options ...harness.Option) *shop {
	env := harness.Start(t, harness.Postgres(options...), harness.RabbitMQ())
	secrets := t.TempDir()
	write(t, filepath.Join(secrets, "database"), env.Postgres.URL()+"\n")
	broker, err := url.Parse(env.RabbitMQ.URL())
	must(t, err)
	password, _ := broker.User.Password()
	write(t, filepath.Join(secrets, "rabbitmq"), password+"\n")
	username := broker.User.Username()
	broker.User = nil
	s := &shop{user: user{t: t, env: []string{"SUREPOST_DATABASE_URL_FILE=" + filepath.Join(secrets, "database"),
		"SUREPOST_BROKER_URLS=" + broker.String(), "SUREPOST_BROKER_USERNAME=" + username,
		"SUREPOST_BROKER_PASSWORD_FILE=" + filepath.Join(secrets, "rabbitmq"),
		"SUREPOST_HTTP_LISTEN=127.0.0.1:0", "SUREPOST_RELAY_UNROUTABLE_TRIES=1", "SUREPOST_RELAY_LEASE_TTL=3s"}}}
	if applied := list[cli.MigrationView](s.user, "migrate", "up"); len(applied) < 4 {
		t.Fatalf("migrate up has applied %+v", applied)
	}
	pool, err := pgxpool.New(t.Context(), env.Postgres.URL())
	must(t, err)
	t.Cleanup(pool.Close)
	s.pool = pool
	s.box, err = outbox.New(pgxstore.New(pool), outbox.Config{Source: "shop"})
	must(t, err)
	s.listen(env.RabbitMQ.URL())
	return s
}

// listen consumes what is published for orders.
func (s *shop) listen(address string) {
	s.t.Helper()
	conn, err := amqp091.Dial(address)
	must(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	s.channel, err = conn.Channel()
	must(s.t, err)
	must(s.t, s.channel.ExchangeDeclare("events", "topic", true, false, false, false, nil))
	s.queue("orders", "events", "shop.Order*", "shop.OrderCreated")
	s.came, err = s.channel.Consume("orders", "", true, false, false, false, nil)
	must(s.t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *shop) queue(name, exchange string, keys ...string) {
	s.t.Helper()
	_, err := s.channel.QueueDeclare(name, true, false, false, false, nil)
	must(s.t, err)
	for _, key := range keys {
		must(s.t, s.channel.QueueBind(name, key, exchange, false, nil))
	}
}

func (s *shop) write(events ...surepost.Event) {
	s.t.Helper()
	if s.commit != nil {
		must(s.t, s.commit(events...))
		return
	}
	must(s.t, pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error { return s.box.Write(s.t.Context(), tx, events...) }))
}

// receives waits for messages and returns the ids.
func (s *shop) receives(n int) (ids []string) {
	s.t.Helper()
	for range n {
		select {
		case d := <-s.came:
			ids = append(ids, d.MessageId)
		case <-time.After(limit):
			s.t.Fatalf("%d of %d messages came", len(ids), n)
		}
	}
	return ids
}

// shows waits until a command prints what satisfies the condition.
func shows[T any](u user, what string, condition func([]T) bool, args ...string) []T {
	u.t.Helper()
	for deadline := time.Now().Add(limit); ; {
		got := list[T](u, args...)
		if condition(got) {
			return got
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("surepost %s doesn't show %s: %+v", strings.Join(args, " "), what, got)
		}
	}
}

func TestAnOperatorsDayOnPostgreSQLAndRabbitMQ(t *testing.T) {
	s := openShop(t)
	s.write(surepost.Event{ID: "one", Type: "OrderCreated", Key: "k", Data: map[string]int{"n": 1}},
		surepost.Event{ID: "two", Type: "OrderCreated", Data: 2})
	relay := s.start("relay", "--log-format=json", "--relay-retention=3d")
	if got := s.receives(2); got[0] != "one" && got[1] != "one" {
		t.Errorf("published were %v", got)
	}

	// Events.
	tail := s.start("events", "tail", "--json", "--from=1h", "--interval=50ms")
	tail.says(`"id":"two"`)
	s.write(surepost.Event{ID: "three", Type: "Unwanted", Key: "p\x1b[2Jq", Data: 3}, surepost.Event{ID: "four", Type: "OrderCreated", Key: "p\x1b[2Jq", Data: 4})
	tail.says(`"id":"four"`)
	tail.signal(syscall.SIGINT)
	if code := tail.ends(); code != 0 {
		t.Errorf("the tail ends with %d", code)
	}
	tail.mu.Lock()
	if got := lines[cli.EventView](t, tail.out.String()); len(got) != 4 {
		t.Errorf("the tail has shown %+v", got)
	}
	tail.mu.Unlock()
	if got := list[cli.EventView](s.user, "events", "list", "--type=OrderCreated", "--until=2999-01-01"); len(got) != 3 || got[0].ID != "one" || got[0].Source != "shop" {
		t.Errorf("events list shows %+v", got)
	}
	if got := one[cli.EventView](s.user, "events", "show", "one"); string(got.Data) != `{"n":1}` && string(got.Data) != `{"n": 1}` {
		t.Errorf("events show shows %+v", got)
	}
	s.refused(1, `no event with the id "none"`, "events", "show", "none")

	// Parked events.
	parked := shows(s.user, "the event that nobody wants and the one behind it", func(p []cli.ParkedView) bool { return len(p) == 2 }, "parked", "list")
	if parked[0].Event.ID != "three" || parked[0].Behind || !parked[1].Behind || parked[0].Reason == "" {
		t.Errorf("parked list shows %+v", parked)
	}
	if out := s.ok("parked", "list"); strings.Contains(out, "\x1b") {
		t.Errorf("an event's key speaks to the terminal: %q", out)
	}
	if got := list[cli.ParkedView](s.user, "parked", "list", "--reason=no such reason"); len(got) != 0 {
		t.Errorf("parked list --reason shows %+v", got)
	}
	if got := one[cli.ParkedView](s.user, "parked", "show", "three"); got.Event.ID != "three" {
		t.Errorf("parked show shows %+v", got)
	}
	s.refused(1, "no event with the id", "parked", "show", "one")
	if got := one[cli.CountView](s.user, "parked", "retry", "--id=three", "--by=anna"); got.Count != 1 || got.By != "anna" {
		t.Errorf("parked retry: %+v", got)
	}
	shows(s.user, "it parked again", func(p []cli.ParkedView) bool { return len(p) == 2 && !p[0].Retrying }, "parked", "list")
	s.refused(2, "add --yes", "parked", "discard", "--id=three")
	if got := one[cli.CountView](s.user, "parked", "discard", "--id=three", "--yes"); got.Count != 1 || got.By == "" {
		t.Errorf("parked discard: %+v", got)
	}
	s.refused(1, "it was discarded or published before", "parked", "discard", "--id=three", "--yes") // discarding twice
	if got := s.receives(1); got[0] != "four" {
		t.Errorf("published was %v", got)
	}
	if log := list[cli.ParkedActionView](s.user, "parked", "log"); len(log) != 2 || log[0].Action != "discard" || log[1].By != "anna" {
		t.Errorf("parked log shows %+v", log)
	}

	// Delayed events.
	s.write(surepost.Event{ID: "later", Type: "OrderCreated", Data: 5, NotBefore: time.Now().Add(24 * time.Hour)})
	if got := list[cli.ScheduledView](s.user, "scheduled", "list", "--from=23h", "--until=25h"); len(got) != 1 || got[0].Event.ID != "later" {
		t.Errorf("scheduled list shows %+v", got)
	}
	s.refused(2, "add --yes", "scheduled", "cancel", "--id=later")
	if got := one[cli.CountView](s.user, "scheduled", "cancel", "--id=later", "--yes", "--by=anna"); got.Count != 1 {
		t.Errorf("scheduled cancel: %+v", got)
	}
	s.refused(1, "taken back before", "scheduled", "cancel", "--id=later", "--yes")
	if log := list[cli.CancellationView](s.user, "scheduled", "log"); len(log) != 1 || log[0].By != "anna" || log[0].ID != "later" {
		t.Errorf("scheduled log shows %+v", log)
	}

	// Status, health and metrics.
	shows(s.user, "that nothing waits", func(v []cli.StatusView) bool {
		return len(v) == 1 && len(v[0].Destinations) == 1 && *v[0].Destinations[0].Backlog == 0 && len(v[0].Destinations[0].Relays) == 1
	}, "status")
	if out := s.ok("status"); !strings.Contains(out, "nothing waits") {
		t.Errorf("status says %s", out)
	}
	address := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(relay.output())[1]
	for path, want := range map[string]string{"/metrics": "\nsurepost_outbox_retention_seconds 259200\n", "/healthz": "running", "/readyz": "database"} {
		if code, body := get(t, "http://"+address+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s answers %d %s", path, code, body)
		}
	}

	// Destinations.
	if got := one[cli.DoneView](s.user, "destinations", "add", "second", "--from=now"); got.Name != "second" {
		t.Errorf("destinations add: %+v", got)
	}
	s.refused(1, "already", "destinations", "add", "second")
	s.ok("destinations", "lanes", "second", "3")
	if got := list[cli.DestinationView](s.user, "destinations", "list"); len(got) != 2 || got[1].Name != "second" || got[1].Lanes != 3 {
		t.Errorf("destinations list shows %+v", got)
	}
	s.refused(2, "add --yes", "destinations", "remove", "second")
	s.ok("destinations", "remove", "second", "--yes")
	s.refused(1, "no destination", "destinations", "remove", "second", "--yes")

	// The relay stops in good order.
	relay.signal(syscall.SIGTERM)
	if code := relay.ends(); code != 0 {
		t.Errorf("the relay ends with %d", code)
	}
	relay.says("surepost relay has stopped")
	relay.mu.Lock()
	for line := range strings.Lines(relay.err.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("the log isn't JSON: %s", line)
		}
	}
	relay.mu.Unlock()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	must(t, err)
	answer, err := http.DefaultClient.Do(request)
	must(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, string(body)
}

func TestAReplayIsCountedStartedInterruptedResumedAndCancelled(t *testing.T) {
	s := openShop(t)
	var events []surepost.Event
	for i := range 40 {
		events = append(events, surepost.Event{ID: fmt.Sprintf("e%02d", i), Type: "OrderCreated", Key: fmt.Sprint(i % 4), Data: i})
	}
	s.write(events...)
	s.queue("again", "events")
	s.env = append(s.env, "SUREPOST_RELAY_DESTINATION=default")
	again, err := s.channel.Consume("again", "", true, false, false, false, nil)
	must(t, err)
	s.came = again

	counted := one[cli.ReplayCountView](s.user, "replay", "start", "all", "--all", "--dry-run")
	if counted.Events != 40 || counted.ByType["OrderCreated"] != 40 {
		t.Errorf("counted are %+v", counted)
	}
	s.refused(1, "selects no event", "replay", "start", "all", "--type=None", "--queue=again", "--yes")
	s.refused(2, "add --yes", "replay", "start", "all", "--all", "--queue=again")
	if got := list[cli.DestinationView](s.user, "replay", "list"); len(got) != 0 {
		t.Errorf("a replay that was refused is there: %+v", got)
	}

	slow := s.start("replay", "start", "all", "--all", "--queue=again", "--rate=4", "--yes", "--by=anna", "--json")
	s.receives(2)
	slow.signal(syscall.SIGTERM)
	if code := slow.ends(); code != 1 || !strings.Contains(slow.output(), "surepost replay resume all") {
		t.Errorf("an interrupted replay ends with %d and says %s", code, slow.output())
	}
	if got := list[cli.DestinationView](s.user, "replay", "list"); len(got) != 1 || got[0].Replay.By != "anna" || got[0].Replay.DoneAt != nil {
		t.Errorf("replay list shows %+v", got)
	}
	s.refused(1, "replay resume all", "replay", "start", "all", "--all", "--queue=again", "--yes")
	ended := s.run("replay", "resume", "all", "--queue=again", "--json")
	var result cli.ReplayResultView
	if err := strictly(ended.out, &result); ended.code != 0 || err != nil || !result.Done || result.Published < 1 {
		t.Errorf("resumed: %v %s", err, ended)
	}
	seen := map[string]bool{"": true}
	for len(seen) < 41 {
		for _, id := range s.receives(1) {
			seen[id] = true
		}
		if len(seen) == 39 { // two were received before
			break
		}
	}
	if got := list[cli.DestinationView](s.user, "replay", "list"); got[0].Replay.DoneAt == nil {
		t.Errorf("a replay that is done is shown as %+v", got)
	}
	s.ok("replay", "cancel", "all", "--yes")
	s.refused(1, "no replay", "replay", "cancel", "all", "--yes")
	s.refused(1, "no replay", "replay", "resume", "all", "--queue=again")
}

func TestDoctorTellsByItsExitCodeHowBadItIs(t *testing.T) {
	s := openShop(t, harness.Private()) // the shared one isn't durable, which is critical
	found := func(code int, finding string, flags ...string) {
		t.Helper()
		r := s.run(append([]string{"doctor", "--json", "--clock-skew=1h"}, flags...)...)
		if got := lines[cli.FindingView](t, r.out); r.code != code || len(got) < 5 || !strings.Contains(r.out, finding) {
			t.Errorf("%s\nwant exit code %d and %q", r, code, finding)
		}
	}
	found(4, `"code":"no-relay","severity":"warning"`)
	s.start("relay").says("leading")
	r := s.run("doctor", "--clock-skew=1h")
	if r.code != 0 || strings.Contains(r.out, "WARNING") || !strings.Contains(r.out, "--all shows them") {
		t.Errorf("a healthy system: %s", r)
	}
	found(5, "orders.dlq", "--queue=orders")                         // it was declared by hand, without a dead-letter queue
	s.env = append(s.env, "SUREPOST_BROKER_URLS=amqp://127.0.0.1:1") // the last one counts
	found(5, `"code":"broker-unreachable","severity":"critical"`)
}

func TestDeadLettersAreListedAndRedriven(t *testing.T) {
	s := openShop(t)
	s.queue("orders.dlq", "events")
	must(t, s.channel.PublishWithContext(t.Context(), "", "orders.dlq", false, false, amqp091.Publishing{MessageId: "dead", Type: "OrderCreated", Body: []byte("{}")}))
	letters := shows(s.user, "the dead letter", func(l []cli.DeadLetterView) bool { return len(l) == 1 }, "deadletters", "list", "orders")
	if letters[0].ID != "dead" || letters[0].Type != "OrderCreated" {
		t.Errorf("deadletters list shows %+v", letters)
	}
	if got := one[cli.RedriveView](s.user, "redrive", "orders", "--to=orders", "--dry-run"); got.Moved != 1 || !got.DryRun {
		t.Errorf("redrive --dry-run: %+v", got)
	}
	s.refused(2, "add --yes", "redrive", "orders")
	if got := one[cli.RedriveView](s.user, "redrive", "orders", "--to=orders", "--yes"); got.Moved != 1 || got.DryRun {
		t.Errorf("redrive: %+v", got)
	}
	if got := s.receives(1); got[0] != "dead" {
		t.Errorf("redriven was %v", got)
	}
}

func TestNoPasswordIsTold(t *testing.T) {
	const secret = "n0b0dy-sh0uld-see"
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, secret)
	for _, u := range []user{
		{t, []string{"SUREPOST_DATABASE_URL=postgres://u:" + secret + "@127.0.0.1:1/db", "SUREPOST_BROKER_URLS=amqp://u:" + secret + "@127.0.0.1:1"}},
		{t, []string{"SUREPOST_DATABASE_URL=postgres://u@127.0.0.1:1/db", "SUREPOST_DATABASE_PASSWORD_FILE=" + file,
			"SUREPOST_BROKER_URLS=amqp://u@127.0.0.1:1", "SUREPOST_BROKER_PASSWORD=" + secret}},
		{t, []string{"SUREPOST_DATABASE_URL=mysql://u:" + secret + "@127.0.0.1:1/db", "SUREPOST_BROKER_URLS=amqp://u:" + secret + "/@127.0.0.1:1"}},
		{t, []string{"SUREPOST_DATABASE_URL=postgres://u:" + secret + "/@h/db", "SUREPOST_BROKER_URLS=" + secret + "@h"}},
		{t, []string{"SUREPOST_DATABASE_URL=host=h password=" + secret}},
	} {
		for _, args := range [][]string{{"config", "print"}, {"config", "check"}, {"status"}, {"migrate", "up"}, {"doctor"}, {"deadletters", "list", "q"}} {
			for _, r := range []result{u.run(args...), u.run(append(args, "--json")...)} {
				if strings.Contains(r.out+r.err, secret) {
					t.Errorf("%s: %s", strings.Join(args, " "), r)
				}
			}
		}
	}
}

func TestARelayWaitsForServersThatAreAwayAndASecondSignalEndsItAtOnce(t *testing.T) {
	env := harness.Start(t, harness.Postgres())
	u := user{t: t, env: []string{"SUREPOST_DATABASE_URL=" + env.Postgres.URL(), "SUREPOST_BROKER_URLS=amqp://127.0.0.1:1", "SUREPOST_HTTP_LISTEN=127.0.0.1:0"}}
	u.refused(3, "migrate", "relay") // time doesn't mend missing tables
	p := u.start("relay", "--migrate")
	p.says("the relay waits for it")
	address := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(p.output())[1]
	if code, body := get(t, "http://"+address+"/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d %s", code, body)
	}
	p.signal(syscall.SIGTERM)
	if code := p.ends(); code != 0 {
		t.Errorf("it ends with %d", code)
	}

	proxy := env.Postgres.Proxy(t)
	u.env[0] = "SUREPOST_DATABASE_URL=" + proxy.URL()
	stuck := u.start("relay", "--relay-shutdown-timeout=1h")
	stuck.says("the relay waits for it")
	proxy.Stall(harness.ToClient)
	stuck.signal(syscall.SIGTERM)
	stuck.signal(syscall.SIGINT) // another one, since the same could be taken together
	if code := stuck.ends(); code != 130 && code != 143 {
		t.Errorf("with a second signal it ends with %d", code)
	}
}
