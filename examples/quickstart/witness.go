package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// witness is none of the shop's services. It writes down every message that is published, and makes trouble: it
// publishes a copy of every tenth event, as happens by itself where connections break.
type witness struct {
	at    place
	db    *sql.DB
	store store
	types []string

	mu     sync.Mutex
	seen   map[string]bool
	toCopy chan surepost.Event
	copies atomic.Int64 // that the broker has taken
}

const copyEvery = 10

const witnessTables = `
CREATE TABLE sightings (
	event_id   text NOT NULL,
	event_type text NOT NULL
);`

func openWitness(ctx context.Context, at place) (*witness, error) {
	db, store, err := at.openDatabase(ctx, witnessName)
	if err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, witnessTables); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("make the witness's tables: %w", err)
	}
	return &witness{
		at: at, db: db, store: store, types: []string{orderCreated, stockReserved, paymentTaken, paymentRefused},
		seen: map[string]bool{}, toCopy: make(chan surepost.Event),
	}, nil
}

func (w *witness) close(ctx context.Context) {
	w.store.Close(ctx)
	_ = w.db.Close()
}

// watch writes down what is published until ctx ends.
func (w *witness) watch(ctx context.Context, connected func()) error {
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{w.at.Broker}, Name: witnessName},
		Exchange:   w.at.exchange(),
		Queue:      w.at.queue(witnessName),
		Types:      w.types,
		Handler:    w, // no inbox: copies are what it looks for
		Workers:    w.at.workers(),
		Hooks:      amqp.ConsumerHooks{OnConnect: connected},
	})
	if err != nil {
		return err
	}
	return consumer.Run(ctx)
}

// Handle implements amqp.Handler.
func (w *witness) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	_, err := w.db.ExecContext(ctx, `INSERT INTO sightings (event_id, event_type) VALUES ($1, $2)`, event.ID, event.Type)
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	first := !w.seen[event.ID]
	w.seen[event.ID] = true
	due := first && len(w.seen)%copyEvery == 0
	w.mu.Unlock()
	if due {
		select {
		case w.toCopy <- event:
		case <-ctx.Done():
		}
	}
	return inbox.Handled, nil
}

// publishCopies publishes copies until ctx ends.
func (w *witness) publishCopies(ctx context.Context, ready func()) error {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{w.at.Broker}, Name: "copies"},
		Routing:    amqp.Routing{Exchange: w.at.exchange()},
	})
	if err != nil {
		return err
	}
	session, err := publisher.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = session.Close(ctx) }()
	ready()
	for tag := uint64(1); ; tag++ {
		select {
		case event := <-w.toCopy:
			if err := session.Send(ctx, tag, &relay.Entry{Event: event}); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
		select {
		case outcomes, open := <-session.Outcomes():
			if !open || outcomes[0].Status != relay.Confirmed {
				return errors.Join(errors.New("the broker didn't take a copy"), session.Err())
			}
			w.copies.Add(1)
		case <-ctx.Done():
			return nil
		}
	}
}
