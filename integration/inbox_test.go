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
