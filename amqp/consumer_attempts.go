package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/surepost/surepost/inbox"
)

// AttemptCounter is a Handler that keeps a durable count of the attempts at an event: those that were started, and
// those of them that were finished. The difference are attempts in which the process died. *inbox.Inbox is one.
//
// A Consumer calls it for messages that come redelivered only, so that others pay nothing, and finds by it a message
// that kills the process whatever the queue counts: RabbitMQ's classic queues don't count deliveries at all, and
// quorum queues don't know whose handler ran. Its methods are called by several goroutines at once. Errors are retried
// as an outage is, except those that match errors.ErrUnsupported, which mean that there is no count.
type AttemptCounter interface {
	// StartAttempt records, durably before it returns, that an attempt at the event starts, if fewer than limit were
	// started and never finished. It returns how many those are, this one not included.
	StartAttempt(ctx context.Context, eventID string, limit int) (unfinished int, err error)
	// FinishAttempt records that the attempt that was started has ended with a failure.
	FinishAttempt(ctx context.Context, eventID string, failure error) error
	// ForgetAttempts removes the event's record: it was handled, or dead-lettered.
	ForgetAttempts(ctx context.Context, eventID string) error
}

// suspectError says that the process died in an earlier attempt at the event, perhaps because of it: it must be handled
// with no other suspect beside it. It isn't a failure.
type suspectError struct{}

func (suspectError) Error() string { return "an earlier attempt at the event was never finished" }

// killerError says that the process died in too many attempts at the event.
type killerError struct{ unfinished int }

func (e killerError) Error() string {
	return fmt.Sprintf("%d attempts at the event were started and never finished: the process died each time", e.unfinished)
}

// countError is a failure to count. Whatever it is, it says nothing about the event.
type countError struct{ error }

func (e countError) Unwrap() error { return e.error }

// handleCounted hands a redelivered message to the handler, and has the counter know of it before and after. Messages
// that were unfinished before are handled one at a time, so that only one of all that ran beside each other when the
// process died is there when it dies the next time.
func (d *dispatcher) handleCounted(ctx context.Context, m *message) (result inbox.Result, err error) {
	if !m.started { // else a try has finished, and the counter doesn't know yet: to it this is the same one
		limit := d.config.MaxUnfinished
		if m.company != suspected {
			limit = 1
		}
		unfinished, err := d.counter.StartAttempt(ctx, m.event.ID, limit)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return d.handleAlone(ctx, m)
		case err != nil:
			return 0, countError{err}
		}
		m.counted = true
		switch {
		case unfinished >= d.config.MaxUnfinished:
			return 0, killerError{unfinished}
		case unfinished >= limit:
			return 0, suspectError{}
		}
		m.started = true
	}
	err = errors.New("the handler panicked")
	defer func() { d.finishAttempt(m, err) }()
	return d.handleAlone(ctx, m)
}

// finishAttempt has the counter know that the process has survived a try. It does so after the handler's context has
// ended, too, and within the time that a shutdown leaves for that.
func (d *dispatcher) finishAttempt(m *message, failure error) {
	ctx, cancel := d.noteTime()
	defer cancel()
	if failure == nil {
		d.forgetAttempts(m)
		m.started = false
		return
	}
	err := d.counter.FinishAttempt(ctx, m.event.ID, failure)
	if err != nil {
		d.log.Warn("the end of an attempt couldn't be noted; it is noted with the next", "error", err, m.attrs())
		return
	}
	m.started = false
}

// forgetAttempts removes the counter's record of a message that is done with. A record that stays does no harm: its
// event won't come again, except as a duplicate.
func (d *dispatcher) forgetAttempts(m *message) {
	if !m.counted {
		return
	}
	ctx, cancel := d.noteTime()
	defer cancel()
	if err := d.counter.ForgetAttempts(ctx, m.event.ID); err != nil {
		d.log.Warn("the record of an event's attempts couldn't be removed", "error", err, m.attrs())
	}
}

// noteTime bounds what is noted after a try. Its part of ShutdownTimeout is half of what a shutdown leaves for rolling back:
// a database that hangs must not make a handler look like one that ignored the end of its context.
func (d *dispatcher) noteTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(d.handling), min(d.config.ShutdownTimeout/20, 5*time.Second))
}
