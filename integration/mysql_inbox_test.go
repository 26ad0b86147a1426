package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
)

// Copies of events at the same moment, alone and in batches that overlap in any way, of which every third attempt fails
// after its writes: each event has one effect in the end, and no attempt fails for another reason.
func TestCopiesAtTheSameMomentHaveOneEffectInMariaDB(t *testing.T) {
	t.Parallel()
	dsn := startMariaDB(t).DSN()
	db, _ := mariaDBOn(t, dsn)
	execDB(t, db, "CREATE TABLE effect (id VARBINARY(255)) ENGINE = InnoDB")
	for _, isolation := range isolationLevels {
		_, store := mariaDBOn(t, withIsolation(t, dsn, isolation))
		in := newInbox(t, store, isolation)
		noLuck := errors.New("no luck")
		handle := func(ctx context.Context, tx *sql.Tx, e surepost.Event) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES (?)", in.Consumer()+e.ID); err != nil {
				return err
			}
			time.Sleep(rand.N(5 * time.Millisecond))
			if rand.IntN(3) == 0 {
				return noLuck
			}
			return nil
		}
		in.On("OrderCreated", handle)
		var events []surepost.Event
		for n := range 30 {
			events = append(events, received(fmt.Sprint("e", n), "k"))
		}
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for {
					from := rand.IntN(len(events))
					batch := append([]surepost.Event{}, events[from:min(from+1+rand.IntN(5), len(events))]...)
					rand.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
					if worker%2 == 0 {
						batch = batch[:1]
					}
					if _, err := in.HandleBatch(t.Context(), batch); err != nil && !errors.Is(err, noLuck) {
						t.Errorf("%s: %v", isolation, err)
						return
					}
					var done int
					if db.QueryRow("SELECT COUNT(*) FROM surepost_inbox WHERE consumer = ?", isolation).Scan(&done) == nil && done == len(events) {
						return
					}
				}
			})
		}
		wg.Wait()
		effects := countDB(t, db, "SELECT COUNT(*) FROM effect WHERE id LIKE ?", isolation+"%")
		distinct := countDB(t, db, "SELECT COUNT(DISTINCT id) FROM effect WHERE id LIKE ?", isolation+"%")
		if effects != len(events) || distinct != len(events) {
			t.Errorf("%s: %d effects of %d events, of %d events", isolation, effects, distinct, len(events))
		}
	}
}

// After a deadlock nothing is left of the transaction, whatever the handler makes of the error: one that passes over it
// must not be taken for done.
func TestAHandlerThatPassesOverADeadlockIsNotTakenForDone(t *testing.T) {
	t.Parallel()
	db, store := newMariaDB(t)
	execDB(t, db, "CREATE TABLE r (id INT PRIMARY KEY, n INT) ENGINE = InnoDB", "INSERT INTO r VALUES (1, 0), (2, 0)")
	in := newInbox(t, store, "careless")
	other := beginDB(t, db)
	// The other transaction has changed more, so InnoDB ends the handler's.
	if _, err := other.Exec("UPDATE r SET n = n + 1 WHERE id = 2"); err != nil {
		t.Fatal(err)
	}
	for id := range 100 {
		if _, err := other.Exec("INSERT INTO r VALUES (?, 0)", 10+id); err != nil {
			t.Fatal(err)
		}
	}
	waits := make(chan error, 1)
	_, err := in.Process(t.Context(), received("e1", "k"), func(ctx context.Context, tx *sql.Tx, _ surepost.Event) error {
		if _, err := tx.ExecContext(ctx, "UPDATE r SET n = n + 1 WHERE id = 1"); err != nil {
			return err
		}
		go func() {
			_, err := other.Exec("UPDATE r SET n = n + 1 WHERE id = 1")
			waits <- err
		}()
		// Whoever of the two asks second closes the circle.
		if _, err := tx.ExecContext(ctx, "UPDATE r SET n = n + 1 WHERE id = 2"); err == nil || !strings.Contains(err.Error(), "1213") {
			t.Errorf("%v, want a deadlock", err)
		}
		return nil // careless
	})
	if err == nil || !strings.Contains(err.Error(), "return the errors of its statements") {
		t.Errorf("%v, want to be told that the transaction was rolled back", err)
	}
	if err := <-waits; err != nil {
		t.Error(err)
	}
	if n := countDB(t, db, "SELECT COUNT(*) FROM surepost_inbox"); n != 0 {
		t.Error("the event is recorded as handled")
	}
}

// An id that a lenient server would cut off, and so take for another, is refused before.
func TestAnIDThatWouldBeCutOffIsRefused(t *testing.T) {
	t.Parallel()
	dsn := startMariaDB(t).DSN()
	_, _ = mariaDBOn(t, dsn)
	db, store := mariaDBOn(t, withParams(dsn, "sql_mode=%27%27"))
	in := newInbox(t, store, "c")
	for _, id := range []string{strings.Repeat("x", 256), strings.Repeat("x", 300)} {
		_, err := in.Process(t.Context(), received(id, ""), func(context.Context, *sql.Tx, surepost.Event) error { return nil })
		if !inbox.IsPermanent(err) || !errors.Is(err, surepost.ErrInvalidEvent) {
			t.Errorf("an id of %d bytes: %v", len(id), err)
		}
	}
	if n := countDB(t, db, "SELECT COUNT(*) FROM surepost_inbox"); n != 0 {
		t.Errorf("%d ids are recorded", n)
	}
}

// What the consumer retries for as long as it takes, what it retries a number of times for free, and what is the
// handler's fault, by the errors of the real driver and server.
func TestMySQLErrorsAreToldApart(t *testing.T) {
	t.Parallel()
	server := startMariaDB(t, harness.Private())
	db, store := mariaDBOn(t, server.DSN())
	execDB(t, db, "CREATE TABLE r (id INT PRIMARY KEY, n INT) ENGINE = InnoDB", "INSERT INTO r VALUES (1, 0), (2, 0)")
	in := newInbox(t, store, "c")
	n := 0
	failure := func(db *sql.DB, work func(tx *sql.Tx) error) error {
		n++
		_, err := in.Process(t.Context(), received(fmt.Sprint("e", n), "k"), func(_ context.Context, tx *sql.Tx, _ surepost.Event) error { return work(tx) })
		return err
	}
	exec := func(statement string) func(tx *sql.Tx) error {
		return func(tx *sql.Tx) error { _, err := tx.Exec(statement); return err }
	}
	want := func(what string, err error, outage bool) {
		t.Helper()
		if err == nil || amqp.IsOutage(err) != outage {
			t.Errorf("%s: IsOutage(%v) is %v, want %v", what, err, amqp.IsOutage(err), outage)
		}
	}
	want("unique violation", failure(db, exec("INSERT INTO r VALUES (1, 0)")), false)
	want("no such table", failure(db, exec("INSERT INTO missing VALUES (1)")), false)
	want("syntax", failure(db, exec("INSERT")), false)
	want("value out of range", failure(db, exec("INSERT INTO r VALUES (3, 99999999999)")), false)
	want("interrupted statement", failure(db, exec("KILL QUERY CONNECTION_ID()")), false)
	want("connection killed", failure(db, func(tx *sql.Tx) error {
		var id int
		if err := tx.QueryRow("SELECT CONNECTION_ID()").Scan(&id); err != nil {
			return err
		}
		if _, err := db.Exec(fmt.Sprint("KILL ", id)); err != nil {
			return err
		}
		return exec("UPDATE r SET n = 0 WHERE id = 1")(tx)
	}), true)

	other := beginDB(t, db)
	if _, err := other.Exec("UPDATE r SET n = 1 WHERE id = 1"); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"SET STATEMENT innodb_lock_wait_timeout = 1 FOR UPDATE r SET n = 2 WHERE id = 1", "SELECT * FROM r WHERE id = 1 FOR UPDATE NOWAIT"} {
		err := failure(db, exec(statement))
		want(statement, err, false) // but a conflict
		var number *mysql.MySQLError
		if !errors.As(err, &number) || number.Number != 1205 {
			t.Errorf("%s: %v, want error 1205", statement, err)
		}
	}
	_ = other.Rollback()

	// The root isn't held to read_only.
	execDB(t, db, "CREATE USER plain@'%' IDENTIFIED BY 'pw'", "GRANT ALL ON *.* TO plain@'%'", "REVOKE SUPER, READ ONLY ADMIN ON *.* FROM plain@'%'")
	config, err := mysql.ParseDSN(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	config.User, config.Passwd = "plain", "pw"
	plain := openMySQL(t, config.FormatDSN())
	plainFailure := func(statement string) error {
		_, err := plain.ExecContext(t.Context(), statement)
		return err
	}
	execDB(t, db, "SET GLOBAL read_only = 1")
	want("read-only", plainFailure("UPDATE r SET n = 3"), true)
	execDB(t, db, "SET GLOBAL read_only = 0")
	tx, err := plain.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec("UPDATE r SET n = 3")
	want("read-only transaction", err, true)
	_ = tx.Rollback()

	execDB(t, db, "CREATE USER few@'%' IDENTIFIED BY 'pw' WITH MAX_USER_CONNECTIONS 1", "GRANT ALL ON *.* TO few@'%'")
	config.User = "few"
	few := openMySQL(t, config.FormatDSN())
	one, err := few.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = few.Conn(t.Context())
	want("too many connections", err, true)
	_ = one.Close()
	config.Passwd = "wrong"
	want("password", openMySQL(t, config.FormatDSN()).PingContext(t.Context()), true)

	stopped := failure(db, func(tx *sql.Tx) error {
		server.Kill(t)
		return exec("UPDATE r SET n = 0 WHERE id = 1")(tx)
	})
	want("server killed", stopped, true)
	want("server away", failure(db, exec("UPDATE r SET n = 0")), true)
	server.Start(t)
}
