// Package gormshop places orders with gorm: the order's row and its event are one transaction, gorm's own.
//
// An outbox on [sqlstore.Store] writes in a *sql.Tx, and gorm keeps it in Statement.ConnPool. [sqlTx] gets it out. What
// to mind:
//
//   - Pass the *gorm.DB that Transaction hands to your function, not the one outside. sqlTx refuses the latter.
//   - Config.PrepareStmt wraps the transaction; sqlTx unwraps it.
//   - In a hook (AfterCreate) the *gorm.DB is the transaction, too: the default one that gorm opens for each write, or
//     yours. With Config.SkipDefaultTransaction and none of yours there is none, and sqlTx says so.
//   - A nested Transaction is a savepoint: when it fails, its events go with its rows.
//   - A DryRun session executes nothing, and sqlTx refuses it, or there would be an event of a row that isn't there.
package gormshop

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
)

// Order is gorm's model of the table orders, and the event's data.
type Order struct {
	ID       string `gorm:"primaryKey"`
	Customer string
	Quantity int
}

// ErrTooMany is returned for orders of more than 100 pieces.
var ErrTooMany = errors.New("an order is of 100 pieces at most")

// Shop places orders. It is safe for concurrent use.
type Shop struct {
	db  *gorm.DB
	box *outbox.Outbox[*sql.Tx]
}

// New returns a shop on the database, which must have been migrated.
func New(db *gorm.DB) (*Shop, error) {
	box, err := outbox.New(sqlstore.New(nil), outbox.Config{Source: "shop"}) // it only writes: no pool
	if err != nil {
		return nil, err
	}
	return &Shop{db: db, box: box}, nil
}

// PlaceOrder commits the order together with its event, or neither.
func (s *Shop) PlaceOrder(ctx context.Context, order Order) error {
	return s.db.WithContext(ctx).Transaction(func(tx *gorm.DB) error { return s.placeOrder(ctx, tx, order) })
}

// placeOrder is PlaceOrder in a transaction of the caller.
func (s *Shop) placeOrder(ctx context.Context, tx *gorm.DB, order Order) error {
	inTx, err := sqlTx(tx)
	if err != nil {
		return err
	}
	if err := tx.Create(&order).Error; err != nil {
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

// sqlTx returns the transaction that tx is in.
func sqlTx(tx *gorm.DB) (*sql.Tx, error) {
	if tx.DryRun {
		return nil, errors.New("gorm is in DryRun mode: the event would be written and its row not")
	}
	pool := tx.Statement.ConnPool
	if prepared, ok := pool.(*gorm.PreparedStmtTX); ok {
		pool = prepared.Tx
	}
	if inTx, ok := pool.(*sql.Tx); ok {
		return inTx, nil
	}
	return nil, fmt.Errorf("this *gorm.DB isn't in a transaction (its connection is a %T): "+
		"pass the one that db.Transaction hands to its function", pool)
}
