// Package entshop places orders with ent: the order's row and its event are one transaction, ent's own.
//
// An outbox on [sqlstore.Store] writes in a *sql.Tx, and ent keeps its to itself. A template of twenty lines,
// ent/template/sqltx.tmpl, adds the method SQLTx to the generated ent.Tx. What to mind:
//
//   - Open the client with the driver of entsql.OpenDB or entsql.Open, the usual one. SQLTx refuses others.
//   - In a mutation's hook, Mutation.Tx is the transaction. Outside of one it is an error: ent opens none by itself for
//     a single row.
//   - Commit and roll back the ent.Tx, so that its own commit hooks run.
package entshop

import (
	"context"
	"database/sql"
	"errors"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/orm/entshop/ent"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

// Order is what a customer asks for, and the event's data.
type Order struct {
	ID       string
	Customer string
	Quantity int
}

// ErrTooMany is returned for orders of more than 100 pieces.
var ErrTooMany = errors.New("an order is of 100 pieces at most")

// Shop places orders. It is safe for concurrent use.
type Shop struct {
	client *ent.Client
	box    *outbox.Outbox[*sql.Tx]
}

// New returns a shop on the database, which must have been migrated.
func New(client *ent.Client) (*Shop, error) {
	box, err := outbox.New(sqlstore.New(nil), outbox.Config{Source: "shop"}) // it only writes: no pool
	if err != nil {
		return nil, err
	}
	return &Shop{client: client, box: box}, nil
}

// PlaceOrder commits the order together with its event, or neither.
func (s *Shop) PlaceOrder(ctx context.Context, order Order) error {
	tx, err := s.client.Tx(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after the commit it does nothing
	if err := s.placeOrder(ctx, tx, order); err != nil {
		return err
	}
	return tx.Commit()
}

// placeOrder is PlaceOrder in a transaction of the caller.
func (s *Shop) placeOrder(ctx context.Context, tx *ent.Tx, order Order) error {
	inTx, err := tx.SQLTx()
	if err != nil {
		return err
	}
	if err := tx.Order.Create().SetID(order.ID).SetCustomer(order.Customer).SetQuantity(order.Quantity).Exec(ctx); err != nil {
		return err
	}
	err = s.box.Write(ctx, inTx, surepost.Event{Type: "OrderPlaced", Key: order.Customer, Data: order})
	if err != nil {
		return err
	}
	if order.Quantity > 100 { // checked last on purpose: whatever fails, and when, the event goes with the row
		return ErrTooMany
	}
	return nil
}
