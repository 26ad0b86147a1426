package amqp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// amqpSession is one connection and one channel, with one consumer for each queue. It never reconnects, so that a
// delivery tag of one session can't be taken for another's: the client library's own recovery would acknowledge the
// wrong message.
//
// Partitions share the channel, and so one sequence of delivery tags: an acknowledgement of several messages works across
// all of them, and the end of the channel gives back all of them at once. Prefetch counts for each consumer by itself,
// so that a partition whose consumer stands by, or whose keys are stuck, takes no room from the others.
type amqpSession struct {
	link    *link
	channel *amqp091.Channel
	sources map[string]string // the queue of each consumer tag
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
	queues, version := config.consumed(), s.link.version()
	if config.Partitions > 0 && len(config.OnlyPartitions) == 0 && !version.movesActiveConsumer() {
		config.Logger.Warn("this RabbitMQ leaves all partitions to the process that came first, others stand by: "+
			"set OnlyPartitions, or upgrade to 4.0", "queue", config.Queue, "version", version.String())
	}
	// The prefetch counts for consumers that begin after it, for each by itself.
	prefetch := config.Prefetch / len(queues)
	err = s.link.do(ctx, "set the prefetch", func() error { return channel.Qos(prefetch, 0, false) })
	if err != nil {
		return err
	}
	s.sources = make(map[string]string, len(queues))
	consumers := make([]<-chan amqp091.Delivery, len(queues))
	for n, name := range queues {
		queue := entity{"queue", name}
		tag := "surepost-" + surepost.NewID() // unique: a second consumer of one tag would close the first
		err = s.link.do(ctx, "consume "+queue.String(), func() (err error) {
			consumers[n], err = channel.Consume(name, tag, false, false, false, false, config.consumeArgs(n, version))
			return err
		})
		if err != nil {
			return explainTopology(queue, "consume", s.link.vhost(), err)
		}
		s.sources[tag] = name
	}
	s.acks = &acker{channel: channel, fail: s.end, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	s.goroutines.Go(func() { s.acks.run(s.ctx) })
	s.goroutines.Go(func() { s.watch(ends) })
	s.goroutines.Go(func() { s.read(consumers) })
	return nil
}

// notices are the ways in which the broker ends a session.
type notices struct {
	link, channel <-chan *amqp091.Error
	cancel        <-chan string
}

// watch ends the session when the broker, or the network, does. A closed notice without a value means that the
// library closed it in good order.
func (s *amqpSession) watch(n notices) {
	for {
		select {
		case err, lost := <-n.link:
			s.end(ended("connection", err, lost))
			return
		case err, lost := <-n.channel:
			s.end(ended("channel", err, lost))
			return
		case tag, cancelled := <-n.cancel:
			if cancelled {
				s.end(s.explainCancel(s.sources[tag]))
				return
			}
			n.cancel = nil // closed with the channel, whose notice says why
		case <-s.ctx.Done():
			return
		}
	}
}

// timeoutRemedy says what to do about a message that was held longer than the broker's consumer_timeout.
const timeoutRemedy = "a message was held longer than the broker's consumer_timeout, and will be delivered again: " +
	"lower HandlerTimeout or MaxAttempts, so that all tries fit into it, or raise the broker's consumer_timeout " +
	"(what a handler commits counts, however late)"

// explainCancel says why the broker cancelled a queue's consumer. It doesn't tell, but a queue that is still there was
// not deleted (RabbitMQ, "Consumer Cancel Notification"). 4.3 cancels before the queue is gone, so one look isn't enough.
func (s *amqpSession) explainCancel(queue string) error {
	const what = "amqp: the broker cancelled the consumer of the queue %q: "
	const looks, pause = 10, 50 * time.Millisecond
	there, err := queueExists(s.ctx, s.link, queue)
	for n := 1; n < looks && there && err == nil; n++ {
		time.Sleep(pause)
		there, err = queueExists(s.ctx, s.link, queue)
	}
	switch {
	case err != nil:
		return fmt.Errorf(what+"the queue was deleted, or has no leader (%w)", queue, err)
	case !there:
		return fmt.Errorf(what+"the queue was deleted; in Mode Declare it is declared again", queue)
	case s.link.version().cancelsOnTimeout():
		return fmt.Errorf(what+"it lost its leader, or "+timeoutRemedy, queue)
	}
	return fmt.Errorf(what+"it lost its leader", queue)
}

func ended(what string, err *amqp091.Error, lost bool) error {
	switch {
	case !lost || err == nil:
		return errSessionClosed
	case err.Server && err.Code == amqp091.PreconditionFailed && strings.Contains(err.Reason, "timed out"):
		return fmt.Errorf("amqp: the %s was lost: "+timeoutRemedy+": %w", what, err)
	}
	return fmt.Errorf("amqp: the %s was lost: %w", what, err)
}

// read turns deliveries into messages. It does so here, and not in the dispatcher's goroutine, because a body of a
// megabyte takes milliseconds to parse.
func (s *amqpSession) read(consumers []<-chan amqp091.Delivery) {
	defer close(s.inflow)
	deliveries := consumers[0]
	if len(consumers) > 1 {
		deliveries = s.merge(consumers)
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return // watch knows why
			}
			s.acks.delivered(d.DeliveryTag)
			m := newMessage(s, d)
			m.source = s.sources[d.ConsumerTag]
			select {
			case s.inflow <- m:
			case <-s.ctx.Done():
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// merge puts the deliveries of several consumers back into the order in which they came over the channel, that of their
// tags, which the library has spread over a Go channel each. So whoever has seen a message has seen all of lower tags,
// and can acknowledge them together. The result is never closed: the session's context ends it.
func (s *amqpSession) merge(consumers []<-chan amqp091.Delivery) <-chan amqp091.Delivery {
	arrived, merged := make(chan amqp091.Delivery), make(chan amqp091.Delivery)
	for _, c := range consumers {
		s.goroutines.Go(func() { s.forward(c, arrived) })
	}
	s.goroutines.Go(func() {
		early := map[uint64]amqp091.Delivery{} // at most Prefetch
		for next := uint64(1); ; {
			select {
			case d := <-arrived:
				early[d.DeliveryTag] = d
			case <-s.ctx.Done():
				return
			}
			for d, ok := early[next]; ok; d, ok = early[next] {
				select {
				case merged <- d:
				case <-s.ctx.Done():
					return
				}
				delete(early, next)
				next++
			}
		}
	})
	return merged
}

func (s *amqpSession) forward(from <-chan amqp091.Delivery, to chan<- amqp091.Delivery) {
	for {
		select {
		case d, ok := <-from:
			if !ok {
				return
			}
			select {
			case to <- d:
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
