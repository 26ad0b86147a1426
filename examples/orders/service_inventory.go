package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
)

// The inventory service takes the ordered items from stock, and tells that it did with an event of its own.

const inventoryQueue = "inventory.orders"

// Nothing in reservations is unique but its own number. An order that was handled twice would be there twice, for the
// reconciliation to find.
const inventoryTables = copyTable + `
CREATE TABLE IF NOT EXISTS stock (
	sku     text PRIMARY KEY,
	on_hand bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS reservations (
	seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order in which they were made
	event_id     text NOT NULL,
	order_id     text NOT NULL,
	customer_id  text NOT NULL,
	order_number integer NOT NULL
);`

// runInventory handles OrderCreated until ctx ends.
func runInventory(ctx context.Context, env environment, tell *child.Teller) error {
	pool, store, err := openDatabase(ctx, env.inventoryDatabase, inventoryTables, workers+2)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := fillStock(ctx, pool); err != nil {
		return err
	}
	box, err := outbox.New(store, outbox.Config{Source: "inventory"})
	if err != nil {
		return err
	}
	in, err := inbox.New(store, inbox.Config{Consumer: "inventory"})
	if err != nil {
		return err
	}
	service := &inventory{box: box}
	inbox.On(in, typeOrderCreated, service.reserve)
	return consume(ctx, env, tell, pool, in, inventoryQueue)
}

type inventory struct {
	box *outbox.Outbox[pgx.Tx]
}

// reserve takes an order's items from stock. The inbox calls it with the transaction in which it noted the event: the
// note, the reservation, the stock and the event that tells of it are committed together, once, however often the
// event is delivered.
func (s *inventory) reserve(ctx context.Context, tx pgx.Tx, event surepost.Event, order OrderCreated) error {
	_, err := tx.Exec(ctx, `INSERT INTO reservations (event_id, order_id, customer_id, order_number) VALUES ($1, $2, $3, $4)`,
		event.ID, order.ID, order.Customer.ID, order.Number)
	if err != nil {
		return err
	}
	pieces := 0
	for _, line := range order.Lines {
		pieces += line.Quantity
	}
	// The correlation id comes from the event that is being handled, and its id becomes the new event's causation id.
	err = s.box.Write(ctx, tx, surepost.Event{Type: typeStockReserved, Key: order.Customer.ID, Data: StockReserved{
		OrderID: order.ID, CustomerID: order.Customer.ID, Email: order.Customer.Email, Number: order.Number, Pieces: pieces,
	}})
	if err != nil {
		return err
	}
	return takeFromStock(ctx, tx, order.Lines)
}

// takeFromStock updates the items' rows: last in the transaction, since they are what all other orders wait for, and
// by ascending SKU, so that two orders can't each hold what the other one needs.
func takeFromStock(ctx context.Context, tx pgx.Tx, lines []Line) error {
	lines = slices.SortedFunc(slices.Values(lines), func(a, b Line) int { return cmp.Compare(a.SKU, b.SKU) })
	batch := &pgx.Batch{}
	for _, line := range lines {
		batch.Queue(`UPDATE stock SET on_hand = on_hand - $2 WHERE sku = $1`, line.SKU, line.Quantity)
	}
	results := tx.SendBatch(ctx, batch)
	defer results.Close()
	for _, line := range lines {
		updated, err := results.Exec()
		if err != nil {
			return err
		}
		if updated.RowsAffected() == 0 {
			// However often it is tried, there will be no such item: to the dead-letter queue at once.
			return inbox.Permanent(fmt.Errorf("no item %q in stock", line.SKU))
		}
	}
	return results.Close()
}

// fillStock stocks the items that aren't there yet.
func fillStock(ctx context.Context, pool *pgxpool.Pool) error {
	for _, item := range catalog {
		_, err := pool.Exec(ctx, `INSERT INTO stock (sku, on_hand) VALUES ($1, $2) ON CONFLICT (sku) DO NOTHING`, item.SKU, item.Stock)
		if err != nil {
			return fmt.Errorf("fill the stock: %w", err)
		}
	}
	return nil
}
