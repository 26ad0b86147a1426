// Command lanerelay is a relay of six lanes.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ttl, err := time.ParseDuration(os.Getenv("LEASE"))
	if err != nil {
		log.Fatal(err)
	}
	pool, err := pgxpool.New(ctx, os.Getenv("POSTGRES_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: amqp.Connection{URLs: []string{os.Getenv("RABBIT_URL")}}, Logger: logger})
	if err != nil {
		log.Fatal(err)
	}
	r, err := relay.New(pgxstore.New(pool), publisher, relay.Config{Owner: os.Getenv("OWNER"), Lanes: 6, LeaseTTL: ttl, Logger: logger})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
