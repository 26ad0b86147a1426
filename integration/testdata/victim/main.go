// Command victim consumes billing.orders, and dies in the handler of the event named "killer".
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	config, err := pgxpool.ParseConfig(os.Getenv("POSTGRES_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	in, err := inbox.New(pgxstore.New(pool), inbox.Config{Consumer: "victim"})
	if err != nil {
		log.Fatal(err)
	}
	in.On("OrderCreated", func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		if e.ID == "killer" {
			os.Exit(42)
		}
		_, err := tx.Exec(ctx, "INSERT INTO effect (id, key) VALUES ($1, $2)", e.ID, e.Key)
		time.Sleep(5 * time.Millisecond) // so that others are being handled when it dies
		return err
	})
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{os.Getenv("RABBIT_URL")}},
		Queue:      "billing.orders",
		QueueType:  amqp.ClassicQueue,
		Types:      in.Types(),
		Handler:    in,
		BatchSize:  5,

		HandlerTimeout: 2 * time.Second, // after which its attempts are known to be over
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := consumer.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
