package integration

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/sqlstore"
)

func newInbox[TX any](t *testing.T, store inbox.Store[TX], consumer string) *inbox.Inbox[TX] {
	t.Helper()
	in, err := inbox.New(store, inbox.Config{Consumer: consumer})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func received(id, key string) surepost.Event {
	return surepost.Event{ID: id, Type: "OrderCreated", Source: "orders", Key: key, CorrelationID: "flow-1", Data: []byte(`{"n":1}`)}
}

func count(t *testing.T, pool *pgxpool.Pool, query string, args ...any) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Copies of one message that are processed at the same moment have one effect, and the second waits for the first.
func TestCopiesAtTheSameMomentHaveOneEffect(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, "CREATE TABLE effect (id text)")
	in := newInbox(t, store, "inventory")
	other := newInbox(t, store, "billing")
	work := func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO effect VALUES ($1)", e.ID)
		time.Sleep(20 * time.Millisecond)
		return err
	}
	for range 20 {
		event := received(surepost.NewID(), "k")
		var mu sync.Mutex
		results := map[inbox.Result]int{}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				r, err := in.Process(t.Context(), event, work)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				results[r]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if results[inbox.Handled] != 1 || results[inbox.Duplicate] != 3 {
			t.Fatalf("results %v, want one handled and three duplicates", results)
		}
		if n := count(t, pool, "SELECT count(*) FROM effect WHERE id = $1", event.ID); n != 1 {
			t.Fatalf("%d effects, want 1", n)
		}
		// Another consumer's work is its own.
		if r, err := other.Process(t.Context(), event, work); r != inbox.Handled || err != nil {
			t.Fatalf("another consumer: %v, %v", r, err)
		}
	}
}

// Where the first of two concurrent copies fails, the second, which waited for it, does the work.
func TestTheSecondCopyDoesTheWorkWhenTheFirstFails(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, "CREATE TABLE effect (id text)")
	in := newInbox(t, store, "inventory")
	event := received("e1", "k")
	inFirst := make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := in.Process(t.Context(), event, func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
			if _, err := tx.Exec(ctx, "INSERT INTO effect VALUES ('first')"); err != nil {
				return err
			}
			close(inFirst)
			time.Sleep(100 * time.Millisecond)
			return errors.New("no luck")
		})
		first <- err
	}()
	<-inFirst
	r, err := in.Process(t.Context(), event, func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO effect VALUES ('second')")
		return err
	})
	if r != inbox.Handled || err != nil {
		t.Errorf("second: %v, %v", r, err)
	}
	if err := <-first; err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("first: %v", err)
	}
	if n := count(t, pool, "SELECT count(*) FROM effect WHERE id = 'second'"); n != 1 || count(t, pool, "SELECT count(*) FROM effect") != 1 {
		t.Error("the effects aren't the second's alone")
	}
}

func TestAFailedHandlerLeavesNothing(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, "CREATE TABLE effect (id text)")
	in := newInbox(t, store, "inventory")
	box := newBox(t, store)
	attempts := 0
	in.On("OrderCreated", func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		attempts++
		if _, err := tx.Exec(ctx, "INSERT INTO effect VALUES ($1)", e.ID); err != nil {
			return err
		}
		if err := box.Write(ctx, tx, surepost.Event{Type: "StockReserved", Key: e.Key}); err != nil {
			return err
		}
		switch attempts {
		case 1:
			return errors.New("after its writes")
		case 2:
			panic("after its writes")
		}
		return nil
	})
	for n := range 2 {
		if _, err := in.Handle(t.Context(), received("e1", "k")); err == nil {
			t.Fatalf("attempt %d: no error", n+1)
		}
		for _, table := range []string{"effect", "surepost_inbox", "surepost_outbox"} {
			if rows := count(t, pool, "SELECT count(*) FROM "+table); rows != 0 {
				t.Errorf("attempt %d left %d rows in %s", n+1, rows, table)
			}
		}
	}
	if r, err := in.Handle(t.Context(), received("e1", "k")); r != inbox.Handled || err != nil {
		t.Fatalf("%v, %v", r, err)
	}
	if r, err := in.Handle(t.Context(), received("e1", "k")); r != inbox.Duplicate || err != nil {
		t.Fatalf("%v, %v", r, err)
	}
	// The follow-up continues the flow.
	log, _ := openLog(t, store, "a")
	follow := readAll(t, log, 10)
	if len(follow) != 1 || follow[0].Event.CorrelationID != "flow-1" || follow[0].Event.CausationID != "e1" {
		t.Errorf("follow-up events: %+v", follow)
	}
}

func TestTypedHandlers(t *testing.T) {
	t.Parallel()
	_, store := newPool(t)
	in := newInbox(t, store, "inventory")
	type order struct{ N int }
	inbox.On(in, "OrderCreated", func(_ context.Context, _ pgx.Tx, _ surepost.Event, o order) error {
		if o.N != 1 {
			t.Errorf("decoded %+v", o)
		}
		return nil
	})
	if r, err := in.Handle(t.Context(), received("e1", "")); r != inbox.Handled || err != nil {
		t.Fatalf("%v, %v", r, err)
	}
	bad := received("e2", "")
	bad.Data = []byte(`{"n":"text"}`)
	if _, err := in.Handle(t.Context(), bad); !inbox.IsPermanent(err) {
		t.Errorf("%v, want a permanent error", err)
	}
	if r, err := in.Handle(t.Context(), surepost.Event{ID: "e3", Type: "Unknown"}); r != inbox.Skipped || err != nil {
		t.Errorf("unknown type: %v, %v", r, err)
	}
}

// The same over database/sql, with a driver that isn't pgx.
func TestInboxOverDatabaseSQL(t *testing.T) {
	t.Parallel()
	pool, _ := newPool(t)
	db, err := sql.Open("postgres", pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	execSQL(t, pool, "CREATE TABLE effect (id text)")
	in := newInbox(t, sqlstore.New(db), "inventory")
	fail := true
	work := func(ctx context.Context, tx *sql.Tx, e surepost.Event) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES ($1)", e.ID); err != nil {
			return err
		}
		if fail {
			return errors.New("no luck")
		}
		return nil
	}
	if _, err := in.Process(t.Context(), received("e1", ""), work); err == nil {
		t.Fatal("no error")
	}
	fail = false
	for _, want := range []inbox.Result{inbox.Handled, inbox.Duplicate} {
		if r, err := in.Process(t.Context(), received("e1", ""), work); r != want || err != nil {
			t.Fatalf("%v, %v; want %v", r, err, want)
		}
	}
	if n := count(t, pool, "SELECT count(*) FROM effect"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// Both stores count attempts alike: started and not finished is what a limit stops, and a handled event leaves nothing.
func TestAttemptsAreCountedStartedAndFinished(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	db, err := sql.Open("postgres", pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var other inbox.AttemptStore = sqlstore.New(db)
	for name, s := range map[string]inbox.AttemptStore{"pgx": store, "database/sql": other} {
		start := func(consumer, id string, limit, want int) {
			t.Helper()
			if n, err := s.StartAttempt(t.Context(), consumer, id, limit); n != want || err != nil {
				t.Errorf("%s: %d unfinished before, %v; want %d", name, n, err, want)
			}
		}
		c := "consumer of " + name
		start(c, "e1", 3, 0)
		if err := s.FinishAttempt(t.Context(), c, "e1", "no stock \x00\xff"); err != nil {
			t.Error(err)
		}
		if err := s.FinishAttempt(t.Context(), c, "e1", strings.Repeat("ä", 5000)); err != nil { // of nothing that is open
			t.Error(err)
		}
		start(c, "e1", 3, 0)
		start(c, "e1", 3, 1)
		start(c, "e1", 3, 2)
		start(c, "e1", 3, 3)
		start(c, "e1", 3, 3) // the limit: nothing was noted
		start(c, "e1", 1, 3)
		start("another", "e1", 3, 0)
		start(c, "e2", 3, 0)
		var started, finished int
		var text string
		err := pool.QueryRow(t.Context(), `SELECT started, finished, last_error FROM surepost_inbox_attempt
			WHERE consumer = $1 AND event_id = 'e1' AND first_started_at < last_started_at`, c).Scan(&started, &finished, &text)
		if err != nil || started != 4 || finished != 1 || text != "no stock " {
			t.Errorf("%s: started %d, finished %d, last error %q, %v", name, started, finished, text, err)
		}
		if err := s.ForgetAttempts(t.Context(), c, "e1"); err != nil {
			t.Error(err)
		}
		start(c, "e1", 3, 0)
		if err := s.ForgetAttempts(t.Context(), "another", "e1"); err != nil {
			t.Error(err)
		}
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_inbox_attempt"); n != 4 {
		t.Errorf("%d records, want those of e1 and e2 by each store", n)
	}
}

// A batch is one transaction, in both stores and with every way in which pgx sends statements.
func TestABatchIsOneTransaction(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, "CREATE TABLE effect (id text)")
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		_, store := poolOn(t, pool.Config().ConnString()+"&default_query_exec_mode="+mode)
		in := newInbox(t, store, mode)
		bad := ""
		in.On("OrderCreated", func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
			if _, err := tx.Exec(ctx, "INSERT INTO effect VALUES ($1)", e.ID); err != nil {
				return err
			}
			if e.ID == bad {
				_, err := tx.Exec(ctx, "SELECT 1/0")
				return err
			}
			return nil
		})
		wantOneTransaction(t, pool, in, &bad)
	}
	db, err := sql.Open("postgres", pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	in := newInbox(t, sqlstore.New(db), "database/sql")
	bad := ""
	in.OnBatch("OrderCreated", func(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
		for _, e := range events {
			if _, err := tx.ExecContext(ctx, "INSERT INTO effect VALUES ($1)", e.ID); err != nil {
				return err
			}
			if e.ID == bad {
				return errors.New("no luck")
			}
		}
		return nil
	})
	wantOneTransaction(t, pool, in, &bad)

	// What can't be recorded is an error that says what to do, and frees the connection.
	execSQL(t, pool, "DROP TABLE surepost_inbox")
	for range 50 { // more than the pool has connections
		_, err := newInbox(t, store, "c").Process(t.Context(), received("e1", ""), nil)
		if err == nil || !strings.Contains(err.Error(), "migrate the database") {
			t.Fatalf("without the table: %v", err)
		}
	}
}

func wantOneTransaction[TX any](t *testing.T, pool *pgxpool.Pool, in *inbox.Inbox[TX], bad *string) {
	t.Helper()
	execSQL(t, pool, "TRUNCATE effect")
	batch := []surepost.Event{received(`odd "id" \ {,}`, "k"), received("e2", ""), received("e1", "k"), received("e2", "")}
	*bad = "e1"
	if _, err := in.HandleBatch(t.Context(), batch); err == nil || count(t, pool, "SELECT count(*) FROM effect") != 0 {
		t.Errorf("%s: %v, and something is left", in.Consumer(), err)
	}
	*bad = ""
	for _, want := range []inbox.Result{inbox.Handled, inbox.Duplicate} {
		results, err := in.HandleBatch(t.Context(), batch)
		if err != nil || len(results) != 4 || results[0] != want || results[1] != want || results[2] != want || results[3] != inbox.Duplicate {
			t.Errorf("%s: %v, %v; want three times %v and a duplicate", in.Consumer(), results, err, want)
		}
	}
	if r, err := in.Handle(t.Context(), batch[0]); r != inbox.Duplicate || err != nil {
		t.Errorf("%s: alone: %v, %v", in.Consumer(), r, err)
	}
	if n := count(t, pool, "SELECT count(*) FROM effect"); n != 3 {
		t.Errorf("%s: %d effects, want 3", in.Consumer(), n)
	}
}
