package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

// service is what all services have: a database of their own, an outbox and an inbox in it, a consumer that hands
// events to the inbox, and a relay that publishes what is in the outbox. This file is all that connects a service to
// Surepost.
type service struct {
	name   string
	at     place
	db     *sql.DB
	store  store
	outbox *outbox.Outbox[*sql.Tx]
	inbox  *inbox.Inbox[*sql.Tx]
}

// openService opens the service's database and makes its tables and Surepost's. The inbox has no handlers yet.
func openService(ctx context.Context, at place, name, tables string) (*service, error) {
	db, store, err := at.openDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &service{name: name, at: at, db: db, store: store}
	if _, err = db.ExecContext(ctx, tables+droppedTable); err == nil {
		s.outbox, err = outbox.New(store, outbox.Config{Source: name})
	}
	if err == nil {
		s.inbox, err = inbox.New(store, inbox.Config{Consumer: name})
	}
	if err != nil {
		s.close(ctx)
		return nil, fmt.Errorf("open the %s service: %w", name, err)
	}
	return s, nil
}

func (s *service) close(ctx context.Context) {
	s.store.Close(ctx)
	_ = s.db.Close()
}

// queue is the service's queue: events wait in it while the service is down.
func (s *service) queue() string { return s.at.queue(s.name) }

func (s *service) connection() amqp.Connection {
	return amqp.Connection{URLs: []string{s.at.Broker}, Name: s.name}
}

// consume handles the events of the service's queue until ctx ends. The queue is made, and bound to the types that the
// inbox has handlers for.
func (s *service) consume(ctx context.Context, connected func()) error {
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: s.connection(),
		Exchange:   s.at.exchange(),
		Queue:      s.queue(),
		Types:      s.inbox.Types(),
		Handler:    bookkeeper{s.inbox, s.db}, // without the books it would be s.inbox
		Workers:    s.at.workers(),
		Hooks:      amqp.ConsumerHooks{OnConnect: connected},
	})
	if err != nil {
		return err
	}
	return consumer.Run(ctx)
}

// publish publishes the events of the service's outbox until ctx ends.
func (s *service) publish(ctx context.Context, ready func()) error {
	return runRelay(ctx, s.at, s.store, relay.Hooks{}, ready)
}

// relayLease is short, because this program kills a relay and waits until the next one takes over. Elsewhere the
// default of 15 s is better.
const relayLease = time.Second

// runRelay runs a relay, in the service's process or in one of its own: it needs nothing but the database and the
// broker.
func runRelay(ctx context.Context, at place, store store, hooks relay.Hooks, ready func()) error {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{at.Broker}, Name: "relay"},
		Routing:    amqp.Routing{Exchange: at.exchange()},
	})
	if err != nil {
		return err
	}
	r, err := relay.New(store, publisher, relay.Config{
		LeaseTTL:        relayLease,
		UnroutableTries: 3, // the default outlasts bindings that a cluster shows late
		Hooks:           hooks,
	})
	if err != nil {
		return err
	}
	// Run would wait for a server that doesn't answer. At its start a program rather wants to hear of it.
	if err := r.Check(ctx); err != nil {
		return err
	}
	ready()
	return r.Run(ctx)
}

const droppedTable = `
CREATE TABLE dropped (
	event_id text NOT NULL
);`

// bookkeeper is an inbox that keeps books of the copies that it dropped, so that they can be counted at the end. A
// service needs no such thing.
type bookkeeper struct {
	*inbox.Inbox[*sql.Tx]
	db *sql.DB
}

func (b bookkeeper) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	result, err := b.Inbox.Handle(ctx, event)
	if err == nil && result == inbox.Duplicate {
		_, err = b.db.ExecContext(ctx, `INSERT INTO dropped (event_id) VALUES ($1)`, event.ID)
	}
	return result, err
}

// inTransaction commits what work does, or rolls it back if work returns an error.
func inTransaction(ctx context.Context, db *sql.DB, work func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}
