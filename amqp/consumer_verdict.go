package amqp

import (
	"errors"
	"time"

	"github.com/surepost/surepost/inbox"
)

// verdict is what happens to a message after its handler failed.
type verdict struct {
	pause  time.Duration // until the next try, if reason is empty
	outage bool          // the try didn't count
	reason DeadLetterReason
}

// tries counts what happened to one delivery so far.
type tries struct {
	total     int // how often it was handed to the handler
	counted   int // how many of those count against MaxAttempts
	conflicts int
	failed    int // failures of any kind: the exponent of the backoff
}

// maxConflicts is how many lost conflicts (a deadlock, a serialization failure) one delivery is forgiven before they
// count. They say nothing about the event, and a hot row can cause many in a row; but a handler that always deadlocks
// with itself must reach the dead-letter queue. 100 with the default backoff are about 8 minutes.
const maxConflicts = 100

// judge decides what happens after a failed try.
func (c ConsumerConfig) judge(t *tries, err error) verdict {
	switch {
	case errors.As(err, new(unreadableError)):
		return verdict{reason: NotAnEvent}
	case errors.As(err, new(killerError)):
		return verdict{reason: KillsProcess}
	case inbox.IsPermanent(err):
		return verdict{reason: PermanentFailure}
	}
	t.failed++
	v := verdict{pause: c.pause(c.Backoff, t.failed)}
	switch {
	case errors.As(err, new(countError)), c.ErrorIsOutage(err):
		v.outage = true
		return v
	case isConflict(err) && t.conflicts < maxConflicts:
		t.conflicts++
		return v
	}
	t.counted++
	if t.counted >= c.MaxAttempts {
		return verdict{reason: AttemptsSpent}
	}
	return v
}

// DeadLetterReason says why a message was moved to the dead-letter queue. It is the header surepost-reason.
type DeadLetterReason string

const (
	// AttemptsSpent: its handler failed MaxAttempts times.
	AttemptsSpent DeadLetterReason = "attempts-spent"
	// PermanentFailure: its handler returned an error marked with inbox.Permanent.
	PermanentFailure DeadLetterReason = "permanent-failure"
	// NotAnEvent: its body couldn't be read as an event.
	NotAnEvent DeadLetterReason = "not-an-event"
	// NoHandler: no handler is registered for its type, and the policy is DeadLetterUnhandled.
	NoHandler DeadLetterReason = "no-handler"
	// KillsProcess: MaxUnfinished attempts at it were started and never finished. Its handler wasn't called again.
	KillsProcess DeadLetterReason = "kills-the-process"
)
