package amqp

import (
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// ConsumerHooks observe a consumer, for metrics and tests. Any of them may be nil. They are called by several
// goroutines at once and hold up the work while they run: count and return. To trace a handler, wrap the Handler
// instead.
type ConsumerHooks struct {
	// OnHandled is called after the handler succeeded and before the message is acknowledged.
	OnHandled func(HandledMessage)
	// OnRetry is called when the handler failed and the event will be tried again: in place, or after it has waited in
	// a retry queue. In that case the broker has confirmed that it is there.
	OnRetry func(RetriedMessage)
	// OnBatchFailed is called when a batch was rolled back, before its events are handled one by one.
	OnBatchFailed func(FailedBatch)
	// OnDeadLetter is called after the broker has confirmed the copy in the dead-letter queue.
	OnDeadLetter func(DeadLetteredMessage)
	// OnCall is called after every call of the handler, whatever came of it, and before the hooks that say what.
	OnCall func(HandlerCall)
	// OnConnect is called when consuming has begun: at first, and again after every reconnect.
	OnConnect func()
	// OnDisconnect is called when the connection, or an attempt at it, failed.
	OnDisconnect func(Disconnect)
}

// HandledMessage is a message whose handler succeeded.
type HandledMessage struct {
	Queue    string
	Event    surepost.Event
	Result   inbox.Result
	Attempt  int           // tries of this delivery, this one included
	Duration time.Duration // of this try, or of the whole batch
	// BatchSize is how many messages were handled in one transaction, this one included; 1 if it was alone.
	BatchSize int
	// Deliveries is how often the broker delivered the message before, without its being acknowledged, however it came
	// back (x-acquired-count of RabbitMQ 4.3, before that x-delivery-count); 0 the first time, and always 0 with a
	// classic queue.
	Deliveries int64
}

// RetriedMessage is a message whose handler failed and will be called again.
type RetriedMessage struct {
	Queue      string
	Event      surepost.Event
	Err        error
	Outage     bool          // the try didn't count
	Attempt    int           // tries of this delivery, this one included
	Pause      time.Duration // until the next try
	Duration   time.Duration // of this try; 0 if Delayed
	Delayed    bool          // it waits in a retry queue, and Attempt counts the tries of all rounds
	Deliveries int64
}

// HandlerCall is one call of the handler, for an event or for a batch of them.
type HandlerCall struct {
	Queue     string
	Event     surepost.Event // the first of the batch
	BatchSize int            // events; 1 if it was alone
	Err       error          // nil if the call succeeded
	Duration  time.Duration
}

// FailedBatch is a batch that was rolled back. It counts as nobody's attempt.
type FailedBatch struct {
	Queue     string
	BatchSize int // messages, at least 2
	Err       error
	Duration  time.Duration
}

// DeadLetteredMessage is a message that was moved to the dead-letter queue.
type DeadLetteredMessage struct {
	Queue      string
	Event      surepost.Event // empty if Reason is NotAnEvent
	MessageID  string         // the AMQP property
	Reason     DeadLetterReason
	Err        error
	Attempts   int
	Deliveries int64
}

// Disconnect is the end of a session, or a failed attempt to begin one.
type Disconnect struct {
	Err     error
	Attempt int           // attempts since the last healthy session, this one included
	Pause   time.Duration // until the next attempt
}
