package bunshop

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/surepost/surepost/examples/orm/internal/shoptest"
)

func open(t *testing.T) (*shoptest.Database, *Shop) {
	t.Helper()
	database := shoptest.New(t)
	shop, err := New(bun.NewDB(database.DB, pgdialect.New()))
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

// A nested RunInTx is a savepoint: what fails in it takes its own event along and no other.
func TestAFailedNestedTransactionTakesItsEventAlong(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	err := shop.db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if err := shop.placeOrder(ctx, tx, Order{ID: "o-1", Customer: "c-1", Quantity: 1}); err != nil {
			return err
		}
		err := tx.RunInTx(ctx, nil, func(ctx context.Context, nested bun.Tx) error {
			return shop.placeOrder(ctx, nested, Order{ID: "o-2", Customer: "c-1", Quantity: 101})
		})
		if !errors.Is(err, ErrTooMany) {
			t.Errorf("%v, want ErrTooMany", err)
		}
		return tx.RunInTx(ctx, nil, func(ctx context.Context, nested bun.Tx) error {
			return shop.placeOrder(ctx, nested, Order{ID: "o-3", Customer: "c-1", Quantity: 1})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	database.RequireOrders(t, "o-1", "o-3")
}

func TestWhatIsNoTransactionIsRefused(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	conn, err := shop.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, none := range []bun.IDB{shop.db, conn, bun.Tx{}} {
		err := shop.placeOrder(t.Context(), none, Order{ID: "o-1", Customer: "c-1", Quantity: 1})
		if err == nil || !strings.Contains(err.Error(), "isn't a transaction") {
			t.Errorf("%T: %v, want an error that says that it is no transaction", none, err)
		}
	}
	database.RequireOrders(t)
}
