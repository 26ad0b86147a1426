package sqlxshop

import (
	"errors"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/surepost/surepost/examples/orm/internal/shoptest"
)

func open(t *testing.T) (*shoptest.Database, *Shop) {
	t.Helper()
	database := shoptest.New(t)
	shop, err := New(sqlx.NewDb(database.DB, "pgx"))
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

func TestASavepointThatIsRolledBackTakesItsEventAlong(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	tx, err := shop.db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if err := shop.placeOrder(t.Context(), tx, Order{ID: "o-1", Customer: "c-1", Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	tx.MustExecContext(t.Context(), "SAVEPOINT one_order")
	err = shop.placeOrder(t.Context(), tx, Order{ID: "o-2", Customer: "c-1", Quantity: 101})
	if !errors.Is(err, ErrTooMany) {
		t.Fatalf("%v, want ErrTooMany", err)
	}
	tx.MustExecContext(t.Context(), "ROLLBACK TO SAVEPOINT one_order")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	database.RequireOrders(t, "o-1")
}
