package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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

// accusedError says that so many attempts at the event are unfinished that it seems to kill its process. But some may be
// under way in other processes, which have lost their connections: it waits until those must have finished. It isn't a
// failure.
type accusedError struct{}

func (accusedError) Error() string {
	return "attempts at the event are unfinished: in processes that died, or still"
}

// accusedPause is how often it is looked whether attempts of others have finished.
const accusedPause = 10 * time.Second

// handleCounted hands a redelivered message to the handler, and has the counter know of it before and after. Messages
// that were unfinished before are handled one at a time, so that only one of all that ran beside each other when the
// process died is there when it dies the next time.
func (d *dispatcher) handleCounted(ctx context.Context, m *message) (result inbox.Result, err error) {
	// If one is open, a try has finished, of this delivery or an earlier one, and the counter doesn't know yet: to it
	// this is the same one.
	switch d.own.of(m) {
	case attemptOpen:
	case attemptOver:
		d.own.note(m, attemptOpen)
	default:
		err := d.startAttempt(ctx, m)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return d.handleAlone(ctx, m)
		case err != nil:
			return 0, err
		}
	}
	m.counted = true
	err = errors.New("the handler panicked")
	defer func() { d.finishAttempt(m, err) }()
	return d.handleAlone(ctx, m)
}

// startAttempt has the counter know of an attempt, unless it mustn't be made now.
func (d *dispatcher) startAttempt(ctx context.Context, m *message) error {
	if d.own.of(m) == attemptInDoubt {
		// If it wasn't recorded, this forgives a death. Better that one process more dies than that an outage makes a
		// killer of an event.
		if err := d.counter.FinishAttempt(ctx, m.event.ID, errors.New("it isn't known whether it had started")); err != nil {
			return countError{err}
		}
		d.own.note(m, noAttempt)
	}
	limit := d.config.MaxUnfinished
	if m.company != suspected {
		limit = 1
	}
	unfinished, err := d.counter.StartAttempt(ctx, m.event.ID, limit)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return err
	case err != nil:
		d.own.note(m, attemptInDoubt)
		return countError{err}
	}
	m.counted = true
	switch {
	case unfinished >= d.config.MaxUnfinished:
		return d.accuse(m, unfinished)
	case unfinished >= limit:
		return suspectError{}
	}
	m.accused = time.Time{}
	d.own.note(m, attemptOpen)
	return nil
}

// accuse decides about an event with too many unfinished attempts. Those of them that are under way elsewhere are
// over, and noted, after HandlerTimeout.
func (d *dispatcher) accuse(m *message, unfinished int) error {
	wait := d.config.HandlerTimeout + d.noteLimit()
	switch {
	case m.accused.IsZero():
		m.accused = time.Now()
		d.log.Warn("an event seems to kill its process; it is dead-lettered unless an attempt elsewhere finishes",
			"unfinished", unfinished, "wait", wait, m.attrs())
	case time.Since(m.accused) >= wait:
		return killerError{unfinished}
	}
	return accusedError{}
}

// finishAttempt has the counter know that the process has survived a try. It does so after the handler's context has
// ended, too, and within the time that a shutdown leaves for that.
func (d *dispatcher) finishAttempt(m *message, failure error) {
	if failure == nil {
		d.forgetAttempts(m)
		return
	}
	ctx, cancel := d.noteTime()
	defer cancel()
	err := d.counter.FinishAttempt(ctx, m.event.ID, failure)
	if err != nil {
		d.log.Warn("the end of an attempt couldn't be noted; it is noted with the next", "error", err, m.attrs())
		d.own.over(m)
		return
	}
	d.own.note(m, noAttempt)
}

// forgetAttempts removes the counter's record of a message that is done with. A record that stays does little harm: its
// event won't come again, except as a duplicate, or if nobody handles it and its acknowledgement was lost.
func (d *dispatcher) forgetAttempts(m *message) {
	if !m.counted {
		return
	}
	ctx, cancel := d.noteTime()
	defer cancel()
	if err := d.counter.ForgetAttempts(ctx, m.event.ID); err != nil {
		d.log.Warn("the record of an event's attempts couldn't be removed", "error", err, m.attrs())
		d.own.over(m)
		return
	}
	d.own.note(m, noAttempt)
}

// settleOwn has the counter know of the ends that it couldn't be told: when a session is over, and before the consumer is. Whoever gets
// the events next would take them for deaths. What it can't be told now either is left for the next time.
func (d *dispatcher) settleOwn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.noteLimit())
	defer cancel()
	for _, id := range d.own.left() {
		was := d.own.take(id)
		if was == noAttempt { // a worker was faster
			continue
		}
		if err := d.counter.FinishAttempt(ctx, id, errors.New("its end couldn't be noted before")); err != nil {
			d.own.putBack(id, was)
			d.log.Warn("the end of an attempt couldn't be noted", "error", err, "event", id)
			return
		}
	}
}

// attemptState is what this process knows of its own attempt at an event.
type attemptState uint8

const (
	noAttempt      attemptState = iota // none is open
	attemptInDoubt                     // the answer to StartAttempt was lost
	attemptOpen                        // it was started
	attemptOver                        // it has ended, and it isn't known that this was noted
)

// ownAttempts knows the attempts that this process has left open, though it lives. It outlives sessions, as the counter's
// record does: an event whose answer was lost together with the session must not be taken for a killer.
type ownAttempts struct {
	mu     sync.Mutex
	states map[string]attemptState // of event ids
}

// mostOwnAttempts bounds what is left of events that other processes have handled since.
const mostOwnAttempts = 10_000

func (o *ownAttempts) of(m *message) attemptState {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.states[m.event.ID]
}

func (o *ownAttempts) note(m *message, s attemptState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case s == noAttempt:
		delete(o.states, m.event.ID)
		return
	case o.states == nil, len(o.states) >= mostOwnAttempts:
		o.states = map[string]attemptState{}
	}
	o.states[m.event.ID] = s
}

// over notes that the attempt has ended, if one was open.
func (o *ownAttempts) over(m *message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.states[m.event.ID] == attemptOpen {
		o.states[m.event.ID] = attemptOver
	}
}

// left returns the events with an attempt of which the counter may not know that it has ended.
func (o *ownAttempts) left() (ids []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, s := range o.states {
		if s != attemptOpen {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// take takes out what left had returned; noAttempt if it isn't so any more.
func (o *ownAttempts) take(id string) attemptState {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.states[id]
	if s == attemptOpen {
		return noAttempt
	}
	delete(o.states, id)
	return s
}

// putBack undoes take, unless there is another attempt by now.
func (o *ownAttempts) putBack(id string, s attemptState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.states[id] == noAttempt {
		o.states[id] = s
	}
}

// noteTime bounds what is noted after a try. Its part of ShutdownTimeout is half of what a shutdown leaves for rolling back:
// a database that hangs must not make a handler look like one that ignored the end of its context.
func (d *dispatcher) noteTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(d.handling), d.noteLimit())
}

func (d *dispatcher) noteLimit() time.Duration {
	return min(d.config.ShutdownTimeout/20, 5*time.Second)
}
