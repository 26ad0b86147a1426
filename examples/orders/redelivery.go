package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// redelivery delivers messages a second time, byte by byte the same, as brokers do after lost acknowledgements. It
// listens on the exchange with a queue of its own and puts every twentieth message once more into the queues that had
// got it.
type redelivery struct {
	conn    *amqp091.Connection
	channel *amqp091.Channel // to publish
	failed  context.CancelCauseFunc

	seen   atomic.Int64 // messages on the exchange
	copies atomic.Int64 // confirmed by the broker
	toCome atomic.Int64 // copies that wait for their time
}

const (
	exchange         = "events" // Surepost's default
	redeliveredShare = 20       // one in so many: 5 %
	redeliveredAfter = 3 * time.Second
)

// queuesOf returns the queues that get events of a type.
func queuesOf(eventType string) []string {
	switch eventType {
	case typeOrderCreated:
		return []string{inventoryQueue, notificationQueue}
	case typeStockReserved:
		return []string{notificationQueue}
	}
	return nil
}

// startRedelivery begins before the first event is published. It calls failed if it can't go on.
func startRedelivery(url string, failed context.CancelCauseFunc) (*redelivery, error) {
	conn, err := amqp091.Dial(url)
	if err != nil {
		return nil, fmt.Errorf("redelivery: %w", err)
	}
	r := &redelivery{conn: conn, failed: failed}
	if err := r.listen(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("redelivery: %w", err)
	}
	return r, nil
}

func (r *redelivery) listen() error {
	var err error
	if r.channel, err = r.conn.Channel(); err != nil {
		return err
	}
	if err := r.channel.Confirm(false); err != nil {
		return err
	}
	channel, err := r.conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.ExchangeDeclare(exchange, amqp091.ExchangeTopic, true, false, false, false, nil); err != nil {
		return err
	}
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return err
	}
	if err := channel.QueueBind(queue.Name, "#", exchange, false, nil); err != nil {
		return err
	}
	closed := channel.NotifyClose(make(chan *amqp091.Error, 1))
	deliveries, err := channel.Consume(queue.Name, "", true, true, false, false, nil)
	if err != nil {
		return err
	}
	go func() {
		for d := range deliveries {
			if r.seen.Add(1)%redeliveredShare == 0 {
				r.repeat(d)
			}
		}
		if err := <-closed; err != nil { // nil: closed by us
			r.failed(fmt.Errorf("redelivery: the broker hung up: %w", err))
		}
	}()
	return nil
}

// repeat publishes the copies after a random time: some meet their originals at work, others come long after.
func (r *redelivery) repeat(d amqp091.Delivery) {
	again := amqp091.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId, Timestamp: d.Timestamp,
		Type: d.Type, AppId: d.AppId, Body: d.Body,
	}
	for _, queue := range queuesOf(d.Type) {
		r.toCome.Add(1)
		time.AfterFunc(rand.N(redeliveredAfter), func() {
			defer r.toCome.Add(-1)
			if err := r.publish(queue, again); err != nil {
				r.failed(fmt.Errorf("redelivery: %w", err))
				return
			}
			r.copies.Add(1)
		})
	}
}

// publish publishes by the default exchange, which leads to the queue of that name (AMQP 0-9-1 §3.1.3.1).
func (r *redelivery) publish(queue string, message amqp091.Publishing) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	confirmation, err := r.channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false, message)
	if err != nil {
		return err
	}
	taken, err := confirmation.WaitContext(ctx)
	if err == nil && !taken {
		err = errors.New("the broker didn't take a copy")
	}
	return err
}

// ready returns how many messages wait in a queue. What a consumer holds unacknowledged isn't among them.
func (r *redelivery) ready(queue string) (int, error) {
	channel, err := r.conn.Channel()
	if err != nil {
		return 0, err
	}
	defer channel.Close()
	found, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	return found.Messages, err
}

func (r *redelivery) close() { _ = r.conn.Close() }
