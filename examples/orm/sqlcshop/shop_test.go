package sqlcshop

import (
	"errors"
	"testing"

	"github.com/surepost/surepost/examples/orm/internal/shoptest"
)

func open(t *testing.T) (*shoptest.Database, *Shop) {
	t.Helper()
	database := shoptest.New(t)
	shop, err := New(database.DB)
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
	if err := shop.PlaceOrder(t.Context(), Order{ID: "o-2", Customer: "c-1", Quantity: 3}); err == nil {
		t.Error("an order was placed twice")
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
