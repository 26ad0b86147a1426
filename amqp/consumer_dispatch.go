package amqp

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// consumerSession is what the dispatcher needs of one connection's worth of consuming. It never reconnects.
// *amqpSession is the real one; all methods may be called by several goroutines.
type consumerSession interface {
	// messages delivers what the broker delivers, in its order. It is closed after the session's end.
	messages() <-chan *message
	// done is closed when the session has ended: nothing can be acknowledged any more, and all that wasn't will be
	// delivered again in another session.
	done() <-chan struct{}
	// err says why the session has ended.
	err() error
	// ack acknowledges messages, soon. If that fails the session ends, so there is no error to handle.
	ack(messages ...*message)
	// bury publishes a dead letter and returns nil when the broker has confirmed it.
	bury(l letter) error
	// close acknowledges what is still to be, and ends the session, in good order if that is possible before ctx ends.
	// It returns when nothing of it is left. The broker takes back what wasn't acknowledged, all at once and in order.
	close(ctx context.Context)
}

// dispatcher moves messages from sessions to the handler, and what became of them back. It is the shell around
// [schedule]: one goroutine, that of Run, owns all its fields; handlers run on goroutines of their own and report to
// it. It outlives sessions, because it knows which keys are still being handled.
type dispatcher struct {
	config   ConsumerConfig
	log      *slog.Logger
	schedule *schedule
	counter  AttemptCounter // the Handler, nil if it doesn't count
	own      ownAttempts    // of the counter's: what workers share
	reports  chan report    // its capacity is Workers, so that a handler that outlives Run can still report and go

	handling     context.Context // the parent of every handler's context
	stopHandlers context.CancelFunc

	session consumerSession // the one that is served, nil between two
	letters chan letter
	buried  chan *message
	burying sync.WaitGroup

	outageSince time.Time // zero if there is none
}

func newDispatcher(ctx context.Context, config ConsumerConfig) *dispatcher {
	d := &dispatcher{
		config: config, log: config.Logger.With("queue", config.Queue),
		schedule: newSchedule(config.Workers, config.BatchSize, config.BatchLinger),
		reports:  make(chan report, config.Workers),
	}
	d.counter, _ = config.Handler.(AttemptCounter)
	// Not cancelled with ctx: a shutdown lets started handlers finish.
	d.handling, d.stopHandlers = context.WithCancel(context.WithoutCancel(ctx))
	return d
}

// attach begins to serve a session.
func (d *dispatcher) attach(s consumerSession) {
	d.session = s
	// At most Prefetch messages of a session are unacknowledged, so a send to letters never waits.
	d.letters, d.buried = make(chan letter, d.config.Prefetch), make(chan *message)
	letters, buried := d.letters, d.buried
	d.burying.Go(func() { d.bury(s, letters, buried) })
}

// detach closes the session. Handlers that it started go on: what they commit counts, and its redelivery will be
// found to be a duplicate. That is better than to cancel them, since it loses no work, and a handler that takes
// longer than a bad connection lasts gets done at all. Their keys stay closed to the next session's messages
// meanwhile (see [schedule]).
func (d *dispatcher) detach(ctx context.Context) {
	if d.session == nil {
		return
	}
	d.session.close(ctx)
	close(d.letters)
	d.burying.Wait()
	d.schedule.dropWaiting()
	d.session, d.letters, d.buried = nil, nil, nil
}

// serve moves messages until the session or ctx ends, and returns why the session ended.
func (d *dispatcher) serve(ctx context.Context) error {
	messages, alarm := d.session.messages(), time.NewTimer(0)
	defer alarm.Stop()
	for {
		d.schedule.wake(time.Now())
		for batch := d.schedule.next(); batch != nil; batch = d.schedule.next() {
			for _, m := range batch {
				m.tries.total++
			}
			go d.work(batch)
		}
		var wake <-chan time.Time
		if due, ok := d.schedule.nextWake(); ok {
			alarm.Reset(time.Until(due))
			wake = alarm.C
		}
		select {
		case m, ok := <-messages:
			if !ok {
				messages = nil // the session has ended, and says so by done
				break
			}
			d.schedule.add(m)
			d.addWaiting(messages)
		case r := <-d.reports:
			d.settle(r)
		case m := <-d.buried:
			d.schedule.finish(m)
		case <-wake:
		case <-d.session.done():
			return d.session.err()
		case <-ctx.Done():
			return nil
		}
	}
}

// addWaiting takes what else has arrived, so that a batch has it.
func (d *dispatcher) addWaiting(messages <-chan *message) {
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return // serve sees it too
			}
			d.schedule.add(m)
		default:
			return
		}
	}
}

// bury publishes the session's dead letters, one at a time, and acknowledges each original after its letter is
// confirmed. While the dead-letter queue can't be reached it tries on: the originals stay unacknowledged, their keys
// wait, all others go on.
func (d *dispatcher) bury(s consumerSession, letters <-chan letter, buried chan<- *message) {
	for l := range letters {
		for failures := 0; ; {
			err := s.bury(l)
			if err == nil {
				break
			}
			failures++
			pause := d.config.pause(reconnectBackoff, failures)
			d.log.Error("a dead letter couldn't be published; its key waits", "error", err, "pause", pause, l.attrs())
			select {
			case <-time.After(pause):
			case <-s.done():
				return
			}
		}
		d.noteBuried(l)
		d.forgetAttempts(l.message)
		s.ack(l.message)
		select {
		case buried <- l.message:
		case <-s.done():
			return
		}
	}
}

// shutdown ends everything in good order within ShutdownTimeout: started handlers finish and their messages are
// acknowledged, then the session is closed, by which the broker takes back the rest.
//
// The rest is given back by closing, and neither by basic.cancel nor by basic.nack, for the sake of order. After
// basic.cancel the broker puts messages that were on their way to us back into the queue before it sees any
// basic.nack of ours, that is in front of older ones (measured with RabbitMQ 3.10, in most shutdowns under load).
// Closing gives back all of them in one step, oldest first. The price: RabbitMQ 4.3 counts it as a delivery, which it
// doesn't for basic.nack; earlier versions count both. It is paid there too, since the order isn't to be had otherwise:
// with 4.3.6, under load, basic.cancel and basic.nack gave back in a wrong order 20 times of 25, basic.nack and closing
// 11 times, closing alone never (3.10.8: 25, 14 and 0).
func (d *dispatcher) shutdown() error {
	limit, began := d.config.ShutdownTimeout, time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), began.Add(limit))
	defer cancel()
	rollBack, cancel := context.WithDeadline(ctx, began.Add(limit*9/10))
	defer cancel()
	finish, cancel := context.WithDeadline(rollBack, began.Add(limit*8/10))
	defer cancel()

	d.drain(finish)
	d.stopHandlers()
	d.drain(rollBack)
	d.settleOwn(ctx)
	d.detach(ctx)
	d.log.Info("stopped consuming", "took", time.Since(began))
	return d.abandoned()
}

// drain waits until nothing is being handled or dead-lettered, or until ctx ends.
func (d *dispatcher) drain(ctx context.Context) {
	for d.schedule.running > 0 || d.schedule.held > 0 {
		var ended <-chan struct{}
		if d.session != nil {
			ended = d.session.done()
		}
		select {
		case r := <-d.reports:
			d.settle(r)
		case m := <-d.buried:
			d.schedule.finish(m)
		case <-ended:
			d.log.Warn("the connection was lost during shutdown; what isn't acknowledged will be delivered again",
				"error", d.session.err())
			d.detach(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// abandoned returns an error if handlers still run after all. They can't be stopped from outside; their
// messages aren't acknowledged, so no harm is done beyond the goroutines.
func (d *dispatcher) abandoned() error {
	running := d.schedule.handled()
	if len(running) == 0 {
		return nil
	}
	var ids []string
	for _, m := range running {
		ids = append(ids, m.event.ID)
	}
	return fmt.Errorf("amqp: %d events are still being handled after ShutdownTimeout (%v): let handlers return when their "+
		"context ends; the events are %s", len(running), d.config.ShutdownTimeout, cutText(strings.Join(ids, ", "), 1<<10))
}

func (d *dispatcher) noteRetry(r report, v verdict) {
	m := r.batch[0]
	switch {
	case !v.outage:
		d.log.Warn("an event's handler failed and will be tried again", "error", r.err, "pause", v.pause, m.attrs())
	case d.outageSince.IsZero():
		d.outageSince = time.Now()
		d.log.Warn("an outage: events are retried until it is over, without spending attempts", "error", r.err, m.attrs())
	default: // once per outage is enough
		d.log.Debug("the outage goes on", "error", r.err, "pause", v.pause, m.attrs())
	}
	if hook := d.config.Hooks.OnRetry; hook != nil {
		hook(RetriedMessage{Queue: d.config.Queue, Event: m.event, Err: r.err, Outage: v.outage, Attempt: m.tries.total,
			Pause: v.pause, Duration: r.duration, Deliveries: m.deliveries()})
	}
}

func (d *dispatcher) outageOver() {
	if d.outageSince.IsZero() {
		return
	}
	d.log.Info("the outage is over: an event was handled", "lasted", time.Since(d.outageSince))
	d.outageSince = time.Time{}
}

func (d *dispatcher) noteBuried(l letter) {
	if delay, ok := d.config.retryAfter(l); ok {
		d.noteDelayed(l, delay)
		return
	}
	d.log.Error("a message was moved to the dead-letter queue", "reason", l.reason, "error", l.err, l.attrs())
	if hook := d.config.Hooks.OnDeadLetter; hook != nil {
		hook(DeadLetteredMessage{Queue: d.config.Queue, Event: l.event, MessageID: l.delivery.MessageId, Reason: l.reason,
			Err: l.err, Attempts: l.attempts(), Deliveries: l.deliveries()})
	}
}

func (d *dispatcher) noteDelayed(l letter, delay time.Duration) {
	d.log.Warn("an event's attempts are spent for now; it waits in a retry queue", "error", l.err, "delay", delay, l.attrs())
	if hook := d.config.Hooks.OnRetry; hook != nil {
		hook(RetriedMessage{Queue: d.config.Queue, Event: l.event, Err: l.err, Attempt: l.attempts(), Pause: delay,
			Delayed: true, Deliveries: l.deliveries()})
	}
}
