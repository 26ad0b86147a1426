package memstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

func begin(t *testing.T, store *memstore.Store) *memstore.Tx {
	t.Helper()
	tx, err := store.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func TestRowsShareTheFateOfTheirTransaction(t *testing.T) {
	store := memstore.New()
	fail := errors.New("no luck")
	for _, end := range []error{fail, nil} {
		err := store.Do(t.Context(), func(tx *memstore.Tx) error {
			if err := tx.Put(t.Context(), "order/7", "created"); err != nil {
				return err
			}
			if row, err := tx.Get(t.Context(), "order/7"); row != "created" || err != nil {
				t.Errorf("the transaction itself reads %v, %v", row, err)
			}
			if row := store.Row("order/7"); row != nil {
				t.Errorf("others read %v before the commit", row)
			}
			return end
		})
		if err != end {
			t.Errorf("Do: %v, want %v", err, end)
		}
		if row := store.Row("order/7"); (row == nil) != (end != nil) {
			t.Errorf("after %v the row is %v", end, row)
		}
	}
	if err := store.Do(t.Context(), func(tx *memstore.Tx) error { return tx.Put(t.Context(), "order/7", nil) }); err != nil {
		t.Fatal(err)
	}
	if rows := store.Rows(); len(rows) != 0 {
		t.Errorf("after its removal the rows are %q", rows)
	}
}

// What is written rests on what was read: the second of two transactions reads what the first has written.
func TestNoUpdateIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		for range 50 {
			go func() {
				err := store.Do(t.Context(), func(tx *memstore.Tx) error {
					row, err := tx.Get(t.Context(), "stock")
					if err != nil {
						return err
					}
					n, _ := row.(int) // 0 where there is none
					time.Sleep(time.Millisecond)
					return tx.Put(t.Context(), "stock", n+1)
				})
				if err != nil {
					t.Error(err)
				}
			}()
		}
		time.Sleep(time.Second) // virtual
		synctest.Wait()
		if n := store.Row("stock"); n != 50 {
			t.Errorf("fifty increments made %v", n)
		}
	})
}

func TestADeadlockIsFoundAndNobodyHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		one, two, three := begin(t, store), begin(t, store), begin(t, store)
		put := func(tx *memstore.Tx, key string) error { return tx.Put(t.Context(), key, 1) }
		if err := errors.Join(put(one, "a"), put(two, "b"), put(three, "c")); err != nil {
			t.Fatal(err)
		}
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- put(one, "b") }()
		go func() { second <- put(two, "c") }()
		synctest.Wait() // both are waiting
		if err := put(three, "a"); !errors.Is(err, memstore.ErrDeadlock) {
			t.Fatalf("the third, which closes the circle: %v", err)
		}
		if err := three.Commit(t.Context()); !errors.Is(err, memstore.ErrDeadlock) {
			t.Errorf("a transaction that failed was committed: %v", err)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		if err := errors.Join(two.Commit(t.Context()), <-first, one.Commit(t.Context())); err != nil {
			t.Error(err)
		}
		if rows := store.Rows(); len(rows) != 3 {
			t.Errorf("the rows are %q", rows)
		}
	})
}

func TestAnEndedTransactionIsOfNoUse(t *testing.T) {
	store := memstore.New()
	for name, end := range map[string]func(*memstore.Tx, context.Context) error{
		"committed": (*memstore.Tx).Commit, "rolled back": (*memstore.Tx).Rollback,
	} {
		tx := begin(t, store)
		if err := end(tx, t.Context()); err != nil {
			t.Fatal(err)
		}
		_, get := tx.Get(t.Context(), "k")
		for _, err := range []error{
			tx.Put(t.Context(), "k", 1), get, store.Append(t.Context(), tx, []surepost.Event{{ID: "e", Type: "T"}}),
			store.LockKeys(t.Context(), tx, []string{"k"}), tx.Commit(t.Context()), tx.Rollback(t.Context()),
		} {
			if !errors.Is(err, memstore.ErrTxDone) {
				t.Errorf("%s: %v, want ErrTxDone", name, err)
			}
		}
	}
	if len(store.Events())+len(store.Rows()) != 0 {
		t.Error("something was written")
	}
}

// The operator's view shows commits in their order, and can't change the log.
func TestEventsShowsWhatWasCommitted(t *testing.T) {
	store := memstore.New()
	box, err := outbox.New(store, outbox.Config{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	late, early, never := begin(t, store), begin(t, store), begin(t, store)
	for id, tx := range map[string]*memstore.Tx{"late": late, "early": early, "never": never} {
		event := surepost.Event{ID: id, Type: "T", Headers: map[string]string{"h": "v"}}
		if err := box.Write(t.Context(), tx, event); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(early.Commit(t.Context()), late.Commit(t.Context()), never.Rollback(t.Context())); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		events := store.Events()
		if len(events) != 2 || events[0].ID != "early" || events[1].ID != "late" || events[0].Headers["h"] != "v" {
			t.Fatalf("got %+v", events)
		}
		events[0].Headers["h"] = "changed"
	}
}

// In a synctest bubble a lease runs out without anybody waiting.
func TestLeasesRunOutByVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		lane := relay.Lane{Destination: "default", Of: 1}
		if _, err := store.Acquire(t.Context(), lane, "a", time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Nanosecond)
		if _, err := store.Acquire(t.Context(), lane, "b", time.Hour); err == nil {
			t.Error("the lease ran out too early")
		}
		time.Sleep(time.Nanosecond)
		if _, err := store.Acquire(t.Context(), lane, "b", time.Hour); err != nil {
			t.Error(err)
		}
	})
}
