package main

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// The inventory service takes from stock what was ordered, and puts it back if it wasn't paid.

// Nothing in these tables keeps an effect from being there twice. It is the inbox that does, and the books at the end
// look whether it did. Ids made by surepost.NewID ascend, so that they tell what came first.
const inventoryTables = `
CREATE TABLE stock (
	item   text PRIMARY KEY,
	pieces integer NOT NULL
);
CREATE TABLE reservations (
	id       text PRIMARY KEY,
	event_id text NOT NULL,
	order_id text NOT NULL,
	customer text NOT NULL,
	number   integer NOT NULL
);
CREATE TABLE returns (
	id       text PRIMARY KEY,
	event_id text NOT NULL,
	order_id text NOT NULL,
	customer text NOT NULL,
	number   integer NOT NULL
);`

type inventory struct{ *service }

func openInventory(ctx context.Context, at place) (inventory, error) {
	base, err := openService(ctx, at, "inventory", inventoryTables)
	if err != nil {
		return inventory{}, err
	}
	s := inventory{base}
	inbox.On(s.inbox, orderCreated, s.reserve)
	inbox.On(s.inbox, paymentRefused, s.putBack)
	for _, item := range items {
		if _, err := s.db.ExecContext(ctx, `INSERT INTO stock (item, pieces) VALUES ($1, $2)`, item, fullStock); err != nil {
			return s, err
		}
	}
	return s, nil
}

// reserve handles OrderCreated. The inbox calls it with the transaction in which it noted the event's id: the note, the
// reservation, the stock and the event that tells of it are committed together, once, however often the event comes.
func (s inventory) reserve(ctx context.Context, tx *sql.Tx, event surepost.Event, order Order) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO reservations (id, event_id, order_id, customer, number) VALUES ($1, $2, $3, $4, $5)`,
		surepost.NewID(), event.ID, order.ID, order.Customer, order.Number)
	if err != nil {
		return err // all of it is rolled back, and the event is handled again
	}
	if err := addToStock(ctx, tx, order.Item, -order.Pieces); err != nil {
		return err
	}
	// Whoever is next in the chain need not be called, nor be up: the event will be in its queue. It takes over the
	// correlation id of the event that is being handled, and that one's id as its causation id.
	return s.outbox.Write(ctx, tx, surepost.Event{Type: stockReserved, Key: order.Customer, Data: order})
}

// putBack handles PaymentRefused.
func (s inventory) putBack(ctx context.Context, tx *sql.Tx, event surepost.Event, order Order) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO returns (id, event_id, order_id, customer, number) VALUES ($1, $2, $3, $4, $5)`,
		surepost.NewID(), event.ID, order.ID, order.Customer, order.Number)
	if err != nil {
		return err
	}
	return addToStock(ctx, tx, order.Item, order.Pieces)
}

func addToStock(ctx context.Context, tx *sql.Tx, item string, pieces int) error {
	result, err := tx.ExecContext(ctx, `UPDATE stock SET pieces = pieces + $1 WHERE item = $2`, pieces, item)
	if err != nil {
		return err
	}
	switch updated, err := result.RowsAffected(); {
	case err != nil:
		return err
	case updated == 0:
		// However often it is tried, there will be no such item: this event goes to the dead-letter queue at once.
		return inbox.Permanent(fmt.Errorf("there is no item %q", item))
	}
	return nil
}
