package harness

import (
	"context"
	"database/sql"
	"net/url"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// The driver complains of each connection that ends, and some tests are there to end them.
func init() { _ = mysql.SetLogger(&mysql.NopLogger{}) }

func openDSN(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db := must[*sql.DB](t, "open")(sql.Open("mysql", dsn))
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func execDB(t testing.TB, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func countDB(t testing.TB, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestParallelTestsDoNotSeeEachOthersMariaDBTables(t *testing.T) {
	t.Parallel()
	for range 4 {
		t.Run("same/Name", func(t *testing.T) {
			t.Parallel()
			m := mariaDB(t)
			execDB(t, openDSN(t, m.DSN()), "CREATE TABLE mine (id int)")
			execDB(t, openDSN(t, MariaDBDSN(m.NewDatabase(t))), "CREATE TABLE mine (id int)")
		})
	}
}

// A session in the middle of a transaction holds a metadata lock, for which DROP DATABASE would wait.
func TestMariaDBDatabaseGoesWithItsTest(t *testing.T) {
	t.Parallel()
	var used, admin string
	t.Run("leaves an open transaction", func(t *testing.T) {
		m := mariaDB(t)
		used, admin = m.URL(), m.AdminURL()
		db := must[*sql.DB](t, "open")(sql.Open("mysql", m.DSN()))
		execDB(t, db, "CREATE TABLE left_behind (id int) ENGINE=InnoDB")
		tx := must[*sql.Tx](t, "begin")(db.BeginTx(context.Background(), nil))
		if _, err := tx.Exec("INSERT INTO left_behind VALUES (1)"); err != nil {
			t.Fatal(err)
		}
	})
	u, _ := url.Parse(used)
	db := openDSN(t, MariaDBDSN(admin))
	if n := countDB(t, db, "SELECT count(*) FROM information_schema.schemata WHERE schema_name = ?", u.Path[1:]); n != 0 {
		t.Errorf("database %s still exists", u.Path[1:])
	}
}

func TestPrivateMariaDBKeepsPortAndCommitsOverACrash(t *testing.T) {
	t.Parallel()
	m := mariaDB(t, Private(), Setting("max-allowed-packet", "2097152"))
	db := openDSN(t, m.DSN())
	if got := countDB(t, db, "SELECT @@max_allowed_packet"); got != 2097152 {
		t.Errorf("max_allowed_packet = %d, want the test's own setting", got)
	}
	if got := countDB(t, db, "SELECT @@innodb_flush_log_at_trx_commit"); got != 1 {
		t.Errorf("innodb_flush_log_at_trx_commit = %d: a crash would lose what was confirmed", got)
	}
	execDB(t, db, "CREATE TABLE kept (id int) ENGINE=InnoDB")
	for i, interrupt := range []func(testing.TB){m.Restart, func(tb testing.TB) { m.Kill(tb); m.Start(tb) }} {
		conn := must[*sql.Conn](t, "connect")(openDSN(t, m.DSN()).Conn(t.Context()))
		if _, err := conn.ExecContext(t.Context(), "INSERT INTO kept VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		interrupt(t)
		if conn.PingContext(t.Context()) == nil {
			t.Error("a connection survived")
		}
		if n := countDB(t, openDSN(t, m.DSN()), "SELECT count(*) FROM kept"); n != i+1 {
			t.Errorf("%d rows, want %d", n, i+1)
		}
	}
	m.Stop(t)
	if openDSN(t, m.DSN()).PingContext(t.Context()) == nil {
		t.Error("a stopped server answers")
	}
}

// Other users of the machine reach the port too.
func TestMariaDBWantsItsPassword(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(mariaDB(t).AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"root", "nobody", "mysql", ""} {
		u.User = url.User(user)
		if openDSN(t, MariaDBDSN(u.String())).PingContext(t.Context()) == nil {
			t.Errorf("user %q comes in without a password", user)
		}
	}
}
