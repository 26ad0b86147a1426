package main

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/inbox"
)

// workers is how many events a consumer handles at once. Each needs a connection of the pool.
const workers = 8

// consume hands the queue's events to the inbox until ctx ends. The queue is bound to the types that the inbox has
// handlers for.
func consume(ctx context.Context, env environment, tell *child.Teller, pool *pgxpool.Pool, in *inbox.Inbox[pgx.Tx], queue string) error {
	var once sync.Once
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{env.amqp}, Name: in.Consumer()},
		Queue:      queue,
		Types:      in.Types(),
		Handler:    &copyCounter{in, pool},
		Workers:    workers,
		Hooks: amqp.ConsumerHooks{
			OnConnect: func() { once.Do(func() { tell.Ready("") }) },
			OnHandled: func(amqp.HandledMessage) { tell.Did(1) },
		},
	})
	if err != nil {
		return err
	}
	return consumer.Run(ctx)
}

const copyTable = `
CREATE TABLE IF NOT EXISTS dropped_copies (
	event_id   text NOT NULL,
	dropped_at timestamptz NOT NULL DEFAULT now()
);`

// copyCounter is an inbox that keeps books of the copies that it dropped. A service needs no such thing; this program
// does, since it wants to say how many there were after the process that dropped them was killed. The row is
// committed before the message is acknowledged: a copy that was acknowledged has been counted.
type copyCounter struct {
	*inbox.Inbox[pgx.Tx]
	pool *pgxpool.Pool
}

func (c *copyCounter) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	result, err := c.Inbox.Handle(ctx, event)
	if err == nil && result == inbox.Duplicate {
		_, err = c.pool.Exec(ctx, `INSERT INTO dropped_copies (event_id) VALUES ($1)`, event.ID)
	}
	return result, err
}
