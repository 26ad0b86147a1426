// Package sqlxshop places orders with sqlx: the order's row and its event are one transaction.
//
// An outbox on [sqlstore.Store] writes in a *sql.Tx, and a *sqlx.Tx has it in its field Tx. What to mind:
//
//   - A function that takes a sqlx.ExtContext would accept a *sqlx.DB as well, and has no field Tx: let what writes
//     events take a *sqlx.Tx, and the compiler sees to the transaction.
//   - sqlx has no nested transactions. A savepoint by SQL takes its events along when it is rolled back to.
package sqlxshop

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

// Order is a row of the table orders, and the event's data.
type Order struct {
	ID       string `db:"id"`
	Customer string `db:"customer"`
	Quantity int    `db:"quantity"`
}

// ErrTooMany is returned for orders of more than 100 pieces.
var ErrTooMany = errors.New("an order is of 100 pieces at most")

// Shop places orders. It is safe for concurrent use.
type Shop struct {
	db  *sqlx.DB
	box *outbox.Outbox[*sql.Tx]
}

// New returns a shop on the database, which must have been migrated.
func New(db *sqlx.DB) (*Shop, error) {
	box, err := outbox.New(sqlstore.New(nil), outbox.Config{Source: "shop"}) // it only writes: no pool
	if err != nil {
		return nil, err
	}
	return &Shop{db: db, box: box}, nil
}

// PlaceOrder commits the order together with its event, or neither.
func (s *Shop) PlaceOrder(ctx context.Context, order Order) error {
	tx, err := s.db.BeginTxx(ctx, nil)
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
func (s *Shop) placeOrder(ctx context.Context, tx *sqlx.Tx, order Order) error {
	const insert = "INSERT INTO orders (id, customer, quantity) VALUES (:id, :customer, :quantity)"
	if _, err := tx.NamedExecContext(ctx, insert, order); err != nil {
		return err
	}
	err := s.box.Write(ctx, tx.Tx, surepost.Event{Type: "OrderPlaced", Key: order.Customer, Data: order})
	if err != nil {
		return err
	}
	if order.Quantity > 100 { // checked last on purpose: whatever fails, and when, the event goes with the row
		return ErrTooMany
	}
	return nil
}
