package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/surepost/surepost"
)

// The order service takes orders. It calls no other service, and it doesn't know who is interested in orders: it tells
// in an event that there is a new one.

const orderTables = `
CREATE TABLE customers (
	id     text PRIMARY KEY,
	orders integer NOT NULL -- how many there are: the number of the last one
);
CREATE TABLE orders (
	id       text PRIMARY KEY,
	customer text NOT NULL,
	number   integer NOT NULL,
	item     text NOT NULL,
	pieces   integer NOT NULL,
	cents    integer NOT NULL,
	currency text NOT NULL
);`

type orderService struct{ *service }

func openOrderService(ctx context.Context, at place) (orderService, error) {
	s, err := openService(ctx, at, "order", orderTables)
	return orderService{s}, err
}

var errOverLimit = errors.New("the order is over the limit of 1,000.00")

const limitCents = 100_000

// place commits the order together with its event, or neither.
func (s orderService) place(ctx context.Context, order Order) error {
	// In an HTTP service this is the id of the request. All events of the flow that begins here will carry it,
	// whichever service writes them.
	ctx = surepost.WithCorrelationID(ctx, correlationID(order.ID))

	return inTransaction(ctx, s.db, func(tx *sql.Tx) error {
		// The customer's row stays locked until the commit. So the orders of one customer are committed one after the
		// other, and the events of one key have an order that can be kept.
		err := tx.QueryRowContext(ctx, `
			INSERT INTO customers (id, orders) VALUES ($1, 1)
			ON CONFLICT (id) DO UPDATE SET orders = customers.orders + 1 RETURNING orders`,
			order.Customer).Scan(&order.Number)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO orders (id, customer, number, item, pieces, cents, currency) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			order.ID, order.Customer, order.Number, order.Item, order.Pieces, order.Cents, order.Currency)
		if err != nil {
			return err
		}

		// The event is one more row of the same transaction: that is the outbox.
		err = s.outbox.Write(ctx, tx, surepost.Event{Type: orderCreated, Key: order.Customer, Data: order})
		if err != nil {
			return err
		}

		// A service would look at this first. Here it comes last, to show that the place doesn't matter: whatever makes
		// the transaction fail takes the event along.
		if order.Cents > limitCents {
			return errOverLimit
		}
		return nil
	})
}

// changePrice tells of a new price. At first nobody listens.
func (s orderService) changePrice(ctx context.Context, change PriceChange) error {
	return inTransaction(ctx, s.db, func(tx *sql.Tx) error {
		return s.outbox.Write(ctx, tx, surepost.Event{Type: priceChanged, Key: change.Item, Data: change})
	})
}
