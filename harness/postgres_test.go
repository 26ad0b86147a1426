package harness

import (
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost/harness/internal/server"
)

func TestParallelTestsDoNotSeeEachOthersTables(t *testing.T) {
	t.Parallel()
	for range 4 {
		t.Run("same/Name", func(t *testing.T) {
			t.Parallel()
			pg := postgres(t)
			conn := connect(t, pg.URL())
			exec(t, conn, "CREATE TABLE mine (id int)")
			other := connect(t, pg.NewDatabase(t))
			exec(t, other, "CREATE TABLE mine (id int)")
		})
	}
}

func TestDatabaseGoesWithItsTest(t *testing.T) {
	t.Parallel()
	var used, admin string
	t.Run("leaves a session and a prepared transaction", func(t *testing.T) {
		pg := postgres(t)
		used, admin = pg.URL(), pg.AdminURL()
		conn, err := pgx.Connect(t.Context(), used)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, conn, "CREATE TABLE left_behind (id int)")
		exec(t, conn, "BEGIN; INSERT INTO left_behind VALUES (1); PREPARE TRANSACTION 'it''s left'")
	})
	u, _ := url.Parse(used)
	if n := scalar[int](t, connect(t, admin), "SELECT count(*) FROM pg_database WHERE datname = '"+u.Path[1:]+"'"); n != 0 {
		t.Errorf("database %s still exists", u.Path[1:])
	}
}

func TestPrivatePostgresKeepsPortAndCommitsOverACrash(t *testing.T) {
	t.Parallel()
	pg := postgres(t, Private(), Setting("max_prepared_transactions", "7"))
	conn := connect(t, pg.URL())
	if got := scalar[string](t, conn, "SHOW max_prepared_transactions"); got != "7" {
		t.Errorf("max_prepared_transactions = %s, want the test's own setting", got)
	}
	if got := scalar[string](t, conn, "SHOW fsync"); got != "on" {
		t.Errorf("fsync = %s: a crash would lose what was confirmed", got)
	}
	exec(t, conn, "CREATE TABLE kept (id int)")
	for i, interrupt := range []func(testing.TB){pg.Restart, func(tb testing.TB) { pg.Kill(tb); pg.Start(tb) }} {
		conn := connect(t, pg.URL())
		exec(t, conn, "INSERT INTO kept VALUES (1)")
		interrupt(t)
		if conn.Ping(t.Context()) == nil {
			t.Error("a connection survived")
		}
		if n := scalar[int](t, connect(t, pg.URL()), "SELECT count(*) FROM kept"); n != i+1 {
			t.Errorf("%d rows, want %d", n, i+1)
		}
	}
	pg.Stop(t)
	if _, err := pgx.Connect(t.Context(), pg.URL()); err == nil {
		t.Error("a stopped server answers")
	}
}

func TestSharedServerCannotBeStopped(t *testing.T) {
	t.Parallel()
	said := new(fakeTB).run(func(tb testing.TB) { postgres(tb).Stop(tb) })
	wantContains(t, said, "cannot stop PostgreSQL", "other tests use it", "harness.Private()")
}

func TestSettingOfASharedServerIsRefused(t *testing.T) {
	t.Parallel()
	said := new(fakeTB).run(func(tb testing.TB) { postgres(tb, Setting("work_mem", "1MB")) })
	wantContains(t, said, "add harness.Private()")
}

func TestFailedStartShowsTheLog(t *testing.T) {
	t.Parallel()
	said := new(fakeTB).run(func(tb testing.TB) { postgres(tb, Private(), Setting("no_such_thing", "1")) })
	wantContains(t, said, "PostgreSQL ended while it started", "the end of its log", "no_such_thing")
}

func TestFailedTestShowsThePrivateServersLog(t *testing.T) {
	t.Parallel()
	said := new(fakeTB).run(func(tb testing.TB) {
		postgres(tb, Private())
		tb.Errorf("the test's own complaint")
	})
	wantContains(t, said, "the last lines of PostgreSQL's log", "ready to accept connections")
}

func TestServerOfTheEnvironmentIsUsedAndLeftRunning(t *testing.T) {
	given, err := sharedServer(server.PostgreSQL, server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(server.PostgreSQL.URLVar, given.URL)
	env := must[*Env](t, "start")(StartEnv(t.Context(), Postgres()))
	pg := env.Postgres
	if pg.AdminURL() != given.URL {
		t.Errorf("uses %s, want %s", pg.AdminURL(), given.URL)
	}
	must[string](t, "create a database")(pg.CreateDatabase(t.Context(), "Orders!"))
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	conn := connect(t, given.URL)
	if n := scalar[int](t, conn, `SELECT count(*) FROM pg_database WHERE datname ~ '^surepost_(main|orders)_'`); n != 0 {
		t.Errorf("%d databases were left", n)
	}
	private := postgres(t, Private())
	if private.AdminURL() == given.URL {
		t.Error("a private server was taken from the environment")
	}
}

func TestWrongURLOfTheEnvironmentIsNotPassedOver(t *testing.T) {
	t.Setenv(server.PostgreSQL.URLVar, "host=localhost")
	_, err := StartEnv(t.Context(), Postgres())
	wantContains(t, err.Error(), "SUREPOST_POSTGRES_URL is not a URL: write it like postgres://")

	t.Setenv(server.PostgreSQL.URLVar, "postgres://u:secret@127.0.0.1:1/postgres")
	_, err = StartEnv(t.Context(), Postgres())
	wantContains(t, err.Error(), "no PostgreSQL answers at postgres://u:xxxxx@127.0.0.1:1/postgres", "unset SUREPOST_POSTGRES_URL")
}
