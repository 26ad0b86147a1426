package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/outbox"
)

// The order service takes orders by HTTP. It knows nothing of RabbitMQ: an order and its event are written in one
// transaction, and the relay does the rest.

const orderTables = `
CREATE TABLE IF NOT EXISTS customers (
	id     text PRIMARY KEY,
	name   text NOT NULL,
	email  text NOT NULL,
	orders integer NOT NULL -- how many there are: the number of the last one
);
CREATE TABLE IF NOT EXISTS orders (
	id          text PRIMARY KEY,
	customer_id text NOT NULL REFERENCES customers,
	number      integer NOT NULL,
	total_cents bigint NOT NULL,
	currency    text NOT NULL,
	ship_to     jsonb NOT NULL,
	note        text NOT NULL,
	placed_at   timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS order_lines (
	order_id    text NOT NULL REFERENCES orders,
	line        integer NOT NULL,
	sku         text NOT NULL,
	quantity    integer NOT NULL CHECK (quantity > 0),
	price_cents bigint NOT NULL,
	PRIMARY KEY (order_id, line)
);`

// runOrderService serves POST /orders until ctx ends.
func runOrderService(ctx context.Context, env environment, tell *child.Teller) error {
	pool, store, err := openDatabase(ctx, env.ordersDatabase, orderTables, 12)
	if err != nil {
		return err
	}
	defer pool.Close()
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		return err
	}
	service := &orderService{pool: pool, box: box}

	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", service.postOrder)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tell.Ready(listener.Addr().String())

	context.AfterFunc(ctx, func() {
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(closing) // what doesn't end in time is cut off: its client asks again
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type orderService struct {
	pool *pgxpool.Pool
	box  *outbox.Outbox[pgx.Tx]
}

// maxOrderBytes limits the body of a request. An order is about 500 bytes.
const maxOrderBytes = 64 << 10

// postOrder answers 201 when the order is committed, 200 when it was before, 422 when the shop refuses it, and 400
// when it isn't an order. After a 5xx, or no answer at all, the client can't know what happened, and sends the same
// order again.
func (s *orderService) postOrder(w http.ResponseWriter, r *http.Request) {
	var order Order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrderBytes)).Decode(&order); err != nil {
		http.Error(w, "the body isn't an order: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := order.check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// All events of this flow, here and in the services that follow, carry the request's id.
	ctx := surepost.WithCorrelationID(r.Context(), r.Header.Get("X-Request-Id"))
	switch err := s.place(ctx, order); {
	case err == nil:
		w.WriteHeader(http.StatusCreated)
	case errors.Is(err, errPlacedBefore):
		w.WriteHeader(http.StatusOK)
	case errors.Is(err, errOverLimit):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case r.Context().Err() != nil:
		// The client hung up: nobody is there to answer. It may ask again.
	default:
		slog.Error("order not placed", "order", order.ID, "err", err)
		http.Error(w, "not placed for now: send it again", http.StatusServiceUnavailable)
	}
}

var (
	errPlacedBefore = errors.New("the order was placed before")
	errOverLimit    = errors.New("the order is over the limit of 1,000.00")
)

// place commits the order together with its event, or neither.
func (s *orderService) place(ctx context.Context, order Order) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		created := OrderCreated{Order: order, TotalCents: order.totalCents()}

		// The first statement locks the customer's row until the commit. That serialises the orders of one customer,
		// and so it is what gives the events of one key their order: Surepost publishes them in the order of their
		// commits.
		err := tx.QueryRow(ctx, `
			INSERT INTO customers (id, name, email, orders) VALUES ($1, $2, $3, 1)
			ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email, orders = customers.orders + 1
			RETURNING orders`,
			order.Customer.ID, order.Customer.Name, order.Customer.Email).Scan(&created.Number)
		if err != nil {
			return err
		}
		inserted, err := tx.Exec(ctx, `
			INSERT INTO orders (id, customer_id, number, total_cents, currency, ship_to, note, placed_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING`,
			order.ID, order.Customer.ID, created.Number, created.TotalCents, order.Currency, order.ShipTo, order.Note, order.PlacedAt)
		if err != nil {
			return err
		}
		if inserted.RowsAffected() == 0 {
			return errPlacedBefore // and the customer's count is rolled back
		}
		if err := insertLines(ctx, tx, order); err != nil {
			return err
		}

		// The event is one more row of this transaction.
		err = s.box.Write(ctx, tx, surepost.Event{Type: typeOrderCreated, Key: order.Customer.ID, Data: created})
		if err != nil {
			return err
		}

		// The limit is checked last on purpose, to show that the place doesn't matter: whatever makes the transaction
		// fail, be it before or after the event was written, takes the event along.
		if created.TotalCents > orderLimitCents {
			return errOverLimit
		}
		return nil
	})
}

func insertLines(ctx context.Context, tx pgx.Tx, order Order) error {
	skus := make([]string, len(order.Lines))
	quantities := make([]int, len(order.Lines))
	prices := make([]int64, len(order.Lines))
	for i, line := range order.Lines {
		skus[i], quantities[i], prices[i] = line.SKU, line.Quantity, itemOf[line.SKU].Cents
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO order_lines (order_id, line, sku, quantity, price_cents)
		SELECT $1, l.line, l.sku, l.quantity, l.price_cents
		FROM unnest($2::text[], $3::int[], $4::bigint[]) WITH ORDINALITY AS l (sku, quantity, price_cents, line)`,
		order.ID, skus, quantities, prices)
	return err
}

// check finds what no database is needed for.
func (o Order) check() error {
	var errs []error
	if o.ID == "" {
		errs = append(errs, errors.New("orderId is empty"))
	}
	if o.Customer.ID == "" {
		errs = append(errs, errors.New("customer.customerId is empty"))
	}
	if len(o.Lines) == 0 {
		errs = append(errs, errors.New("lines are empty"))
	}
	for i, line := range o.Lines {
		if _, known := itemOf[line.SKU]; !known {
			errs = append(errs, fmt.Errorf("lines[%d].sku %q isn't in the catalog", i, line.SKU))
		}
		if line.Quantity < 1 || line.Quantity > 10_000 {
			errs = append(errs, fmt.Errorf("lines[%d].quantity is %d: order 1 to 10000", i, line.Quantity))
		}
	}
	return errors.Join(errs...)
}
