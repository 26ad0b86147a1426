package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
)

// startBroker starts a broker in this process, on a port of 127.0.0.1. It speaks the same protocol as RabbitMQ, and
// keeps everything in memory.
func startBroker() (url string, stop func() error, err error) {
	broker, err := amqptest.Start(amqptest.Config{})
	if err != nil {
		return "", nil, err
	}
	return broker.URL(), func() error { broker.Close(); return nil }, nil
}

// useBroker looks whether the broker at -amqp can be used. It returns a function that removes the exchange and the
// queues of this run.
func useBroker(ctx context.Context, at place) (remove func() error, err error) {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{at.Broker}}, Routing: amqp.Routing{Exchange: at.exchange()},
	})
	if err != nil {
		return nil, fmt.Errorf("-amqp: %w", err)
	}
	session, err := publisher.Open(ctx) // its errors say what to do
	if err != nil {
		return nil, fmt.Errorf("-amqp: %w", err)
	}
	return func() error { return removeQueues(at) }, session.Close(ctx)
}

func removeQueues(at place) error {
	conn, err := amqp091.DialConfig(at.Broker, amqp091.Config{Dial: amqp091.DefaultDial(removeLimit)})
	if err != nil {
		return fmt.Errorf("-amqp: exchange and queues that begin with %s are left: %w", at.Prefix, err)
	}
	defer conn.Close()
	// A connection that says nothing any more must not keep the program from ending.
	defer time.AfterFunc(removeLimit, func() { _ = conn.CloseDeadline(time.Now()) }).Stop()

	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	errs := []error{channel.ExchangeDelete(at.exchange(), false, false)}
	for _, service := range serviceNames {
		for _, queue := range []string{at.queue(service), at.queue(service) + ".dlq"} {
			_, err := channel.QueueDelete(queue, false, false, false) // no error if there is none
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
