package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// silent is the logger of all sides: what they would write is not what is measured.
var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// relayWorker is Surepost as a service would run it, with every default.
func relayWorker(ctx context.Context, j job, w *stopwatch) (int, error) {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{j.AMQP}}, Logger: silent,
	})
	if err != nil {
		return 0, err
	}
	return runRelay(ctx, j, publisher, w)
}

// instantWorker is the relay with a broker that confirms everything at once, in memory: for the database's side alone.
func instantWorker(ctx context.Context, j job, w *stopwatch) (int, error) {
	return runRelay(ctx, j, instantPublisher{}, w)
}

func runRelay(ctx context.Context, j job, publisher relay.Publisher, w *stopwatch) (published int, err error) {
	pool, err := pgxpool.New(ctx, j.Postgres)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	store := pgxstore.New(pool)
	defer store.Close(ctx)

	confirmed, done := 0, make(chan struct{})
	r, err := relay.New(store, publisher, relay.Config{Logger: silent, Hooks: relay.Hooks{
		OnPublished: func(_ relay.Lane, events int) { // by one goroutine
			if before := confirmed; before < j.Events && before+events >= j.Events {
				w.stop()
				close(done)
			}
			confirmed += events
		},
	}})
	if err != nil {
		return 0, err
	}
	if err := w.start(); err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	select {
	case <-done:
	case err := <-ended:
		return 0, errors.Join(err, errors.New("the relay ended early"))
	}
	stop()
	if err := <-ended; err != nil {
		return 0, err
	}
	return int(r.Report().Published), nil
}

// instantPublisher confirms what it is sent.
type instantPublisher struct{}

func (instantPublisher) Open(context.Context) (relay.Session, error) {
	return &instantSession{outcomes: make(chan []relay.Outcome, 1)}, nil
}

type instantSession struct {
	outcomes chan []relay.Outcome
	closed   atomic.Bool
}

// Send is called by the goroutine that also receives from Outcomes.
func (s *instantSession) Send(_ context.Context, tag uint64, _ *relay.Entry) error {
	var batch []relay.Outcome
	select {
	case batch = <-s.outcomes:
	default:
	}
	s.outcomes <- append(batch, relay.Outcome{Tag: tag, Status: relay.Confirmed})
	return nil
}

func (s *instantSession) Outcomes() <-chan []relay.Outcome         { return s.outcomes }
func (s *instantSession) Blocked() (bool, string, <-chan struct{}) { return false, "", nil }
func (s *instantSession) Err() error                               { return nil }

func (s *instantSession) Close(context.Context) error {
	if !s.closed.Swap(true) {
		close(s.outcomes)
	}
	return nil
}
