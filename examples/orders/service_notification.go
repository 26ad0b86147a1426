package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/inbox"
)

// The notification service writes to customers what became of their orders. It follows two services: one queue, two
// event types.
//
// What it does exactly once is to put a notification into its database. Sending it is an effect outside of the
// transaction, which Surepost doesn't promise once: a sender would take the rows one by one, with a mail provider
// that knows idempotency keys.

const notificationQueue = "notification.events"

// Nothing in notifications is unique but its own number: what was written twice would be there twice.
const notificationTables = copyTable + `
CREATE TABLE IF NOT EXISTS notifications (
	seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order in which they were written
	event_id       text NOT NULL,
	event_type     text NOT NULL,
	correlation_id text NOT NULL, -- of the request that the customer made
	order_id       text NOT NULL,
	customer_id    text NOT NULL,
	order_number   integer NOT NULL,
	recipient      text NOT NULL,
	message        text NOT NULL
);`

// runNotification handles OrderCreated and StockReserved until ctx ends.
func runNotification(ctx context.Context, env environment, tell *child.Teller) error {
	pool, store, err := openDatabase(ctx, env.notificationDatabase, notificationTables, workers+2)
	if err != nil {
		return err
	}
	defer pool.Close()
	in, err := inbox.New(store, inbox.Config{Consumer: "notification"})
	if err != nil {
		return err
	}
	inbox.On(in, typeOrderCreated, func(ctx context.Context, tx pgx.Tx, event surepost.Event, order OrderCreated) error {
		return notify(ctx, tx, event, notification{order.ID, order.Customer.ID, order.Number, order.Customer.Email,
			fmt.Sprintf("Thank you for your order, %s. It comes to %d.%02d %s.", order.Customer.Name, order.TotalCents/100, order.TotalCents%100, order.Currency)})
	})
	inbox.On(in, typeStockReserved, func(ctx context.Context, tx pgx.Tx, event surepost.Event, stock StockReserved) error {
		return notify(ctx, tx, event, notification{stock.OrderID, stock.CustomerID, stock.Number, stock.Email,
			fmt.Sprintf("Your order is being packed: %d pieces.", stock.Pieces)})
	})
	return consume(ctx, env, tell, pool, in, notificationQueue)
}

type notification struct {
	orderID, customerID string
	orderNumber         int
	recipient, message  string
}

func notify(ctx context.Context, tx pgx.Tx, event surepost.Event, n notification) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO notifications (event_id, event_type, correlation_id, order_id, customer_id, order_number, recipient, message)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		event.ID, event.Type, event.CorrelationID, n.orderID, n.customerID, n.orderNumber, n.recipient, n.message)
	return err
}
