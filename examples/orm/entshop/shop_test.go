package entshop

import (
	"context"
	"errors"
	"strings"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/orm/entshop/ent"
	"github.com/surepost/surepost/examples/orm/entshop/ent/hook"
	"github.com/surepost/surepost/examples/orm/internal/shoptest"
)

func open(t *testing.T, options ...ent.Option) (*shoptest.Database, *Shop) {
	t.Helper()
	database := shoptest.New(t)
	options = append(options, ent.Driver(entsql.OpenDB(dialect.Postgres, database.DB)), ent.Log(func(...any) {}))
	shop, err := New(ent.NewClient(options...))
	if err != nil {
		t.Fatal(err)
	}
	return database, shop
}

func TestAnOrderAndItsEventAreCommittedTogether(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]ent.Option{"default": nil, "debug": {ent.Debug()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, shop := open(t, options...)
			for _, id := range []string{"o-1", "o-2"} {
				if err := shop.PlaceOrder(t.Context(), Order{ID: id, Customer: "c-1", Quantity: 3}); err != nil {
					t.Fatal(err)
				}
			}
			database.RequireOrders(t, "o-1", "o-2")
		})
	}
}

func TestARefusedOrderLeavesNoEvent(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]ent.Option{"default": nil, "debug": {ent.Debug()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, shop := open(t, options...)
			err := shop.PlaceOrder(t.Context(), Order{ID: "o-1", Customer: "c-1", Quantity: 101})
			if !errors.Is(err, ErrTooMany) {
				t.Fatalf("%v, want ErrTooMany", err)
			}
			database.RequireOrders(t)
		})
	}
}

// A hook writes in the transaction of the mutation that it hooks. Where there is none, the row isn't written either.
func TestAHookWritesInTheTransactionThatItRunsIn(t *testing.T) {
	t.Parallel()
	database, shop := open(t)
	shop.client.Order.Use(func(next ent.Mutator) ent.Mutator {
		return hook.OrderFunc(func(ctx context.Context, m *ent.OrderMutation) (ent.Value, error) {
			tx, err := m.Tx()
			if err != nil {
				return nil, err
			}
			inTx, err := tx.SQLTx()
			if err != nil {
				return nil, err
			}
			value, err := next.Mutate(ctx, m)
			if err != nil {
				return nil, err
			}
			order := value.(*ent.Order)
			return order, shop.box.Write(ctx, inTx, surepost.Event{Type: "OrderPlaced", Key: order.Customer, Data: order})
		})
	})
	create := func(order *ent.OrderClient, id string) error {
		return order.Create().SetID(id).SetCustomer("c-1").SetQuantity(1).Exec(t.Context())
	}

	if err := create(shop.client.Order, "o-1"); err == nil || !strings.Contains(err.Error(), "not running in a transaction") {
		t.Errorf("%v, want ent's error that there is no transaction", err)
	}
	for id, end := range map[string]func(*ent.Tx) error{"o-2": (*ent.Tx).Commit, "o-3": (*ent.Tx).Rollback} {
		tx, err := shop.client.Tx(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := create(tx.Order, id); err != nil {
			t.Error(err)
		}
		if err := end(tx); err != nil {
			t.Error(err)
		}
	}
	database.RequireOrders(t, "o-2")
}

// wrapped is a driver of somebody's own, as those that trace are.
type wrapped struct{ dialect.Driver }

func (w wrapped) Tx(ctx context.Context) (dialect.Tx, error) {
	tx, err := w.Driver.Tx(ctx)
	return struct{ dialect.Tx }{tx}, err
}

func TestATransactionOfAnUnknownDriverIsRefused(t *testing.T) {
	t.Parallel()
	database := shoptest.New(t)
	shop, err := New(ent.NewClient(ent.Driver(wrapped{entsql.OpenDB(dialect.Postgres, database.DB)})))
	if err != nil {
		t.Fatal(err)
	}
	err = shop.PlaceOrder(t.Context(), Order{ID: "o-1", Customer: "c-1", Quantity: 1})
	if err == nil || !strings.Contains(err.Error(), "entsql.OpenDB") {
		t.Errorf("%v, want an error that names entsql.OpenDB", err)
	}
	database.RequireOrders(t)
}
