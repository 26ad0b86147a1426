// Package bunshop places orders with bun: the order's row and its event are one transaction.
//
// An outbox on [sqlstore.Store] writes in a *sql.Tx, and a bun.Tx has it in its field Tx. What to mind:
//
//   - Code that takes a bun.IDB can be handed a *bun.DB. Let what writes events take a bun.Tx, and the compiler sees to
//     the transaction; where it must be a bun.IDB, [sqlTx] refuses what isn't one.
//   - RunInTx of a bun.Tx is a savepoint: when it fails, its events go with its rows.
//   - The zero bun.Tx, as BeginTx returns it with an error, has no *sql.Tx. sqlTx refuses it.
package bunshop

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

// Order is bun's model of the table orders, and the event's data.
type Order struct {
	bun.BaseModel `bun:"table:orders" json:"-"`

	ID       string `bun:",pk"`
	Customer string
	Quantity int
}

// ErrTooMany is returned for orders of more than 100 pieces.
var ErrTooMany = errors.New("an order is of 100 pieces at most")

// Shop places orders. It is safe for concurrent use.
type Shop struct {
	db  *bun.DB
	box *outbox.Outbox[*sql.Tx]
}

// New returns a shop on the database, which must have been migrated.
func New(db *bun.DB) (*Shop, error) {
	box, err := outbox.New(sqlstore.New(nil), outbox.Config{Source: "shop"}) // it only writes: no pool
	if err != nil {
		return nil, err
	}
	return &Shop{db: db, box: box}, nil
}

// PlaceOrder commits the order together with its event, or neither.
func (s *Shop) PlaceOrder(ctx context.Context, order Order) error {
	return s.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { return s.placeOrder(ctx, tx, order) })
}

// placeOrder is PlaceOrder in a transaction of the caller.
func (s *Shop) placeOrder(ctx context.Context, tx bun.IDB, order Order) error {
	inTx, err := sqlTx(tx)
	if err != nil {
		return err
	}
	if _, err := tx.NewInsert().Model(&order).Exec(ctx); err != nil {
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

// sqlTx returns the transaction that db is.
func sqlTx(db bun.IDB) (*sql.Tx, error) {
	if tx, ok := db.(bun.Tx); ok && tx.Tx != nil {
		return tx.Tx, nil
	}
	return nil, fmt.Errorf("this %T isn't a transaction: pass the bun.Tx that RunInTx hands to its function", db)
}
