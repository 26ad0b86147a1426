// Package sqlcshop places orders with sqlc's code for database/sql: the order's row and its event are one transaction.
//
// An outbox on [sqlstore.Store] writes in the very *sql.Tx that goes to Queries.WithTx. What to mind:
//
//   - Queries made by New(db) run outside of the transaction: in it, use those of WithTx only.
package sqlcshop

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate

import (
	"context"
	"database/sql"
	"errors"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/orm/sqlcshop/shopdb"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

// Order is what a customer asks for, and the event's data.
type Order = shopdb.InsertOrderParams

// ErrTooMany is returned for orders of more than 100 pieces.
var ErrTooMany = errors.New("an order is of 100 pieces at most")

// Shop places orders. It is safe for concurrent use.
type Shop struct {
	db      *sql.DB
	queries *shopdb.Queries
	box     *outbox.Outbox[*sql.Tx]
}

// New returns a shop on the database, which must have been migrated.
func New(db *sql.DB) (*Shop, error) {
	box, err := outbox.New(sqlstore.New(nil), outbox.Config{Source: "shop"}) // it only writes: no pool
	if err != nil {
		return nil, err
	}
	return &Shop{db: db, queries: shopdb.New(db), box: box}, nil
}

// PlaceOrder commits the order together with its event, or neither.
func (s *Shop) PlaceOrder(ctx context.Context, order Order) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after the commit it does nothing
	if err := s.queries.WithTx(tx).InsertOrder(ctx, order); err != nil {
		return err
	}
	err = s.box.Write(ctx, tx, surepost.Event{Type: "OrderPlaced", Key: order.Customer, Data: order})
	if err != nil {
		return err
	}
	if order.Quantity > 100 { // checked last on purpose: whatever fails, and when, the event goes with the row
		return ErrTooMany
	}
	return tx.Commit()
}
