// Package surepost lets a database-backed service publish events that can never be lost, and consume them with
// effects that happen exactly once.
//
//	business transaction ──INSERT──▶ outbox table ──relay──▶ RabbitMQ exchange ──▶ queue ──▶ inbox + handler in ONE transaction
//
// # The five-minute story
//
// A producer writes its events with its business data, in one transaction:
//
//	store := pgxstore.New(pool)
//	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
//
//	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		if _, err := tx.Exec(ctx, "INSERT INTO orders …"); err != nil {
//			return err
//		}
//		return box.Write(ctx, tx, surepost.Event{Type: "OrderCreated", Key: order.Customer, Data: order})
//	})
//
// A relay, in the same process or beside it, publishes what was committed:
//
//	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: amqp.Connection{URLs: []string{url}}})
//	r, err := relay.New(store, publisher, relay.Config{})
//	err = r.Run(ctx)
//
// A consumer handles each event once, in one transaction with the record that it did:
//
//	in, err := inbox.New(pgxstore.New(pool), inbox.Config{Consumer: "inventory"})
//	inbox.On(in, "OrderCreated", func(ctx context.Context, tx pgx.Tx, e surepost.Event, order Order) error {
//		_, err := tx.Exec(ctx, "UPDATE stock …")
//		return err
//	})
//	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
//		Connection: amqp.Connection{URLs: []string{url}},
//		Queue:      "inventory.orders", Types: in.Types(), Handler: in,
//	})
//	err = consumer.Run(ctx)
//
// # What is promised
//
// No event of a committed transaction is lost, none of a rolled-back one is published, events of one key are
// published in commit order, and a handler's database work happens once per consumer and event. A transaction that
// somebody holds open delays nobody else's events, and an outage costs latency only. Not promised: exactly-once
// delivery on the wire, an order across keys, effects outside the handler's transaction, and dedupe after the inbox's
// record is gone.
//
// # The packages
//
// This package has the [Event], its rules and its JSON envelope, and what a context carries. outbox writes events,
// relay publishes them, inbox handles them; amqp speaks to RabbitMQ; sqlstore and sqlstore/pgxstore to PostgreSQL.
// examples/orders shows all of it at work.
package surepost
