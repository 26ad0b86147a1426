package amqp_test

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// A service that handles each order's events in order, and with effects that happen once.
func ExampleConsumer() {
	type order struct{ ID string }

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, "postgres://localhost/billing")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	in, err := inbox.New(pgxstore.New(pool), inbox.Config{Consumer: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	inbox.On(in, "OrderCreated", func(ctx context.Context, tx pgx.Tx, _ surepost.Event, o order) error {
		_, err := tx.Exec(ctx, "INSERT INTO invoice (order_id) VALUES ($1)", o.ID)
		return err
	})

	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{"amqp://guest:guest@localhost:5672/"}},
		Handler:    in,
		Queue:      "billing.orders",
		Types:      in.Types(),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Run(ctx); err != nil { // until SIGTERM
		log.Fatal(err)
	}
}
