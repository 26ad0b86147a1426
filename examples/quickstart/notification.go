package main

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// The notification service writes what is to be sent to customers. What happens exactly once is that a message is
// written down. Sending it is an effect outside of the transaction, which can't be promised once: a sender would take
// these rows one by one, with a mail provider that knows idempotency keys.

const notificationTables = `
CREATE TABLE notifications (
	id         text PRIMARY KEY,
	event_id   text NOT NULL,
	event_type text NOT NULL,
	order_id   text NOT NULL,
	customer   text NOT NULL,
	number     integer NOT NULL,
	message    text NOT NULL
);`

type notification struct{ *service }

func openNotification(ctx context.Context, at place) (notification, error) {
	base, err := openService(ctx, at, "notification", notificationTables)
	if err != nil {
		return notification{}, err
	}
	s := notification{base}
	inbox.On(s.inbox, paymentTaken, s.onPaymentTaken)
	inbox.On(s.inbox, paymentRefused, s.onPaymentRefused)
	return s, nil
}

func (s notification) onPaymentTaken(ctx context.Context, tx *sql.Tx, event surepost.Event, order Order) error {
	message := fmt.Sprintf("Thank you for your order. Your %d × %s will be sent today.", order.Pieces, order.Item)
	return write(ctx, tx, event, order, message)
}

func (s notification) onPaymentRefused(ctx context.Context, tx *sql.Tx, event surepost.Event, order Order) error {
	message := fmt.Sprintf("Your card was declined. Your order of %d × %s is cancelled.", order.Pieces, order.Item)
	return write(ctx, tx, event, order, message)
}

// onPriceChanged is what the service learns to handle only later.
func (s notification) onPriceChanged(ctx context.Context, tx *sql.Tx, event surepost.Event, change PriceChange) error {
	return write(ctx, tx, event, Order{}, fmt.Sprintf("%s is %d.%02d now.", change.Item, change.Cents/100, change.Cents%100))
}

func write(ctx context.Context, tx *sql.Tx, event surepost.Event, order Order, message string) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO notifications (id, event_id, event_type, order_id, customer, number, message)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		surepost.NewID(), event.ID, event.Type, order.ID, order.Customer, order.Number, message)
	return err
}
