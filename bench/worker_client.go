package main

import (
	"context"
	"errors"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// clientWindow is the relay's default: as many messages are unconfirmed at most.
const clientWindow = 1024

// clientWorker is the limit that drain is measured against: the client library alone, on one connection and one
// channel, with all messages made before its clock starts. One goroutine publishes, another waits for the confirms in
// order, and a window keeps them apart, so that the socket is never idle.
func clientWorker(ctx context.Context, j job, w *stopwatch) (int, error) {
	messages, _, err := publishings(ctx, 0, j.Events)
	if err != nil {
		return 0, err
	}
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
	window := make(chan *amqp091.DeferredConfirmation, clientWindow)
	settled := make(chan error, 1)
	go func() {
		for c := range window {
			if ok, err := c.WaitContext(ctx); err != nil || !ok {
				settled <- errors.Join(err, errors.New("a message wasn't confirmed"))
				return
			}
		}
		settled <- nil
	}()
	const mandatory, immediate = true, false
	for _, m := range messages {
		c, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, routingKey, mandatory, immediate, m)
		if err != nil {
			return 0, err
		}
		select {
		case window <- c:
		case err := <-settled:
			return 0, err
		}
	}
	close(window)
	if err := <-settled; err != nil {
		return 0, err
	}
	w.stop()
	return len(messages), nil
}
