package inbox

import (
	"context"
	"errors"
	"fmt"
)

// StartAttempt notes in the database, in a transaction of its own, that the consumer starts an attempt at the event, if
// fewer than limit were started and never finished: each of those took its process with it. It returns how many those
// are, this one not included.
//
// Whoever delivers events calls it before Handle for one that came again, so that an event that kills the process is
// found; amqp.Consumer does. The error is errors.ErrUnsupported if the store isn't an AttemptStore.
func (in *Inbox[TX]) StartAttempt(ctx context.Context, eventID string, limit int) (unfinished int, err error) {
	store, ok := in.store.(AttemptStore)
	if !ok {
		return 0, fmt.Errorf("inbox: the store counts no attempts: %w", errors.ErrUnsupported)
	}
	return store.StartAttempt(ctx, in.config.Consumer, eventID, limit)
}

// FinishAttempt notes that an attempt that was started has ended, and with which error.
func (in *Inbox[TX]) FinishAttempt(ctx context.Context, eventID string, failure error) error {
	store, ok := in.store.(AttemptStore)
	if !ok {
		return fmt.Errorf("inbox: the store counts no attempts: %w", errors.ErrUnsupported)
	}
	return store.FinishAttempt(ctx, in.config.Consumer, eventID, failure.Error())
}

// ForgetAttempts removes what was noted of attempts at the event, because it was handled or given up.
func (in *Inbox[TX]) ForgetAttempts(ctx context.Context, eventID string) error {
	store, ok := in.store.(AttemptStore)
	if !ok {
		return fmt.Errorf("inbox: the store counts no attempts: %w", errors.ErrUnsupported)
	}
	return store.ForgetAttempts(ctx, in.config.Consumer, eventID)
}
