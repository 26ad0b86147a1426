package pgxstore_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// A consumer has lost a morning's orders: they are sent once more, to its queue alone, at a rate that it can bear.
func ExampleStore_CreateReplay() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://shop@localhost/shop")
	if err != nil {
		log.Fatal(err)
	}
	store := pgxstore.New(pool)
	morning := relay.EventFilter{
		Types: []string{"OrderCreated", "OrderCancelled"},
		Since: time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC), Until: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
	counts, err := store.CountEvents(ctx, morning) // the dry run
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("to be published again:", counts)

	if _, err := store.CreateReplay(ctx, "lost morning", morning, "alice"); err != nil {
		log.Fatal(err)
	}
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{"amqp://localhost"}},
		Routing:    amqp.Routing{Queue: "warehouse"},
	})
	if err != nil {
		log.Fatal(err)
	}
	r, err := relay.New(store, publisher, relay.Config{Destination: "lost morning", Replay: true, MaxEventsPerSecond: 200})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Run(ctx); err != nil { // until all is published; once more after an interruption
		log.Fatal(err)
	}
	if err := store.RemoveDestination(ctx, "lost morning"); err != nil {
		log.Fatal(err)
	}
}
