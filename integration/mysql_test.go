package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
	"github.com/surepost/surepost/sqlstore/storetest"
)

// startMariaDB returns a server with an empty database of the test's own.
func startMariaDB(t *testing.T, opts ...harness.Option) *harness.MariaDBServer {
	t.Helper()
	return harness.Start(t, harness.MariaDB(opts...)).MariaDB
}

// newMariaDB returns a store on a migrated database of the test's own.
func newMariaDB(t *testing.T, opts ...harness.Option) (*sql.DB, *mysqlstore.Store) {
	t.Helper()
	return mariaDBOn(t, startMariaDB(t, opts...).DSN())
}

func mariaDBOn(t *testing.T, dsn string) (*sql.DB, *mysqlstore.Store) {
	t.Helper()
	db := openMySQL(t, dsn)
	store := mysqlstore.New(db)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(context.Background()) })
	return db, store
}

func openMySQL(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(40)
	db.SetMaxIdleConns(40)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// withParams adds parameters to a DSN that has some.
func withParams(dsn, params string) string {
	if strings.Contains(dsn, "?") {
		return dsn + "&" + params
	}
	return dsn + "?" + params
}

var isolationLevels = []string{"READ-UNCOMMITTED", "READ-COMMITTED", "REPEATABLE-READ", "SERIALIZABLE"}

// withIsolation makes it the sessions' default. MariaDB's name for that was another until 11.1.
func withIsolation(t *testing.T, dsn, level string) string {
	t.Helper()
	variable := "transaction_isolation"
	if db := openMySQL(t, dsn); countDB(t, db, "SELECT VERSION() LIKE '%MariaDB%'") == 1 {
		variable = "tx_isolation"
	}
	return withParams(dsn, variable+"=%27"+level+"%27")
}

func execDB(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func countDB(t *testing.T, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func beginDB(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func inTx(ctx context.Context, db *sql.DB, work func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func writeDB(t *testing.T, db *sql.DB, box *outbox.Outbox[*sql.Tx], events ...surepost.Event) {
	t.Helper()
	if err := inTx(t.Context(), db, func(tx *sql.Tx) error { return box.Write(t.Context(), tx, events...) }); err != nil {
		t.Fatal(err)
	}
}

func TestMariaDBStoreConforms(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t, harness.Private())
	storetest.Run(t, func(t *testing.T) storetest.Backend[*sql.Tx] {
		db, store := mariaDBOn(t, harness.MariaDBDSN(server.NewDatabase(t)))
		execDB(t, db, "CREATE TABLE effect (name VARBINARY(255)) ENGINE = InnoDB")
		return storetest.Backend[*sql.Tx]{
			Store: store,
			Another: func(t *testing.T) storetest.Store[*sql.Tx] {
				other := mysqlstore.New(db)
				t.Cleanup(func() { other.Close(context.Background()) })
				return other
			},
			Begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
			Commit:   func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
			Rollback: func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
			Effect: func(ctx context.Context, tx *sql.Tx, name string) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES (?)", name)
				return err
			},
			Effects: func(ctx context.Context) (names []string, err error) {
				rows, err := db.QueryContext(ctx, "SELECT name FROM effect")
				if err != nil {
					return nil, err
				}
				defer rows.Close()
				for rows.Next() {
					var name string
					if err := rows.Scan(&name); err != nil {
						return nil, err
					}
					names = append(names, name)
				}
				return names, rows.Err()
			},
			OneLane:        true,
			OneDestination: true,
			NoReplays:      true,
			NoRetention:    true,
		}
	})
}

// Whatever the DSN and the session say about times, parameters, counts and isolation, the same event comes out, the
// inbox tells copies apart, and what is parked is found again.
func TestMariaDBWorksWithEverySettingOfTheConnection(t *testing.T) {
	t.Parallel()
	dsn := startMariaDB(t).DSN()
	if _, err := mysqlstore.New(openMySQL(t, dsn)).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	base, _, _ := strings.Cut(dsn, "?")
	dsns := map[string]string{}
	for _, level := range isolationLevels {
		dsns[level] = withIsolation(t, dsn, level)
	}
	for _, params := range []string{
		"parseTime=false", "parseTime=true&loc=Asia%2FTokyo&time_zone=%27-11:00%27", "interpolateParams=true", "clientFoundRows=true",
		"clientFoundRows=true&interpolateParams=true&parseTime=true&loc=America%2FNew_York", "charset=latin1",
		"sql_mode=%27ANSI,STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES%27",
	} {
		dsns[params] = base + "?" + params
	}
	for params, dsn := range dsns {
		t.Run(params, func(t *testing.T) {
			db, store := mariaDBOn(t, dsn)
			if err := store.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			early := fullEvent
			early.ID, early.Time = "evt_early", time.Date(1, 2, 3, 4, 5, 6, 7000, time.UTC)
			writeDB(t, db, newBox(t, store), fullEvent, early)
			log, lease := openLog(t, store, "a")
			if err := store.Renew(t.Context(), lease, time.Minute); err != nil {
				t.Error(err)
			}
			page, err := log.Read(t.Context(), 10)
			if err != nil || len(page.Entries) != 2 {
				t.Fatalf("%d events came, %v; want 2", len(page.Entries), err)
			}
			for i, want := range []surepost.Event{fullEvent, early} {
				if have := mustJSON(page.Entries[i].Event); have != mustJSON(want) {
					t.Errorf("event in the log:\n%s\nwritten:\n%s", have, mustJSON(want))
				}
			}
			for range 2 { // twice: the first may have been stored although it failed
				parked := []relay.Parked{{Entry: page.Entries[0], Reason: `no "queue" {} \ ä`}}
				if err := log.Checkpoint(t.Context(), page.After, parked); err != nil {
					t.Fatal(err)
				}
			}
			list, err := store.Parked(t.Context(), relay.ParkedFilter{Key: fullEvent.Key, Type: fullEvent.Type, IDs: []string{fullEvent.ID}}, 10)
			if err != nil || len(list) != 1 || list[0].Reason != `no "queue" {} \ ä` || mustJSON(list[0].Event) != mustJSON(fullEvent) ||
				time.Since(list[0].At).Abs() > time.Minute {
				t.Errorf("parked: %+v, %v", list, err)
			}
			if n, err := store.RetryParked(t.Context(), relay.ParkedFilter{}, "test"); n != 1 || err != nil {
				t.Errorf("retried %d, %v", n, err)
			}
			if n, err := store.DiscardParked(t.Context(), relay.ParkedFilter{}, "test"); n != 1 || err != nil {
				t.Errorf("discarded %d, %v", n, err)
			}
			if n := countDB(t, db, "SELECT COUNT(*) FROM surepost_outbox"); n != 0 {
				t.Errorf("%d events stay in the log", n)
			}
			consumer := "of " + params
			batch := []string{"e2", "e1", " e1", "e1 ", "E1", "é1"} // distinct, byte by byte
			for _, want := range []string{"[true true true true true true]", "[false false false false false false]"} {
				err := store.Transact(t.Context(), consumer, batch, func(_ *sql.Tx, first []bool) error {
					if fmt.Sprint(first) != want {
						t.Errorf("first %v, want %v", first, want)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			err = store.Transact(t.Context(), consumer, []string{"e9", "e2", "e8"}, func(_ *sql.Tx, first []bool) error {
				if fmt.Sprint(first) != "[true false true]" {
					t.Errorf("first %v, want the second to be known", first)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []int{0, 1, 2, 2} {
				if n, err := store.StartAttempt(t.Context(), consumer, "e1", 2); n != want || err != nil {
					t.Errorf("%d unfinished attempts, %v; want %d", n, err, want)
				}
			}
			if err := store.FinishAttempt(t.Context(), consumer, "e1", "no stock \x00\xff"); err != nil {
				t.Error(err)
			}
			if n, err := store.StartAttempt(t.Context(), consumer, "e1", 2); n != 1 || err != nil {
				t.Errorf("%d unfinished attempts after one has finished, %v; want 1", n, err)
			}
			if err := store.ForgetAttempts(t.Context(), consumer, "e1"); err != nil {
				t.Error(err)
			}
			if err := store.Release(t.Context(), lease); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a server or a table must not be is found at the start, all at once, and each with its remedy.
func TestAMariaDBThatCannotKeepThePromisesIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change, params string
		want           []string
	}{
		"MyISAM tables": {change: "ALTER TABLE surepost_outbox ENGINE = MyISAM; ALTER TABLE surepost_inbox ENGINE = Aria",
			want: []string{"`surepost_outbox` has the engine MyISAM", "ALTER TABLE `surepost_outbox` ENGINE = InnoDB", "engine Aria"}},
		"not migrated":         {change: "DROP TABLE surepost_migration", want: []string{"Store.Migrate", "Store.MigrationSQL"}},
		"migration missing":    {change: "DELETE FROM surepost_migration", want: []string{"001_initial", "Store.Migrate"}},
		"table missing":        {change: "DROP TABLE surepost_parked", want: []string{"`surepost_parked` is missing"}},
		"collation of an id":   {change: "ALTER TABLE surepost_inbox MODIFY event_id VARCHAR(255) NOT NULL", want: []string{"event_id", "byte by byte", "VARBINARY(255)"}},
		"numbers by hand":      {change: "ALTER TABLE surepost_outbox MODIFY seq BIGINT NOT NULL", want: []string{"AUTO_INCREMENT"}},
		"lenient mode":         {params: "sql_mode=%27%27", want: []string{"STRICT_TRANS_TABLES"}},
		"read-only by default": {params: "tx_read_only=1", want: []string{"transaction_read_only"}},
		"several primaries":    {params: "auto_increment_increment=3", want: []string{"auto_increment_increment is 3", "Config.MultiPrimary"}},
		"autocommit off":       {params: "autocommit=0", want: []string{"autocommit is off", "DSN"}},
		"safe updates":         {params: "sql_safe_updates=1", want: []string{"sql_safe_updates", "DSN"}},
		"two at once": {change: "ALTER TABLE surepost_outbox ENGINE = MyISAM", params: "sql_mode=%27%27&auto_increment_increment=2",
			want: []string{"MyISAM", "STRICT_TRANS_TABLES", "MultiPrimary"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMariaDB(t)
			db, store := mariaDBOn(t, server.DSN())
			if err := store.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.change != "" {
				execDB(t, db, strings.Split(c.change, "; ")...)
			}
			if c.params != "" {
				store = mysqlstore.New(openMySQL(t, withParams(server.DSN(), c.params)))
			}
			err := store.Check(t.Context())
			if !errors.Is(err, relay.ErrHalt) {
				t.Fatalf("%v, want a halt", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoesn't mention %q", err, want)
				}
			}
		})
	}
	t.Run("known to have several primaries", func(t *testing.T) {
		dsn := startMariaDB(t).DSN()
		mariaDBOn(t, dsn)
		store, err := mysqlstore.NewWithConfig(openMySQL(t, withParams(dsn, "auto_increment_increment=3")), mysqlstore.Config{MultiPrimary: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("too few connections", func(t *testing.T) {
		db, store := newMariaDB(t)
		db.SetMaxOpenConns(2)
		if err := store.Check(t.Context()); !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), "SetMaxOpenConns") {
			t.Errorf("%v, want a halt that names SetMaxOpenConns", err)
		}
	})
	t.Run("settings of the server", func(t *testing.T) {
		server := startMariaDB(t, harness.Private())
		db, store := mariaDBOn(t, server.DSN())
		execDB(t, db, "SET GLOBAL max_allowed_packet = 1048576", "SET GLOBAL read_only = 1")
		other := mysqlstore.New(openMySQL(t, server.DSN()))
		wantWords(t, other.Check(t.Context()), "max_allowed_packet is 1048576 bytes", "raise it", "read-only", "connect to the primary")
		execDB(t, db, "SET GLOBAL read_only = 0", "SET GLOBAL max_allowed_packet = 16777216")
		if err := store.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("config", func(t *testing.T) {
		_, err := mysqlstore.NewWithConfig(nil, mysqlstore.Config{Prefix: "Robert'); --", Database: strings.Repeat("x", 65)})
		wantWords(t, err, "Config.Prefix", "lower-case", "Config.Database", "64 characters")
	})
}

// A wrong address is found by Check, with what to look at and without the password.
func TestAWrongMariaDBAddressIsExplained(t *testing.T) {
	t.Parallel()
	good := startMariaDB(t).DSN()
	at, slash := strings.LastIndex(good, "@"), strings.LastIndex(good, "/")
	for name, c := range map[string]struct{ dsn, want string }{
		"port":     {good[:at] + "@tcp(127.0.0.1:1)" + good[slash:], "is it running"},
		"database": {good[:slash] + "/missing_" + good[slash+1:], "create the database"},
		"user":     {"nobody:secret" + good[at:], "user and password"},
	} {
		err := mysqlstore.New(openMySQL(t, c.dsn)).Check(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want a mention of %q and no password", name, err, c.want)
		}
	}
}

func TestMariaDBMigrationsAtTheSameTime(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t)
	db := openMySQL(t, server.DSN())
	execDB(t, db, "CREATE DATABASE `odd ``name`")
	t.Cleanup(func() { _, _ = db.ExecContext(context.Background(), "DROP DATABASE `odd ``name`") })
	config := mysqlstore.Config{Database: "odd `name", Prefix: "sp_"}
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 6 {
		wg.Go(func() {
			store, err := mysqlstore.NewWithConfig(db, config)
			if err != nil {
				t.Error(err)
				return
			}
			done, err := store.Migrate(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			applied += len(done)
		})
	}
	wg.Wait()
	store, err := mysqlstore.NewWithConfig(db, config)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	status, err := store.MigrationStatus(t.Context())
	if err != nil || len(status) == 0 || applied != len(status) || time.Since(status[0].AppliedAt).Abs() > time.Minute {
		t.Errorf("%d migrations were applied by 6 processes at once, want one time %+v (%v)", applied, status, err)
	}
	if err := store.Check(t.Context()); err != nil {
		t.Error(err)
	}
	writeDB(t, db, newBox(t, store), fullEvent)
	log, _ := openLog(t, store, "a")
	if got := readAll(t, log, 10); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}

// A migration that was cut off after any of its statements is finished by the next one, and the script that teams run with
// their own tool, as often as they like, leaves what Migrate leaves.
func TestAMariaDBMigrationThatWasCutOffIsFinished(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t)
	script := strings.Split(strings.TrimSpace(mysqlstore.New(nil).MigrationSQL(0)), ";\n")
	for _, cut := range []int{0, 1, 2, 5, len(script) - 1, len(script)} {
		db := openMySQL(t, harness.MariaDBDSN(server.NewDatabase(t)))
		for _, statement := range script[:cut] {
			execDB(t, db, strings.TrimSuffix(statement, ";"))
		}
		store := mysqlstore.New(db)
		if cut < len(script) {
			if err := store.Check(t.Context()); !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), "Migrate") {
				t.Errorf("after %d statements: %v, want a halt that names Migrate", cut, err)
			}
		}
		done, err := store.Migrate(t.Context())
		if err != nil || (len(done) == 0) != (cut == len(script)) {
			t.Errorf("after %d statements Migrate applied %v, %v", cut, done, err)
		}
		for _, statement := range script {
			execDB(t, db, strings.TrimSuffix(statement, ";"))
		}
		if err := store.Check(t.Context()); err != nil {
			t.Errorf("after %d statements and Migrate: %v", cut, err)
		}
	}
}

// Events of any size that outbox admits are written and read, many in one Write too, within max_allowed_packet; one that
// can't be sent is an error that says so, and leaves the transaction usable.
func TestLargeWritesFitIntoPackets(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t, harness.Private())
	dsn := server.DSN()
	execDB(t, openMySQL(t, dsn), "SET GLOBAL max_allowed_packet = 3145728")
	for _, params := range []string{"interpolateParams=false", "interpolateParams=true&maxAllowedPacket=0"} {
		db, store := mariaDBOn(t, withParams(harness.MariaDBDSN(server.NewDatabase(t)), params))
		box, err := outbox.New(store, outbox.Config{Source: "test", MaxDataBytes: 8 << 20})
		if err != nil {
			t.Fatal(err)
		}
		text := func(bytes int) string { return strings.Repeat(`'"\`, bytes/3) }
		var events []surepost.Event
		for n := range 40 {
			events = append(events, surepost.Event{Type: "T", Key: "k", Data: text([]int{10, 300_000, 5000, 500_000}[n%4])})
		}
		for range 6000 { // more than a statement has placeholders for
			events = append(events, surepost.Event{Type: "T", Key: "k", Data: 1})
		}
		tx := beginDB(t, db)
		err = box.Write(t.Context(), tx, surepost.Event{Type: "T", Data: text(4 << 20)})
		if !errors.Is(err, surepost.ErrInvalidEvent) || !strings.Contains(err.Error(), "max_allowed_packet") {
			t.Errorf("%s: 4 MiB: %v, want a mention of max_allowed_packet", params, err)
		}
		if err := box.Write(t.Context(), tx, events...); err != nil {
			t.Fatalf("%s: %v", params, err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		log, _ := openLog(t, store, "a")
		got := readAll(t, log, 500)
		if len(got) != len(events) {
			t.Fatalf("%s: %d events came, want %d", params, len(got), len(events))
		}
		for i := range got {
			if i > 0 && got[i].Seq <= got[i-1].Seq {
				t.Fatalf("%s: event %d has the number %d after %d", params, i, got[i].Seq, got[i-1].Seq)
			}
			if i < 40 && mustJSON(got[i].Event.Data) != mustJSON(events[i].Data) {
				t.Fatalf("%s: event %d has other data than was written", params, i)
			}
		}
	}
}

// One odd row, written by hand or by another language, must not hold up the log.
func TestAnOddRowInMariaDBHoldsUpNobody(t *testing.T) {
	t.Parallel()
	db, store := newMariaDB(t)
	execDB(t, db, `INSERT INTO surepost_outbox (id, type, source, headers, data) VALUES ('i', 't', 's', '{"n": 1, "s": "x", "o": {"a": null}}', '1')`,
		"SET SESSION sql_mode = ''")
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, s := range []string{"SET SESSION sql_mode = ''", `INSERT INTO surepost_outbox (time, id, type, source, headers, data) VALUES
		('0000-00-00', 'undated', 't', 's', '[]', '1'), ('9999-12-31 23:59:59', 'late', 't', 's', 'odd', x'ff')`} {
		if _, err := conn.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	log, _ := openLog(t, store, "a")
	got := readAll(t, log, 10)
	if len(got) != 3 || got[0].Event.Headers["n"] != "1" || got[0].Event.Headers["s"] != "x" || got[0].Event.Headers["o"] != `{"a": null}` ||
		time.Since(got[0].Event.Time).Abs() > time.Minute || got[0].Event.Version != "1.0" || !got[1].Event.Time.IsZero() || len(got[1].Event.Headers) != 0 {
		t.Errorf("%+v", got)
	}
}
