package harness

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

func TestAServerThatWasNotAskedForIsNamed(t *testing.T) {
	t.Parallel()
	for want, use := range map[string]func(*Env){
		"PostgreSQL was not asked for: add harness.Postgres()": func(e *Env) { e.Postgres.URL() },
		"RabbitMQ was not asked for: add harness.RabbitMQ()":   func(e *Env) { e.RabbitMQ.VHost() },
		"MariaDB was not asked for: add harness.MariaDB()":     func(e *Env) { e.MariaDB.DSN() },
	} {
		other := Postgres()
		if strings.HasPrefix(want, "PostgreSQL") {
			other = MariaDB()
		}
		said := new(fakeTB).run(func(tb testing.TB) { use(Start(tb, other)) })
		wantContains(t, said, want+" to the call of harness.Start")
	}
	said := new(fakeTB).run(func(tb testing.TB) { Start(tb, Postgres()).RabbitMQ.Kill(tb) })
	wantContains(t, said, "RabbitMQ was not asked for")

	env := must[*Env](t, "start")(StartEnv(t.Context(), Postgres()))
	defer env.Close()
	defer func() {
		problem, _ := recover().(string)
		wantContains(t, problem, "RabbitMQ was not asked for")
	}()
	env.RabbitMQ.URL()
}

func TestWhatIsAskedForWronglyIsAllReported(t *testing.T) {
	t.Parallel()
	said := new(fakeTB).run(func(tb testing.TB) { Start(tb) })
	wantContains(t, said, "no server was asked for")
	said = new(fakeTB).run(func(tb testing.TB) {
		Start(tb, MariaDB(Setting("a", "b")), MariaDB(), Service{})
	})
	wantContains(t, said, "add harness.Private()", "MariaDB was asked for twice", "an empty Service")
}

func TestFailedTestShowsWhatASharedServerLoggedMeanwhile(t *testing.T) {
	t.Parallel()
	before := postgres(t)
	exec(t, connect(t, before.URL()), "DO $$ BEGIN RAISE LOG 'before that test'; END $$")
	within(t, 10*time.Second, "the line is in the log", func() bool { // Docker takes it over a moment later
		return strings.Contains(before.server.Log(t.Context(), before.begin), "before that test")
	})
	said := new(fakeTB).run(func(tb testing.TB) {
		pg := postgres(tb)
		exec(t, connect(t, pg.URL()), "DO $$ BEGIN RAISE LOG 'during that test'; END $$")
		tb.Errorf("the test's own complaint")
	})
	wantContains(t, said, "the last lines of PostgreSQL's log", "which other tests use too", "during that test")
	if strings.Contains(said, "before that test") {
		t.Errorf("it shows what was logged before the test began:\n%s", said)
	}
	if lines := strings.Count(said, "\n"); lines > server.LogLines+10 {
		t.Errorf("%d lines are shown", lines)
	}
	said = new(fakeTB).run(func(tb testing.TB) { postgres(tb) })
	if said != "" {
		t.Errorf("a test that passed said %q", said)
	}
}

// All of a test's servers are private to it here, so that they can be paused.
func TestPausedServersKeepTheirConnectionsAndAnswerNothing(t *testing.T) {
	t.Parallel()
	env := Start(t, Postgres(Private()), MariaDB(Private()))
	pg := connect(t, env.Postgres.URL())
	md := openDSN(t, env.MariaDB.DSN())
	ask := map[string]func() error{
		"PostgreSQL": func() error { return pg.Ping(t.Context()) },
		"MariaDB":    func() error { return md.PingContext(t.Context()) },
	}
	power := map[string]*powerSwitch{"PostgreSQL": &env.Postgres.powerSwitch, "MariaDB": &env.MariaDB.powerSwitch}
	for name, ping := range ask {
		if err := ping(); err != nil {
			t.Fatal(err)
		}
		power[name].Pause(t)
		answer := make(chan error, 1)
		go func() { answer <- ping() }()
		select {
		case err := <-answer:
			t.Errorf("%s answers while it is paused: %v", name, err)
		case <-time.After(300 * time.Millisecond):
		}
		power[name].Unpause(t)
		select {
		case err := <-answer:
			if err != nil {
				t.Errorf("%s lost the connection: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s doesn't go on", name)
		}
		// Whoever is paused can be stopped and killed.
		power[name].Pause(t)
		power[name].Restart(t)
		power[name].Pause(t)
		power[name].Kill(t)
		power[name].Start(t)
		power[name].Pause(t) // and is closed like this
	}
	connectSoon(t, env)
}

// connectSoon makes sure that nobody answers: both are paused.
func connectSoon(t *testing.T, env *Env) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := env.Postgres.admin(ctx, "SELECT 1"); err == nil {
		t.Error("a paused PostgreSQL answers a new connection")
	}
}

func TestUnknownSchemeIsNamedWithTheRightOne(t *testing.T) {
	for _, c := range []struct {
		service  Service
		variable string
		given    string
		want     []string
	}{
		{Postgres(), "SUREPOST_POSTGRES_URL", "mysql://u:secret@h/", []string{"has the scheme mysql://", "postgres:// or postgresql://", "postgres://user:password@host:5432/postgres"}},
		{RabbitMQ(), "SUREPOST_AMQP_URL", "http://u:secret@h:15672/", []string{"has the scheme http://", "amqp:// or amqps://", "amqp://user:password@host:5672/"}},
		{MariaDB(), "SUREPOST_MARIADB_URL", "u:secret@tcp(h:3306)/", []string{"is not a URL", "mysql://user:password@host:3306/"}},
		{MariaDB(), "SUREPOST_MARIADB_URL", "mysql:///db", []string{"names no host"}},
	} {
		t.Setenv(c.variable, c.given)
		_, err := StartEnv(t.Context(), c.service)
		if err == nil {
			t.Fatalf("%s is accepted", c.given)
		}
		wantContains(t, err.Error(), append(c.want, c.variable, "unset it")...)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the message has the password: %v", err)
		}
		t.Setenv(c.variable, "")
	}
}

// One server that is missing must not hide what is wrong with another.
func TestAllTroublesAreInOneMessage(t *testing.T) {
	for _, kind := range []*server.Kind{server.PostgreSQL, server.MariaDB} {
		t.Setenv(kind.ImageVar, "")
	}
	missing := func(kind *server.Kind) error {
		return &server.NoServerError{Kind: kind, Docker: errors.New("no engine answers"), Binaries: errors.New("none of " + kind.Name)}
	}
	err := failedStart([]error{missing(server.PostgreSQL), nil, missing(server.MariaDB), errors.New("another trouble")})
	wantContains(t, err.Error(), "another trouble", "no PostgreSQL, no MariaDB can be had", "SUREPOST_POSTGRES_URL, SUREPOST_MARIADB_URL: not set",
		"none of PostgreSQL", "none of MariaDB", "apt-get install postgresql mariadb-server", "docker pull postgres:18; docker pull mariadb:11")
	if n := strings.Count(err.Error(), "no engine answers"); n != 1 {
		t.Errorf("what is the same for both is said %d times:\n%v", n, err)
	}
}

func TestEachTestsAddressesAreItsOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 2 {
		env := Start(t, Postgres(), RabbitMQ(), MariaDB())
		for _, address := range []string{env.Postgres.URL(), env.RabbitMQ.URL(), env.MariaDB.URL()} {
			u := must[*url.URL](t, "parse")(url.Parse(address))
			if seen[u.Path] {
				t.Errorf("%s is given twice", u.Path)
			}
			seen[u.Path] = true
		}
	}
}

// None is an image's name here, so that the test needs no engine: it asks for binaries.
func TestTestsThatNameTheSameImageShareItsServerAndNoOther(t *testing.T) {
	other := postgres(t)
	t.Setenv(server.PostgreSQL.ImageVar, "of-another-name:1")
	t.Setenv(server.PostgreSQL.URLVar, "postgres://u:p@127.0.0.1:1/postgres")
	a, b := postgres(t, Image("none")), postgres(t, Image("none"))
	if a.AdminURL() != b.AdminURL() {
		t.Errorf("two servers run: %s and %s", a.AdminURL(), b.AdminURL())
	}
	if a.AdminURL() == other.AdminURL() {
		t.Error("a test that names no image uses the same server")
	}
	wantContains(t, a.server.Origin, "binaries in ")
	exec(t, connect(t, a.URL()), "SELECT 1")
}
