package amqp

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// acker acknowledges a session's messages by group commit, without a timer: while one acknowledgement is being
// written, others gather, and the next round takes all of them.
type acker struct {
	channel interface { // *amqp091.Channel
		Ack(tag uint64, multiple bool) error
	}
	fail func(error) // ends the session

	mu       sync.Mutex
	window   ackWindow
	finished []uint64 // what the next round takes
	closing  bool

	wake chan struct{} // has room for one: more wakings than one are none the better
	gone chan struct{} // closed when run has returned
}

// delivered notes a message before anybody can finish it.
func (a *acker) delivered(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.window.unacked = append(a.window.unacked, tag)
}

// finish lets messages be acknowledged. It never waits for the socket.
func (a *acker) finish(messages []*message) {
	a.mu.Lock()
	for _, m := range messages {
		a.finished = append(a.finished, m.delivery.DeliveryTag)
	}
	a.mu.Unlock()
	a.poke()
}

func (a *acker) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run acknowledges until ctx, the session's, ends or all is done after flush.
func (a *acker) run(ctx context.Context) {
	defer close(a.gone)
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		acks, last := a.window.take(a.finished), a.closing
		a.finished = a.finished[:0]
		a.mu.Unlock()
		for _, ack := range acks {
			if err := a.channel.Ack(ack.tag, ack.multiple); err != nil {
				a.fail(fmt.Errorf("amqp: acknowledge: %w", err))
				return
			}
		}
		if last {
			return
		}
	}
}

// flush returns when all that was finished is acknowledged, or when ctx or the session has ended. What is finished
// later isn't acknowledged any more.
func (a *acker) flush(ctx context.Context) {
	a.mu.Lock()
	a.closing = true
	a.mu.Unlock()
	a.poke()
	select {
	case <-a.gone:
	case <-ctx.Done():
	}
}

// ackWindow knows for which messages of a channel the broker waits. It is pure.
type ackWindow struct {
	unacked []uint64 // delivery tags, ascending as the broker gives them out; at most Prefetch
}

// ack is an acknowledgement: of the message with the tag or, if multiple, of all up to it.
type ack struct {
	tag      uint64
	multiple bool
}

// take returns the acknowledgements for finished messages, which it may reorder, and forgets these. The messages up to
// the first that isn't finished are covered by one acknowledgement; those behind it get one each, so that a slow or
// failing key doesn't keep the broker from delivering others in their place.
func (w *ackWindow) take(finished []uint64) (acks []ack) {
	slices.Sort(finished)
	prefix := 0
	for prefix < len(finished) && w.unacked[prefix] == finished[prefix] {
		prefix++
	}
	if prefix > 0 {
		acks = append(acks, ack{tag: finished[prefix-1], multiple: prefix > 1})
	}
	behind := finished[prefix:]
	for _, tag := range behind {
		acks = append(acks, ack{tag: tag})
	}
	w.unacked = slices.Delete(w.unacked, 0, prefix)
	w.unacked = slices.DeleteFunc(w.unacked, func(tag uint64) bool { // both are sorted
		found := len(behind) > 0 && behind[0] == tag
		if found {
			behind = behind[1:]
		}
		return found
	})
	return acks
}
