package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// facts are what the databases and the broker say at the end, and what the clients were answered. The reconciliation
// judges by nothing else.
type facts struct {
	accepted map[string]bool // by order id, what the clients were answered: true for 201 and 200, false for 422
	orders   []order

	orderLog, stockLog []logged // the outboxes of the order service and the inventory

	reservations   []effect // of OrderCreated, in the order in which they were made
	thanks, packed []effect // notifications of OrderCreated and of StockReserved, likewise

	inventory, notification books

	sold  map[string]int64 // pieces by SKU, by the lines of committed orders
	stock map[string]int64 // on hand by SKU, by the inventory

	parked       int64          // events that the relays took out of the stream
	left         map[string]int // messages in the queues, by their names
	deadLettered map[string]int // in the dead-letter queues
}

// order is a committed order.
type order struct {
	ID       string
	Customer string
	Number   int
}

// logged is an event in an outbox.
type logged struct {
	ID          string
	Order       string
	Correlation string
	Causation   string
}

// effect is a row that a handler wrote.
type effect struct {
	Event    string
	Order    string
	Customer string
	Number   int
}

// books are what a consumer wrote down about its deliveries, as event ids.
type books struct {
	handled []string // the inbox
	dropped []string // copies, one for each
}

// gather reads the facts. All services have ended: nothing moves any more.
func (st *stage) gather(ctx context.Context) (facts, error) {
	r := reader{ctx: ctx}
	f := facts{
		accepted: st.clients.accepted,
		orders:   read[order](&r, st.orders, `SELECT id, customer_id, number FROM orders`),
		orderLog: read[logged](&r, st.orders, readLog, typeOrderCreated),
		stockLog: read[logged](&r, st.inventory, readLog, typeStockReserved),

		reservations: read[effect](&r, st.inventory, `SELECT event_id, order_id, customer_id, order_number FROM reservations ORDER BY seq`),
		thanks:       read[effect](&r, st.notification, readNotifications, typeOrderCreated),
		packed:       read[effect](&r, st.notification, readNotifications, typeStockReserved),

		inventory:    r.books(st.inventory, "inventory"),
		notification: r.books(st.notification, "notification"),

		sold:  r.perItem(st.orders, `SELECT sku, sum(quantity)::bigint FROM order_lines GROUP BY sku`),
		stock: r.perItem(st.inventory, `SELECT sku, on_hand FROM stock`),

		left: map[string]int{}, deadLettered: map[string]int{},
	}
	for _, db := range []*pgxpool.Pool{st.orders, st.inventory} {
		for _, n := range read[struct{ N int64 }](&r, db, `SELECT count(*) FROM surepost_parked`) {
			f.parked += n.N
		}
	}
	for _, queue := range []string{inventoryQueue, notificationQueue} {
		f.left[queue] = r.count(st.redelivery, queue)
		f.deadLettered[queue] = r.count(st.redelivery, queue+".dlq")
	}
	return f, r.err
}

// The log is an ordinary table, which may be read by whoever wants to.
const readLog = `
	SELECT id, coalesce(data ->> 'orderId', ''), coalesce(correlation_id, ''), coalesce(causation_id, '')
	FROM surepost_outbox WHERE type = $1 ORDER BY seq`

const readNotifications = `
	SELECT event_id, order_id, customer_id, order_number FROM notifications WHERE event_type = $1 ORDER BY seq`

// reader keeps the first error of many queries.
type reader struct {
	ctx context.Context
	err error
}

// read returns a query's rows.
func read[T any](r *reader, db *pgxpool.Pool, sql string, args ...any) []T {
	if r.err != nil {
		return nil
	}
	rows, _ := db.Query(r.ctx, sql, args...) // CollectRows returns its error
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		r.err = fmt.Errorf("reconcile: %w in %s", err, sql)
	}
	return found
}

func (r *reader) books(db *pgxpool.Pool, consumer string) books {
	type row struct{ Event string }
	var b books
	for _, x := range read[row](r, db, `SELECT event_id FROM surepost_inbox WHERE consumer = $1`, consumer) {
		b.handled = append(b.handled, x.Event)
	}
	for _, x := range read[row](r, db, `SELECT event_id FROM dropped_copies`) {
		b.dropped = append(b.dropped, x.Event)
	}
	return b
}

func (r *reader) perItem(db *pgxpool.Pool, sql string) map[string]int64 {
	type row struct {
		SKU    string
		Pieces int64
	}
	of := map[string]int64{}
	for _, x := range read[row](r, db, sql) {
		of[x.SKU] = x.Pieces
	}
	return of
}

func (r *reader) count(from *redelivery, queue string) int {
	if r.err != nil {
		return 0
	}
	n, err := from.ready(queue)
	if err != nil {
		r.err = fmt.Errorf("reconcile: look into the queue %s: %w", queue, err)
	}
	return n
}
