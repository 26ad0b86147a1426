// Package sqlcpgxshop places orders with sqlc's code for pgx: the order's row and its event are one transaction.
//
// An outbox on [pgxstore.Store] writes in the very pgx.Tx that goes to Queries.WithTx. What to mind:
//
//   - Queries made by New(pool) run outside of the transaction: in it, use those of WithTx only.
//   - pgx.BeginFunc on a pgx.Tx is a savepoint: when it fails, its events go with its rows.
package sqlcpgxshop

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/orm/sqlcpgxshop/shopdb"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// Order is what a customer asks for, and the event's data.
type Order = shopdb.InsertOrderParams

// ErrTooMany is returned for orders of more than 100 pieces.
var ErrTooMany = errors.New("an order is of 100 pieces at most")

// Shop places orders. It is safe for concurrent use.
type Shop struct {
	pool    *pgxpool.Pool
	queries *shopdb.Queries
	box     *outbox.Outbox[pgx.Tx]
}

// New returns a shop on the database, which must have been migrated.
func New(pool *pgxpool.Pool) (*Shop, error) {
	box, err := outbox.New(pgxstore.New(nil), outbox.Config{Source: "shop"}) // it only writes: no pool
	if err != nil {
		return nil, err
	}
	return &Shop{pool: pool, queries: shopdb.New(pool), box: box}, nil
}

// PlaceOrder commits the order together with its event, or neither.
func (s *Shop) PlaceOrder(ctx context.Context, order Order) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return s.placeOrder(ctx, tx, order) })
}

// placeOrder is PlaceOrder in a transaction of the caller.
func (s *Shop) placeOrder(ctx context.Context, tx pgx.Tx, order Order) error {
	if err := s.queries.WithTx(tx).InsertOrder(ctx, order); err != nil {
		return err
	}
	err := s.box.Write(ctx, tx, surepost.Event{Type: "OrderPlaced", Key: order.Customer, Data: order})
	if err != nil {
		return err
	}
	if order.Quantity > 100 { // checked last on purpose: whatever fails, and when, the event goes with the row
		return ErrTooMany
	}
	return nil
}
