package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

const (
	drainKeys   = 5000
	drainWindow = 1024
	drainQueue  = "drained"
)

// drain compares the relay with the bare client library.
func drain(ctx context.Context, o options) (result, error) {
	pg, err := harness.StartPostgres(ctx, harness.Private())
	if err != nil {
		return result{}, err
	}
	defer pg.Close()
	mq, err := harness.StartRabbitMQ(ctx, harness.Private())
	if err != nil {
		return result{}, err
	}
	defer mq.Close()
	pool, err := pgxpool.New(ctx, pg.URL())
	if err != nil {
		return result{}, err
	}
	defer pool.Close()
	store := pgxstore.New(pool)
	defer store.Close(ctx)
	if _, err := store.Migrate(ctx); err != nil {
		return result{}, err
	}
	events := drainEvents(o.events)
	publishings := make([]amqp091.Publishing, len(events))
	bytes := 0
	for i, e := range events {
		if publishings[i], err = amqp.PublishingFromEvent(e); err != nil {
			return result{}, err
		}
		bytes += len(publishings[i].Body)
	}
	conn, err := amqp091.Dial(mq.URL())
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	if err := declareDrained(conn); err != nil {
		return result{}, err
	}

	var figures, references []float64
	for round := range o.rounds {
		if err := writeAll(ctx, pool, store, events); err != nil {
			return result{}, err
		}
		took, err := drainRelay(ctx, store, mq.URL(), len(events))
		if err != nil {
			return result{}, err
		}
		if err := emptyQueue(conn, len(events)); err != nil {
			return result{}, err
		}
		figures = append(figures, float64(len(events))/took.Seconds())
		took, err = drainBare(ctx, mq.URL(), publishings)
		if err != nil {
			return result{}, err
		}
		if err := emptyQueue(conn, len(events)); err != nil {
			return result{}, err
		}
		references = append(references, float64(len(events))/took.Seconds())
		fmt.Fprintf(os.Stderr, "round %d: relay %.0f/s, client alone %.0f/s\n", round+1, figures[round], references[round])
	}
	figure, reference := median(figures), median(references)
	return result{
		Figure: figure, Reference: reference, Ratio: figure / reference, Unit: "events/s",
		Settings: map[string]any{
			"events": len(events), "rounds": o.rounds, "keys": drainKeys, "window": drainWindow, "body_bytes": bytes / len(events),
			"queue": "classic, durable", "reference": "amqp091-go, one connection, deferred confirms",
		},
	}, nil
}

// drainEvents are complete events of about 560 bytes on the wire.
func drainEvents(n int) []surepost.Event {
	data, _ := json.Marshal(map[string]any{"orderId": 1234567, "customer": "c-00042", "items": []string{"tea", "milk"}, "note": strings.Repeat("x", 230)})
	events := make([]surepost.Event, n)
	for i := range events {
		events[i], _ = surepost.Event{Type: "OrderCreated", Key: fmt.Sprintf("customer-%d", i%drainKeys), Data: json.RawMessage(data)}.
			Complete(context.Background(), surepost.Defaults{Source: "bench"})
	}
	return events
}

func declareDrained(conn *amqp091.Connection) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	return errors.Join(
		ch.ExchangeDeclare("events", "topic", true, false, false, false, nil),
		second(ch.QueueDeclare(drainQueue, true, false, false, false, nil)),
		ch.QueueBind(drainQueue, "#", "events", false, nil))
}

func second[T any](_ T, err error) error { return err }

// emptyQueue checks that every message arrived, and removes them.
func emptyQueue(conn *amqp091.Connection, want int) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	n, err := ch.QueuePurge(drainQueue, false)
	if err == nil && n != want {
		err = fmt.Errorf("%d messages arrived, want %d", n, want)
	}
	return err
}

// writeAll writes the events as new ones: an event is written once.
func writeAll(ctx context.Context, pool *pgxpool.Pool, store *pgxstore.Store, events []surepost.Event) error {
	box, err := outbox.New(store, outbox.Config{Source: "bench"})
	if err != nil {
		return err
	}
	for at := 0; at < len(events); at += 1000 {
		page := append([]surepost.Event(nil), events[at:min(at+1000, len(events))]...)
		for i := range page {
			page[i].ID = ""
		}
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return box.Write(ctx, tx, page...) }); err != nil {
			return err
		}
	}
	return nil
}

// drainRelay times from the relay's start until everything is confirmed.
func drainRelay(ctx context.Context, store *pgxstore.Store, url string, events int) (time.Duration, error) {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: amqp.Connection{URLs: []string{url}}})
	if err != nil {
		return 0, err
	}
	confirmed := make(chan struct{})
	n := 0
	config := relay.Config{WindowEvents: drainWindow, Hooks: relay.Hooks{OnPublished: func(_ relay.Lane, more int) {
		if n += more; n == events {
			close(confirmed)
		}
	}}}
	r, err := relay.New(store, publisher, config)
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- r.Run(running) }()
	select {
	case <-confirmed:
	case err := <-done:
		stop()
		return 0, errors.Join(err, errors.New("the relay ended early"))
	}
	took := time.Since(began)
	stop()
	return took, <-done
}

// drainBare times the client library alone: one goroutine publishes, one waits for the confirms in order.
func drainBare(ctx context.Context, url string, publishings []amqp091.Publishing) (time.Duration, error) {
	began := time.Now()
	conn, err := amqp091.Dial(url)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return 0, err
	}
	if err := ch.Confirm(false); err != nil {
		return 0, err
	}
	window := make(chan *amqp091.DeferredConfirmation, drainWindow)
	settled := make(chan error, 1)
	go func() {
		for c := range window {
			if ok, err := c.WaitContext(ctx); err != nil || !ok {
				settled <- errors.Join(err, errors.New("not confirmed"))
				return
			}
		}
		settled <- nil
	}()
	for _, p := range publishings {
		c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "events", "bench.OrderCreated", true, false, p)
		if err != nil {
			return 0, err
		}
		select {
		case window <- c:
		case err := <-settled:
			return 0, err
		}
	}
	close(window)
	if err := <-settled; err != nil {
		return 0, err
	}
	return time.Since(began), nil
}
