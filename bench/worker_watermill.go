package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/jackc/pgx/v5/stdlib" // database/sql's driver "pgx"
)

// watermillBatch is how many rows Watermill's subscriber reads at once; its default is 100.
const watermillBatch = 1000

func watermillSchema() wsql.DefaultPostgreSQLSchema {
	return wsql.DefaultPostgreSQLSchema{SubscribeBatchSize: watermillBatch}
}

// watermillTopic names the table of a forwarder: with several of them, events are spread by key.
func watermillTopic(i int) string { return fmt.Sprintf("forwarded_%d", i) }

// fillWatermill writes n events as Watermill's users do: through the forwarder's publisher, which wraps them in its
// envelope, in transactions of a thousand.
func fillWatermill(ctx context.Context, url string, n, topics int) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	defer db.Close()
	messages, _, err := publishings(ctx, 0, n)
	if err != nil {
		return err
	}
	byTopic := make([][]*message.Message, topics)
	for i, m := range messages {
		t := i % eventKeys % topics
		byTopic[t] = append(byTopic[t], message.NewMessage(m.MessageId, m.Body))
	}
	for t, waiting := range byTopic {
		if err := initializeWatermill(ctx, db, watermillTopic(t)); err != nil {
			return err
		}
		for at := 0; at < len(waiting); at += 1000 {
			page := waiting[at:min(at+1000, len(waiting))]
			if err := publishWatermill(ctx, db, watermillTopic(t), page); err != nil {
				return err
			}
		}
	}
	return nil
}

func initializeWatermill(ctx context.Context, db *sql.DB, topic string) error {
	queries := append(watermillSchema().SchemaInitializingQueries(topic),
		wsql.DefaultPostgreSQLOffsetsAdapter{}.SchemaInitializingQueries(topic)...)
	for _, q := range queries {
		if _, err := db.ExecContext(ctx, q.Query, q.Args...); err != nil {
			return err
		}
	}
	return nil
}

func publishWatermill(ctx context.Context, db *sql.DB, topic string, page []*message.Message) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	inner, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: watermillSchema()}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	outer := forwarder.NewPublisher(inner, forwarder.PublisherConfig{ForwarderTopic: topic})
	if err := outer.Publish(routingKey, page...); err != nil {
		return err
	}
	return tx.Commit()
}

// watermillWorker runs Watermill's forwarder from PostgreSQL to RabbitMQ: j.Parallel forwarders with a table each,
// which share one connection with as many pooled channels, in confirm mode.
func watermillWorker(ctx context.Context, j job, w *stopwatch) (int, error) {
	db, err := sql.Open("pgx", j.Postgres)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if err := w.start(); err != nil {
		return 0, err
	}
	config := wamqp.NewDurableTopicConfig(j.AMQP, exchange, "")
	config.Exchange.Durable = true
	config.Publish.ConfirmDelivery = true
	config.Publish.ChannelPoolSize = j.Parallel
	broker, err := wamqp.NewPublisher(config, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	counted := &countedPublisher{Publisher: broker, until: int64(j.Events), done: make(chan struct{})}
	var forwarders []*forwarder.Forwarder
	ended := make(chan error, j.Parallel)
	for i := range j.Parallel {
		subscriber, err := wsql.NewSubscriber(db, wsql.SubscriberConfig{
			SchemaAdapter: watermillSchema(), OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{},
			PollInterval: 10 * time.Millisecond,
		}, watermill.NopLogger{})
		if err != nil {
			return 0, err
		}
		f, err := forwarder.NewForwarder(subscriber, counted, watermill.NopLogger{},
			forwarder.Config{ForwarderTopic: watermillTopic(i)})
		if err != nil {
			return 0, err
		}
		forwarders = append(forwarders, f)
		go func() { ended <- f.Run(ctx) }()
	}
	select {
	case <-counted.done:
	case err := <-ended:
		return 0, errors.Join(err, errors.New("a forwarder ended early"))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	w.stop()
	for _, f := range forwarders {
		err = errors.Join(err, f.Close())
	}
	return int(counted.confirmed.Load()), err
}

// countedPublisher counts what was confirmed: Watermill's publisher returns after the confirm.
type countedPublisher struct {
	message.Publisher
	confirmed atomic.Int64
	until     int64
	done      chan struct{}
}

func (p *countedPublisher) Publish(topic string, messages ...*message.Message) error {
	if err := p.Publisher.Publish(topic, messages...); err != nil {
		return err
	}
	if p.confirmed.Add(int64(len(messages))) == p.until { // one at a time, so it is met exactly
		close(p.done)
	}
	return nil
}
