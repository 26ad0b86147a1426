package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// leaseTTL is short, because this program kills its relay and doesn't want to wait. Relay's default of 15 s is the
// better one where a standby isn't all that matters.
const leaseTTL = 2 * time.Second

// runRelay publishes what the order service and the inventory write, until ctx ends. It runs one relay per database;
// they share nothing but the process and the settings of the publisher.
func runRelay(ctx context.Context, env environment, tell *child.Teller) error {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{env.amqp}, Name: "relay"},
	})
	if err != nil {
		return err
	}
	var relays []*relay.Relay
	for _, url := range []string{env.ordersDatabase, env.inventoryDatabase} {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		defer pool.Close()
		store := pgxstore.New(pool)
		defer store.Close(context.WithoutCancel(ctx))
		r, err := relay.New(store, publisher, relay.Config{
			LeaseTTL: leaseTTL,
			Logger:   slog.Default(),
			Hooks:    relay.Hooks{OnPublished: func(_ relay.Lane, events int) { tell.Did(events) }},
		})
		if err != nil {
			return err
		}
		// Run would wait for a server that doesn't answer; at its start a program rather wants to hear of it.
		if err := r.Check(ctx); err != nil {
			return err
		}
		relays = append(relays, r)
	}
	tell.Ready("")
	return runAll(ctx, relays)
}

// runAll runs the relays until ctx ends, or until one of them halts: that takes the others along, and somebody has to
// look.
func runAll(ctx context.Context, relays []*relay.Relay) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	for i, r := range relays {
		go func() {
			err := r.Run(ctx)
			if err != nil {
				err = fmt.Errorf("relay %d: %w", i, err)
			}
			ended <- err
		}()
	}
	var errs []error
	for range relays {
		errs = append(errs, <-ended)
		cancel()
	}
	return errors.Join(errs...)
}
