package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// River's fetch settings, at the least that it takes: a batch is fetched as soon as workers are free.
const (
	riverFetchCooldown     = time.Millisecond
	riverFetchPollInterval = time.Millisecond
	riverConnections       = 20 // of its pool
)

// publishArgs is a job: one event to be published.
type publishArgs struct {
	ID   string          `json:"id"`
	Body json.RawMessage `json:"body"`
}

func (publishArgs) Kind() string { return "publish" }

// fillRiver inserts n jobs with River's fastest insert, which is a COPY.
func fillRiver(ctx context.Context, url string, n int) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: silent})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	client, err := river.NewClient(driver, &river.Config{Logger: silent})
	if err != nil {
		return err
	}
	messages, _, err := publishings(ctx, 0, n)
	if err != nil {
		return err
	}
	for at := 0; at < n; at += 1000 {
		var page []river.InsertManyParams
		for _, m := range messages[at:min(at+1000, n)] {
			page = append(page, river.InsertManyParams{Args: publishArgs{m.MessageId, m.Body}})
		}
		if _, err := client.InsertManyFast(ctx, page); err != nil {
			return err
		}
	}
	return nil
}

// riverWorker runs River with j.Parallel workers that publish on one shared confirm channel and wait for the confirm
// of their own message: so up to j.Parallel messages are unconfirmed at a time. River completes jobs in batches by
// itself.
func riverWorker(ctx context.Context, j job, w *stopwatch) (int, error) {
	config, err := pgxpool.ParseConfig(j.Postgres)
	if err != nil {
		return 0, err
	}
	config.MaxConns = riverConnections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if err := w.start(); err != nil {
		return 0, err
	}
	conn, err := amqp091.Dial(j.AMQP)
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
	publish := &publishWorker{channel: ch, until: int64(j.Events), done: make(chan struct{})}
	registered := river.NewWorkers()
	river.AddWorker(registered, publish)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger: silent, Workers: registered, JobTimeout: -1,
		FetchCooldown: riverFetchCooldown, FetchPollInterval: riverFetchPollInterval,
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: j.Parallel}},
	})
	if err != nil {
		return 0, err
	}
	if err := client.Start(ctx); err != nil {
		return 0, err
	}
	select {
	case <-publish.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	w.stop()
	if err := client.Stop(ctx); err != nil {
		return 0, err
	}
	return int(publish.confirmed.Load()), completedJobs(ctx, pool)
}

// publishWorker is what a user of River would write to publish events.
type publishWorker struct {
	river.WorkerDefaults[publishArgs]
	channel   *amqp091.Channel // its publish may be called by many goroutines
	confirmed atomic.Int64
	until     int64
	done      chan struct{}
}

func (p *publishWorker) Work(ctx context.Context, job *river.Job[publishArgs]) error {
	const mandatory, immediate = true, false
	message := amqp091.Publishing{
		MessageId: job.Args.ID, Type: eventType, ContentType: "application/json", DeliveryMode: amqp091.Persistent,
		Body: job.Args.Body,
	}
	confirm, err := p.channel.PublishWithDeferredConfirmWithContext(ctx, exchange, routingKey, mandatory, immediate, message)
	if err != nil {
		return err
	}
	if ok, err := confirm.WaitContext(ctx); err != nil || !ok {
		return errors.Join(err, errors.New("the message wasn't confirmed"))
	}
	if p.confirmed.Add(1) == p.until {
		close(p.done)
	}
	return nil
}

// completedJobs makes sure that River saw all of its jobs through.
func completedJobs(ctx context.Context, pool *pgxpool.Pool) error {
	rows, _ := pool.Query(ctx, "SELECT count(*) FROM river_job WHERE state <> 'completed' OR attempt <> 1")
	open, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	if err == nil && open > 0 {
		err = errors.New("some of River's jobs weren't completed at the first attempt")
	}
	return err
}
