package amqp

import (
	"sync"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// flight is one event from Send until its outcome.
type flight struct {
	tag   uint64
	id    string
	event surepost.Event // until it is published, then empty: a window of large events need not stay in memory

	confirm  *amqp091.DeferredConfirmation // nil until it is published, and for ever if it is refused
	refused  string                        // why it wasn't published, if it wasn't
	returned string                        // why the broker returned it, if it did
}

// done reports whether there is nothing to wait for any more.
func (f *flight) done() bool {
	if f.confirm == nil {
		return true
	}
	select {
	case <-f.confirm.Done():
		return true
	default:
		return false
	}
}

// window is the ring of a session's events without an outcome, in the order of sending. Each flight passes through
// three hands:
//
//	Send puts it in at tail ─▶ write publishes it at next ─▶ collect settles it at head
//
// The numbers only grow; a flight's place is its number modulo the ring's length. Between the hands mu passes the
// flight on, so that each of them may use its flight without holding mu.
type window struct {
	mu               sync.Mutex
	ring             []flight
	head, next, tail uint64
}

func newWindow(size int) *window { return &window{ring: make([]flight, size)} }

func (w *window) at(n uint64) *flight { return &w.ring[n%uint64(len(w.ring))] }

// push puts an event in, or returns false if the window is full.
func (w *window) push(tag uint64, e *surepost.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tail-w.head == uint64(len(w.ring)) {
		return false
	}
	*w.at(w.tail) = flight{tag: tag, id: e.ID, event: *e}
	w.tail++
	return true
}

// unpublished returns the first flight that isn't published, nil if there is none. It belongs to the caller until
// published.
func (w *window) unpublished() *flight {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == w.tail {
		return nil
	}
	return w.at(w.next)
}

// published passes the flight of the last call of unpublished on.
func (w *window) published() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
}

// first returns the head's number and flight; nil if the head isn't published.
func (w *window) first() (number uint64, head *flight) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == w.next {
		return w.head, nil
	}
	return w.head, w.at(w.head)
}

// finished returns how many flights from the head on are done, without a gap, and the first one's number.
func (w *window) finished() (first, n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.head+n < w.next && w.at(w.head+n).done() {
		n++
	}
	return w.head, n
}

// settled takes n flights out.
func (w *window) settled(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		*w.at(w.head) = flight{} // frees what it points to
		w.head++
	}
}

// empty reports whether no event is without an outcome.
func (w *window) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head == w.tail
}

// markReturned marks every flight with that message-id. AMQP gives a returned message no number, so two flights with
// one id (an event and its replay, an id that a producer used twice) can't be told apart: both count as returned. The
// one that wasn't is sent again, which a consumer dedupes; the other way round, an event that no queue took would
// pass for confirmed.
//
// It goes through the whole window. That is cheap enough for what is rare, and costs the usual case no index.
func (w *window) markReturned(id, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := w.head; n < w.tail; n++ {
		if f := w.at(n); f.id == id {
			f.returned = reason
		}
	}
}
