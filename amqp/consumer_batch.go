package amqp

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// BatchHandler is a Handler that can handle several events in one transaction, which is what ConsumerConfig.BatchSize
// asks for. *inbox.Inbox is one.
//
// HandleBatch gets events of one key or of many, those of a key in the order in which the queue delivers them, and
// returns what became of each. What Handler says of a key's events holds for the batch as well: while it is handled, no
// other event of its keys is. After an error nothing may be left of any of its effects: each event is then handed to
// Handle alone.
type BatchHandler interface {
	Handler
	HandleBatch(ctx context.Context, events []surepost.Event) ([]inbox.Result, error)
}

// report is what became of one try at a batch, which usually is a single message.
type report struct {
	batch    []*message
	results  []inbox.Result // of each message, if err is nil
	err      error
	duration time.Duration
}

// work hands a batch to the handler and, if that succeeds, acknowledges it. It does so here and not in the
// dispatcher's goroutine, because hooks may take their time.
func (d *dispatcher) work(batch []*message) {
	r := report{batch: batch, err: errors.New("the handler called runtime.Goexit")}
	defer func() { d.reports <- r }()
	start := time.Now()
	r.results, r.err = d.handle(batch)
	r.duration = time.Since(start)
	d.noteCall(r)
	if r.err != nil {
		return
	}
	done := make([]*message, 0, len(batch))
	for i, m := range batch {
		if d.isUnwanted(r.results[i]) {
			continue
		}
		if hook := d.config.Hooks.OnHandled; hook != nil {
			hook(HandledMessage{Queue: d.config.Queue, Event: m.event, Result: r.results[i], Attempt: m.tries.total,
				Duration: r.duration, BatchSize: len(batch), Deliveries: m.deliveries()})
		}
		done = append(done, m)
	}
	batch[0].session.ack(done...)
}

// isUnwanted reports whether the message must be dead-lettered though its handling succeeded.
func (d *dispatcher) isUnwanted(result inbox.Result) bool {
	return result == inbox.Skipped && d.config.Unhandled == DeadLetterUnhandled
}

// handle calls the handler, whatever it does.
func (d *dispatcher) handle(batch []*message) (results []inbox.Result, err error) {
	if batch[0].broken != nil {
		return nil, batch[0].broken
	}
	ctx, cancel := context.WithTimeout(d.handling, d.config.HandlerTimeout)
	defer cancel()
	defer func() {
		if value := recover(); value != nil {
			err = &inbox.PanicError{Value: value, Stack: debug.Stack()}
		}
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			// The reader should know, and so should the classifier: errors because time ran out are rarely an outage.
			err = fmt.Errorf("%w (HandlerTimeout of %v: %w)", err, d.config.HandlerTimeout, context.DeadlineExceeded)
		}
	}()
	if len(batch) > 1 {
		return d.handleTogether(ctx, batch)
	}
	m, handle := batch[0], d.handleAlone
	if m.redelivered() && d.counter != nil {
		handle = d.handleCounted
	}
	result, err := handle(ctx, m)
	return []inbox.Result{result}, err
}

func (d *dispatcher) handleAlone(ctx context.Context, m *message) (inbox.Result, error) {
	return d.config.Handler.Handle(ctx, m.event)
}

func (d *dispatcher) handleTogether(ctx context.Context, batch []*message) ([]inbox.Result, error) {
	events := make([]surepost.Event, len(batch))
	for i, m := range batch {
		events[i] = m.event
	}
	results, err := d.config.Handler.(BatchHandler).HandleBatch(ctx, events)
	if err == nil && len(results) != len(events) {
		return nil, fmt.Errorf("HandleBatch returned %d results for %d events", len(results), len(events))
	}
	return results, err
}

// settle decides what happens after a try.
func (d *dispatcher) settle(r report) {
	d.schedule.free(r.batch)
	switch m := r.batch[0]; {
	case m.session != d.session:
		for _, m := range r.batch {
			d.schedule.finish(m) // of an earlier session: if anything is left to do, it will come again
		}
	case r.err == nil:
		d.outageOver()
		for i, m := range r.batch {
			if d.isUnwanted(r.results[i]) {
				d.deadLetter(m, NoHandler, fmt.Errorf("no handler is registered for the event's type %q: register one, "+
					"or bind fewer types", m.event.Type))
				continue
			}
			d.schedule.finish(m)
		}
	case d.handling.Err() != nil: // it was cut off by the shutdown, which is no fault of its own
		d.again(r.batch, m.company)
	case len(r.batch) > 1:
		d.noteFailedBatch(r)
		d.again(r.batch, alone)
	case errors.Is(r.err, suspectError{}):
		d.again(r.batch, suspected)
	case errors.Is(r.err, accusedError{}):
		m.tries.total--
		d.schedule.pause(m, time.Now().Add(min(accusedPause, d.config.HandlerTimeout)))
	default:
		v := d.config.judge(&m.tries, r.err)
		if v.reason == KillsProcess {
			m.tries.total-- // the handler wasn't called
		}
		if v.reason != "" {
			d.deadLetter(m, v.reason, r.err)
			return
		}
		d.schedule.pause(m, time.Now().Add(v.pause))
		d.noteRetry(r, v)
	}
}

// again lets the messages be handled once more, as if they hadn't been.
func (d *dispatcher) again(batch []*message, c company) {
	for _, m := range batch {
		m.tries.total--
		d.schedule.again(m, c)
	}
}

func (d *dispatcher) deadLetter(m *message, reason DeadLetterReason, err error) {
	d.schedule.hold(m)
	d.letters <- letter{message: m, reason: reason, err: err}
}

func (d *dispatcher) noteCall(r report) {
	hook := d.config.Hooks.OnCall
	notCalled := r.batch[0].broken != nil || errors.As(r.err, new(killerError)) || errors.As(r.err, new(suspectError)) ||
		errors.As(r.err, new(accusedError)) || errors.As(r.err, new(countError))
	if hook == nil || notCalled {
		return
	}
	hook(HandlerCall{Queue: d.config.Queue, Event: r.batch[0].event, BatchSize: len(r.batch), Err: r.err, Duration: r.duration})
}

func (d *dispatcher) noteFailedBatch(r report) {
	d.log.Warn("a batch failed and was rolled back; its events are handled one by one", "error", r.err,
		"batch_size", len(r.batch))
	if hook := d.config.Hooks.OnBatchFailed; hook != nil {
		hook(FailedBatch{Queue: d.config.Queue, BatchSize: len(r.batch), Err: r.err, Duration: r.duration})
	}
}
