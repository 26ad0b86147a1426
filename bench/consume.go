package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
)

var consume = benchmark{
	name: "consume",
	compares: "The consumer hands the messages of a full queue to an inbox whose handler inserts one row for " +
		"each, one by one and in " +
		"batches; the reference is the same consumer with a handler that opens a transaction of its own for each " +
		"message, " +
		"inserts the same row and commits, without dedupe.",
	defaults: options{events: 15_000, rounds: 5},
	smoke:    options{events: 150, rounds: 1},
	run:      runConsume,
}

const (
	consumeQueue = "consumed"
	effectsTable = `CREATE TABLE effects (event_id uuid NOT NULL, customer text NOT NULL, items integer NOT NULL)`
	insertEffect = "INSERT INTO effects (event_id, customer, items) VALUES ($1, $2, $3)"

	insertEffects = "INSERT INTO effects (event_id, customer, items) SELECT * FROM unnest($1::uuid[], $2::text[], " +
		"$3::integer[])"
)

// consuming is one way to consume: what it sets beside the queue and the broker.
type consuming struct {
	name    string
	handler amqp.Handler
	tune    func(*amqp.ConsumerConfig)
	what    string
	aim     float64
}

func runConsume(ctx context.Context, l *lab) ([]result, error) {
	if err := l.exec(ctx, effectsTable); err != nil {
		return nil, err
	}
	ways, err := l.waysToConsume()
	if err != nil {
		return nil, err
	}
	byDefault := func(*amqp.ConsumerConfig) {}
	reference := consuming{name: "no-inbox", handler: handlerFunc(l.handleWithoutInbox), tune: byDefault}
	var sides []side
	for _, w := range append(ways, reference) {
		sides = append(sides, side{w.name, func(ctx context.Context) (float64, error) { return l.consumed(ctx, w) }})
	}
	s, err := alternate(ctx, l.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, w := range ways {
		settings := s.settings(w.name, reference.name)
		maps.Copy(settings, map[string]any{
			"messages": l.events, "what": w.what, "reference": "one INSERT a message in a transaction of its own, " +
				"no inbox; the consumer's defaults",
			"queue": "quorum, single active consumer", "clock": "from the consumer's connection to the last " +
				"message's commit",
		})
		r := newRate("consume/"+w.name, "messages/s", s.median(w.name), s.median(reference.name), settings)
		results = append(results, r.atLeast(w.aim))
	}
	return results, nil
}

// waysToConsume through the inbox.
func (l *lab) waysToConsume() ([]consuming, error) {
	each, err := inbox.New(l.store, inbox.Config{Consumer: "each"})
	if err != nil {
		return nil, err
	}
	each.On(eventType, insertEffectOf)
	many, err := inbox.New(l.store, inbox.Config{Consumer: "many"})
	if err != nil {
		return nil, err
	}
	many.OnBatch(eventType, insertEffectsOf)
	inBatches := func(c *amqp.ConsumerConfig) { c.BatchSize, c.Workers, c.Prefetch = 100, 4, 1000 }
	return []consuming{
		{"one-by-one", each, func(*amqp.ConsumerConfig) {},
			"every message in a transaction of its own; the consumer's defaults (8 workers, prefetch 100)", 0.85},
		{"batches", each, inBatches,
			"up to 100 messages a transaction, the handler called for each; 4 workers, prefetch 1000", 3},
		{"batches-onbatch", many, inBatches,
			"up to 100 messages a transaction, the handler called once for all of them, with one INSERT of many " +
				"rows; 4 workers, prefetch 1000", 3},
	}, nil
}

// insertEffectOf is what an event does.
func insertEffectOf(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
	var o order
	if err := e.Decode(&o); err != nil {
		return inbox.Permanent(err)
	}
	_, err := tx.Exec(ctx, insertEffect, e.ID, o.Customer, len(o.Items))
	return err
}

// insertEffectsOf is what many events do, in one statement.
func insertEffectsOf(ctx context.Context, tx pgx.Tx, events []surepost.Event) error {
	ids, customers, items := make([]string, len(events)), make([]string, len(events)), make([]int, len(events))
	for i, e := range events {
		var o order
		if err := e.Decode(&o); err != nil {
			return inbox.Permanent(err)
		}
		ids[i], customers[i], items[i] = e.ID, o.Customer, len(o.Items)
	}
	_, err := tx.Exec(ctx, insertEffects, ids, customers, items)
	return err
}

// handleWithoutInbox is a handler as one writes it without an inbox: a redelivered message is done twice.
func (l *lab) handleWithoutInbox(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	return inbox.Handled, pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error { return insertEffectOf(ctx, tx, e) })
}

// consumed fills the queue and returns the rate at which the consumer empties it.
func (l *lab) consumed(ctx context.Context, w consuming) (float64, error) {
	if err := l.declareConsumed(ctx, w); err != nil {
		return 0, err
	}
	if _, err := l.employ(ctx, job{Worker: "client", Events: l.events}); err != nil {
		return 0, err
	}
	if err := l.exec(ctx, "TRUNCATE effects", "CHECKPOINT"); err != nil {
		return 0, err
	}
	var handled atomic.Int64
	var began time.Time
	done := make(chan time.Time, 1)
	consumer, err := l.newConsumer(w, amqp.ConsumerHooks{
		OnConnect: sync.OnceFunc(func() { began = time.Now() }),
		OnHandled: func(amqp.HandledMessage) {
			if handled.Add(1) == int64(l.events) {
				done <- time.Now()
			}
		},
	})
	if err != nil {
		return 0, err
	}
	var ended time.Time
	err = l.while(ctx, func(ctx context.Context) error {
		select {
		case ended = <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, consumer.Run)
	if err != nil {
		return 0, err
	}
	var effects int
	if err := l.pool.QueryRow(ctx, "SELECT count(DISTINCT event_id) FROM effects").Scan(&effects); err != nil {
		return 0, err
	}
	if effects != l.events || handled.Load() != int64(l.events) {
		return 0, fmt.Errorf("%d messages had effects and %d were handled, want %d", effects, handled.Load(), l.events)
	}
	return float64(l.events) / ended.Sub(began).Seconds(), l.discard(consumeQueue)
}

func (l *lab) newConsumer(w consuming, hooks amqp.ConsumerHooks) (*amqp.Consumer, error) {
	config := amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{l.rabbitmq.URL()}}, Logger: silent,
		Queue: consumeQueue, Types: []string{eventType}, Handler: w.handler, Hooks: hooks,
	}
	w.tune(&config)
	return amqp.NewConsumer(config)
}

// declareConsumed lets a consumer declare its queue, and ends it.
func (l *lab) declareConsumed(ctx context.Context, w consuming) error {
	connected := make(chan struct{}, 1)
	consumer, err := l.newConsumer(w, amqp.ConsumerHooks{OnConnect: func() { connected <- struct{}{} }})
	if err != nil {
		return err
	}
	return l.while(ctx, func(ctx context.Context) error {
		select {
		case <-connected:
			return nil
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), errors.New("the consumer didn't connect"))
		}
	}, consumer.Run)
}
