package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

const (
	source     = "bench"
	eventType  = "OrderCreated"
	exchange   = "events"                 // the publisher's default
	routingKey = source + "." + eventType // the publisher's default for these events
	eventKeys  = 5000
)

// order is what the events are about. It makes an event of about 560 bytes on the wire.
type order struct {
	ID       int      `json:"orderId"`
	Customer string   `json:"customer"`
	Items    []string `json:"items"`
	Note     string   `json:"note"`
}

func newOrder(i int) order {
	return order{ID: 1_000_000 + i, Customer: customer(i), Items: []string{"tea", "milk"}, Note: note}
}

var note = strings.Repeat("x", 230)

// customer is the key of the i-th event.
func customer(i int) string { return fmt.Sprintf("customer-%04d", i%eventKeys) }

func newEvent(i int) surepost.Event {
	return surepost.Event{Type: eventType, Key: customer(i), Data: newOrder(i)}
}

// publishings are n events as messages, exactly as the relay's publisher would make them.
func publishings(ctx context.Context, first, n int) (messages []amqp091.Publishing, bodyBytes int, err error) {
	messages = make([]amqp091.Publishing, n)
	for i := range messages {
		e, err := newEvent(first+i).Complete(ctx, surepost.Defaults{Source: source})
		if err != nil {
			return nil, 0, err
		}
		if messages[i], err = amqp.PublishingFromEvent(e); err != nil {
			return nil, 0, err
		}
		bodyBytes += len(messages[i].Body)
	}
	return messages, bodyBytes / n, nil
}

// writeEvents writes n events through the outbox, a thousand a transaction.
func writeEvents(ctx context.Context, pool *pgxpool.Pool, box *outbox.Outbox[pgx.Tx], n int) error {
	for at := 0; at < n; at += 1000 {
		page := make([]surepost.Event, min(1000, n-at))
		for i := range page {
			page[i] = newEvent(at + i)
		}
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return box.Write(ctx, tx, page...) }); err != nil {
			return err
		}
	}
	return nil
}

// fillEvents writes n events of the same shape inside the server, which is many times faster: for backlogs of
// millions. The columns are those that the outbox writes.
func fillEvents(ctx context.Context, pool *pgxpool.Pool, store *pgxstore.Store, n int) error {
	const most = 500_000 // a statement
	for at := 0; at < n; at += most {
		_, err := pool.Exec(ctx, `INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
SELECT clock_timestamp(), i % 1024, gen_random_uuid()::text, $3, '1.0', $4, 'customer-' || lpad((i % $5::int)::text, 4, '0'),
       ('{"orderId":' || 1000000 + i || ',"customer":"customer-' || lpad((i % $5::int)::text, 4, '0')
        || '","items":["tea","milk"],"note":"' || $6 || '"}')::json
FROM generate_series($1::int, $2::int) AS i`, at, min(at+most, n)-1, eventType, source, eventKeys, note)
		if err != nil {
			return fmt.Errorf("fill the log: %w", err)
		}
	}
	return nil
}
