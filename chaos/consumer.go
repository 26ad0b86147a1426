package main

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

const workers = 6 // of each consumer: so many events, or batches of them, are handled at once

// runBilling handles what was placed, with pgx, and can't handle what is poisoned.
func runBilling(ctx context.Context, s surroundings, tell *teller) error {
	return runWithPgx(ctx, s, tell, amqp.ConsumerConfig{}, placed)
}

// runAudit handles everything, with pgx, many events in one transaction and from a classic queue.
func runAudit(ctx context.Context, s surroundings, tell *teller) error {
	return runWithPgx(ctx, s, tell, amqp.ConsumerConfig{QueueType: amqp.ClassicQueue, BatchSize: 10}, placed, billed, shipped)
}

func runWithPgx(ctx context.Context, s surroundings, tell *teller, config amqp.ConsumerConfig, types ...string) error {
	pool, err := openPool(ctx, s.Postgres, workers+2)
	if err != nil {
		return err
	}
	defer pool.Close()
	w := &service[pgx.Tx]{surroundings: s, on: func(tx pgx.Tx) statements { return &goTransaction{tx: tx} }}
	w.begin = func(ctx context.Context, work func(pgx.Tx) error) error { return pgx.BeginFunc(ctx, pool, work) }
	return w.consume(ctx, tell, pgxstore.New(pool), config, types)
}

// runShipping handles what was billed, with database/sql.
func runShipping(ctx context.Context, s surroundings, tell *teller) error {
	db, err := sql.Open("pgx", s.Postgres)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(workers + 2)
	w := &service[*sql.Tx]{surroundings: s, on: func(tx *sql.Tx) statements { return &sqlTransaction{tx} }}
	w.begin = func(ctx context.Context, work func(*sql.Tx) error) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := work(tx); err != nil {
			return err
		}
		return tx.Commit()
	}
	return w.consume(ctx, tell, sqlstore.New(db), amqp.ConsumerConfig{}, []string{billed})
}

// statements are what a handler needs of its transaction, whatever library it is of.
type statements interface {
	exec(ctx context.Context, sql string, args ...any) error
	number(ctx context.Context, sql, key string) (int64, error)
}

// store is what a consumer needs of its database.
type store[TX any] interface {
	inbox.Store[TX]
	outbox.Store[TX]
}

// service is a consumer with its handler.
type service[TX any] struct {
	surroundings
	on    func(TX) statements
	begin func(ctx context.Context, work func(TX) error) error // planted: a transaction without the inbox
	box   *outbox.Outbox[TX]
}

// errMood is what a handler fails with now and then, for no reason: it is tried again.
var errMood = errors.New("not in the mood")

// handle is the work for one event: its effect, in the ledger, and the event that follows.
func (w *service[TX]) handle(ctx context.Context, tx TX, event surepost.Event) error {
	var d data
	if err := event.Decode(&d); err != nil {
		return inbox.Permanent(err)
	}
	if d.Poison && w.Name == billing {
		return inbox.Permanent(errors.New("poisoned on purpose"))
	}
	on := w.on(tx)
	if err := on.exec(ctx, lockPlace, w.Name, event.Key); err != nil {
		return err
	}
	if err := on.exec(ctx, noteEffect, w.Name, event.ID, event.Type, event.Key, d.Number); err != nil {
		return err
	}
	if next, follows := followUp[w.Name]; follows && w.Planted != "no-follow-up" {
		if err := w.follow(ctx, tx, event, next); err != nil {
			return err
		}
	}
	if rand.IntN(100) == 0 {
		return errMood
	}
	return nil
}

// follow writes the event that follows, and enters it in the ledger.
func (w *service[TX]) follow(ctx context.Context, tx TX, event surepost.Event, next string) error {
	_, name, _ := strings.Cut(event.Key, "/")
	e := surepost.Event{ID: surepost.NewID(), Type: next, Key: strings.ToLower(strings.TrimPrefix(next, "Order")) + "/" + name}
	number, err := w.on(tx).number(ctx, nextNumber, e.Key)
	if err != nil {
		return err
	}
	e.Data = data{Number: number}
	err = w.on(tx).exec(ctx, noteWritten, e.ID, e.Type, e.Key, number, event.ID, false, w.Name)
	if err != nil {
		return err
	}
	return w.box.Write(ctx, tx, e)
}

// consume hands the queue's events to the inbox until ctx ends.
func (w *service[TX]) consume(
	ctx context.Context, tell *teller, store store[TX], config amqp.ConsumerConfig, types []string,
) (err error) {
	if w.box, err = outbox.New[TX](store, outbox.Config{Source: w.Name}); err != nil {
		return err
	}
	in, err := inbox.New[TX](store, inbox.Config{Consumer: w.Name})
	if err != nil {
		return err
	}
	for _, t := range types {
		in.On(t, w.handle)
	}
	config.Connection, config.Queue, config.Types = brokerOf(w.surroundings), w.Name, in.Types()
	config.Handler, config.Workers = in, workers
	config.HandlerTimeout = handlerTimeout
	switch w.Planted {
	case "no-inbox":
		config.Handler, config.BatchSize = withoutInbox[TX]{w}, 1
	case "ack-before-commit":
		config.Handler, config.BatchSize = ackFirst{in}, 1
	}
	config.Hooks = amqp.ConsumerHooks{
		OnConnect: tell.ready,
		OnHandled: func(m amqp.HandledMessage) {
			if m.Result == inbox.Duplicate {
				tell.copies.Add(1)
				return
			}
			tell.done.Add(1)
		},
		OnDeadLetter: func(m amqp.DeadLetteredMessage) {
			slog.Warn("dead-lettered", "event", m.Event.ID, "reason", m.Reason, "attempts", m.Attempts,
				"deliveries", m.Deliveries, "err", m.Err)
		},
		OnRetry: func(m amqp.RetriedMessage) {
			slog.Info("retry", "event", m.Event.ID, "attempt", m.Attempt, "outage", m.Outage, "pause", m.Pause,
				"err", m.Err)
		},
		OnDisconnect: func(d amqp.Disconnect) { slog.Info("disconnected", "err", d.Err, "attempt", d.Attempt) },
	}
	consumer, err := amqp.NewConsumer(config)
	if err != nil {
		return err
	}
	return consumer.Run(ctx)
}

// shortly is how long what is planted waits with what it should have done before.
const shortly = 100 * time.Millisecond
