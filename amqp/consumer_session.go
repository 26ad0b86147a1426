package amqp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// amqpSession is one connection, one channel and one consumer. It never reconnects, so that a delivery tag of one
// session can't be taken for another's: the client library's own recovery would acknowledge the wrong message.
type amqpSession struct {
	link    *link
	channel *amqp091.Channel
	tag     string
	inflow  chan *message
	acks    *acker // nil before the session has begun
	letters deadLetters

	ctx context.Context // ends with the session, its cause says why
	end context.CancelCauseFunc

	goroutines sync.WaitGroup
}

// errSessionClosed is the cause of a session that this side has closed.
var errSessionClosed = errors.New("amqp: the session was closed")

// subscribe connects, makes sure of the topology and begins to consume.
//
// The broker may notice the end of this consumer's last session later than we did, by up to two heartbeats. Until then
// it keeps that session's messages, and on a queue with a single active consumer it keeps them in their place: the
// new session receives nothing before they are back in the queue, in front.
func subscribe(ctx context.Context, config ConsumerConfig) (consumerSession, error) {
	l, err := dial(ctx, config.Connection)
	if err != nil {
		return nil, err
	}
	s := &amqpSession{link: l, letters: deadLetters{config: config},
		inflow: make(chan *message, config.Prefetch)} // what waits there fills a batch at once
	s.ctx, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := config.ensureTopology(ctx, l); err != nil {
		s.close(ctx)
		return nil, err
	}
	if err := s.begin(ctx, config); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

func (s *amqpSession) begin(ctx context.Context, config ConsumerConfig) error {
	channel, err := s.link.channel(ctx)
	if err != nil {
		return err
	}
	s.channel = channel
	ends := notices{ // registered before anything can happen to the channel
		link:    s.link.NotifyClose(make(chan *amqp091.Error, 1)),
		channel: channel.NotifyClose(make(chan *amqp091.Error, 1)),
		cancel:  channel.NotifyCancel(make(chan string, 1)),
	}
	queue := entity{"queue", config.Queue}
	// The prefetch counts for consumers that begin after it.
	err = s.link.do(ctx, "set the prefetch", func() error { return channel.Qos(config.Prefetch, 0, false) })
	if err != nil {
		return err
	}
	s.tag = "surepost-" + surepost.NewID() // unique: a second consumer of one tag would close the first
	var deliveries <-chan amqp091.Delivery
	err = s.link.do(ctx, "consume "+queue.String(), func() (err error) {
		deliveries, err = channel.Consume(config.Queue, s.tag, false, false, false, false, nil)
		return err
	})
	if err != nil {
		return explainTopology(queue, "consume", s.link.vhost(), err)
	}
	s.acks = &acker{channel: channel, fail: s.end, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	s.goroutines.Go(func() { s.acks.run(s.ctx) })
	s.goroutines.Go(func() { s.watch(config.Queue, ends) })
	s.goroutines.Go(func() { s.read(deliveries) })
	return nil
}

// notices are the ways in which the broker ends a session.
type notices struct {
	link, channel <-chan *amqp091.Error
	cancel        <-chan string
}

// watch ends the session when the broker, or the network, does. A closed notice without a value means that the
// library closed it in good order.
func (s *amqpSession) watch(queue string, n notices) {
	for {
		select {
		case err, lost := <-n.link:
			s.end(ended("connection", err, lost))
			return
		case err, lost := <-n.channel:
			s.end(ended("channel", err, lost))
			return
		case _, cancelled := <-n.cancel:
			if cancelled {
				s.end(fmt.Errorf("amqp: the broker cancelled the consumer: the queue %q was deleted, lost its leader, "+
					"or a message was held longer than the broker's consumer_timeout", queue))
				return
			}
			n.cancel = nil // closed with the channel, whose notice says why
		case <-s.ctx.Done():
			return
		}
	}
}

func ended(what string, err *amqp091.Error, lost bool) error {
	if !lost || err == nil {
		return errSessionClosed
	}
	return fmt.Errorf("amqp: the %s was lost: %w", what, err)
}

// read turns deliveries into messages. It does so here, and not in the dispatcher's goroutine, because a body of a
// megabyte takes milliseconds to parse.
func (s *amqpSession) read(deliveries <-chan amqp091.Delivery) {
	defer close(s.inflow)
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return // watch knows why
			}
			s.acks.delivered(d.DeliveryTag)
			select {
			case s.inflow <- newMessage(s, d):
			case <-s.ctx.Done():
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *amqpSession) messages() <-chan *message { return s.inflow }
func (s *amqpSession) done() <-chan struct{}     { return s.ctx.Done() }
func (s *amqpSession) err() error                { return context.Cause(s.ctx) }

func (s *amqpSession) ack(messages ...*message) { s.acks.finish(messages) }

func (s *amqpSession) bury(l letter) error { return s.letters.publish(s.ctx, l) }

func (s *amqpSession) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	if s.acks != nil {
		s.acks.flush(ctx)
	}
	s.link.close(ctx) // its outcome changes nothing: what wasn't acknowledged will be delivered again
	s.end(errSessionClosed)
	s.goroutines.Wait()
	s.letters.close(ctx)
}
