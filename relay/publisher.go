package relay

import (
	"context"
	"errors"
)

// Publisher connects to a broker. It is implemented by amqp.Publisher. Open may be called by several goroutines.
//
// A publisher that limits the events without an outcome has a method Window() int, so that New can see that the relay's
// window isn't larger.
type Publisher interface {
	// Open connects, makes sure that what it publishes to is there, and returns a session. It gives up when ctx ends.
	Open(ctx context.Context) (Session, error)
}

// Session is one connection's worth of publishing: it never reconnects. When it ends, the outcome of every event
// without one is unknown, and the relay begins again from its checkpoint with a new session.
//
// Send is called by one goroutine, which also receives from Outcomes.
type Session interface {
	// Send hands over one event. It returns as soon as the event is on its way or queued; its outcome arrives later on
	// Outcomes, under tag. Events are put on the wire in the order of the calls. The relay sends at most as many events
	// without an outcome as the window it was given. An error means that the session has ended.
	Send(ctx context.Context, tag uint64, entry *Entry) error

	// Outcomes delivers the outcome of every sent event, in batches, in the order of sending. It is closed when the
	// session has ended.
	Outcomes() <-chan []Outcome

	// Blocked reports whether the broker has asked to send nothing for now, with its reason. The relay doesn't call
	// Send and doesn't count time while it is. A change is announced on the channel that is returned, which is closed
	// then.
	Blocked() (blocked bool, reason string, changed <-chan struct{})

	// Err returns why the session ended, nil while it lasts. It matches ErrRefused if the broker ended it because
	// of an event it was sent, and ErrUnpublishable too if the fault lies in that event.
	Err() error

	// Close ends the session: it waits for outstanding outcomes until ctx ends, and returns soon after that whatever
	// the socket does.
	Close(ctx context.Context) error
}

// Outcome is what became of one sent event.
type Outcome struct {
	Tag    uint64
	Status Status
	Reason string // for people; empty if confirmed
}

// Status is what became of one sent event.
type Status uint8

const (
	// Confirmed: the broker has taken responsibility for the event in every queue it belongs to.
	Confirmed Status = iota + 1
	// Rejected: the broker didn't take it for now (a full queue, a queue without its leader). To be sent again later,
	// for as long as it takes.
	Rejected
	// Unroutable: no queue wanted it. Bindings may appear late, so it is worth a few more tries; then it is parked.
	Unroutable
	// Refused: it can never be published as it is (too large, no valid route). It is parked.
	Refused
)

func (s Status) String() string {
	switch s {
	case Confirmed:
		return "confirmed"
	case Rejected:
		return "rejected"
	case Unroutable:
		return "unroutable"
	case Refused:
		return "refused"
	}
	return "unknown"
}

// ErrRefused is matched by a session's error if the broker ended the session because of an event it was sent. The
// relay finds the culprit with a window of one and parks it.
var ErrRefused = errors.New("the broker ended the session because of a message")

// ErrUnpublishable is matched by such an error, besides ErrRefused, if the broker said that the fault lies in the message
// itself (it is too large, a header has the wrong type), and not in what may pass for it, such as an exchange that isn't
// there or a permission that was revoked. Then no other event need be published to show that the broker works.
var ErrUnpublishable = errors.New("the broker can't take the message as it is")
