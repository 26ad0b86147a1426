package sqlcpgxshop

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/examples/orm/internal/shoptest"
)

func open(t *testing.T) (*shoptest.Database, *Shop) {
	t.Helper()
	database := shoptest.New(t)
	pool, err := pgxpool.New(t.Context(), database.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	shop, err := New(pool)
	if err != nil {
		t.Fatal(err)
	}
	return database, shop
}

func TestAnOrderAndItsEventAreCommittedTogether(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	for _, id := range []string{"o-1", "o-2"} {
		if err := shop.PlaceOrder(t.Context(), Order{ID: id, Customer: "c-1", Quantity: 3}); err != nil {
			t.Fatal(err)
		}
	}
	database.RequireOrders(t, "o-1", "o-2")
}

func TestARefusedOrderLeavesNoEvent(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	if err := shop.PlaceOrder(t.Context(), Order{ID: "o-1", Customer: "c-1", Quantity: 101}); !errors.Is(err, ErrTooMany) {
		t.Fatalf("%v, want ErrTooMany", err)
	}
	database.RequireOrders(t)
}

// A nested transaction is a savepoint: what fails in it takes its own event along and no other.
func TestAFailedNestedTransactionTakesItsEventAlong(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	err := pgx.BeginFunc(t.Context(), shop.pool, func(tx pgx.Tx) error {
		if err := shop.placeOrder(t.Context(), tx, Order{ID: "o-1", Customer: "c-1", Quantity: 1}); err != nil {
			return err
		}
		err := pgx.BeginFunc(t.Context(), tx, func(nested pgx.Tx) error {
			return shop.placeOrder(t.Context(), nested, Order{ID: "o-2", Customer: "c-1", Quantity: 101})
		})
		if !errors.Is(err, ErrTooMany) {
			t.Errorf("%v, want ErrTooMany", err)
		}
		return shop.placeOrder(t.Context(), tx, Order{ID: "o-3", Customer: "c-1", Quantity: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	database.RequireOrders(t, "o-1", "o-3")
}
