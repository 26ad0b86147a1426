package amqp

import (
	"container/heap"
	"slices"
	"time"
)

// schedule decides which messages may be handled next. It is pure: it has no clock, no goroutine and no socket, and is
// owned by the dispatcher's one goroutine.
//
// Its invariant is the promise "order per key": **of one key, only the oldest messages are ever with a worker, all with
// the same one and in their order, and the next ones start after all of them have left the schedule** (acknowledged,
// dead-lettered, or dropped with their session). Keys are queues of their own, so that the invariant costs concurrency
// only inside a key: a key that waits out a backoff, or for its dead letter to be confirmed, occupies no worker.
// Messages without a key are keys of one message each.
//
// The invariant holds across sessions as well: when a session ends, everything that isn't being handled is dropped
// ([schedule.dropWaiting]), and what is being handled stays at the front of its key until it has finished. The broker
// delivers the same messages again in the next session, oldest first, and they line up behind that front. So a
// redelivered message never runs beside its own first delivery, nor a later one of its key before it.
type schedule struct {
	workers   int           // how many batches may be handled at once
	batchSize int           // messages
	linger    time.Duration // how long a batch may wait to be filled

	now     time.Time // what wake was told
	running int       // how many batches are being handled
	suspect bool      // one of them is a suspect
	held    int       // how many messages are being dead-lettered

	keys   map[keyID]*keyQueue
	ready  [companies][]*keyQueue // first in, first out: keys take turns, a busy key can't starve the others
	turns  uint64                 // how often a key has become ready
	paused pausedKeys
}

// company says in whose company a message may be handled.
type company uint8

const (
	together  company = iota // in a batch with others
	alone                    // in a transaction of its own: it was delivered before, or its batch failed
	suspected                // alone, and while no other suspect is handled: its process died last time
	companies
)

// keyID identifies a key: its name, or for a message without one the message itself.
type keyID struct {
	key  string
	lone *message
}

// keyQueue holds one key's messages in the order of their delivery. It exists while it has any.
type keyQueue struct {
	id       keyID
	messages []*message
	out      int       // how many of them, from the front, are with a worker or being dead-lettered
	turn     uint64    // of a ready key: when it became ready, in turns
	since    time.Time // of a ready key: when it became ready
	due      time.Time // of a paused key: when its head is tried again
}

func newSchedule(workers, batchSize int, linger time.Duration) *schedule {
	return &schedule{workers: workers, batchSize: batchSize, linger: linger, keys: map[keyID]*keyQueue{}}
}

// add appends a delivered message to its key.
func (s *schedule) add(m *message) {
	id := keyID{key: m.event.Key}
	if id.key == "" {
		id.lone = m
	}
	q := s.keys[id]
	known := q != nil
	if !known {
		q = &keyQueue{id: id}
		s.keys[id] = q
	}
	m.queue = q
	q.messages = append(q.messages, m)
	if !known {
		s.makeReady(q)
	}
}

// next returns the messages that a worker shall handle now, in one transaction and in this order; nil if there are
// none or no worker is free.
func (s *schedule) next() []*message {
	if s.running == s.workers {
		return nil
	}
	c, ok := s.turn()
	if !ok {
		return nil
	}
	most := 1
	if c == together {
		most = s.batchSize
	}
	var batch []*message
	for len(batch) < most && len(s.ready[c]) > 0 {
		q := s.ready[c][0]
		s.ready[c][0] = nil
		s.ready[c] = s.ready[c][1:]
		q.out = min(q.leading(c), most-len(batch))
		batch = append(batch, q.messages[:q.out]...)
	}
	s.running++
	s.suspect = s.suspect || c == suspected
	return batch
}

// turn chooses whose turn it is: of those that may start, the key that has been ready for longest.
func (s *schedule) turn() (c company, ok bool) {
	for candidate, keys := range s.ready {
		switch {
		case len(keys) == 0:
		case company(candidate) == suspected && s.suspect:
		case company(candidate) == together && s.lingers():
		case !ok || keys[0].turn < s.ready[c][0].turn:
			c, ok = company(candidate), true
		}
	}
	return c, ok
}

// lingers reports whether the next batch waits to be filled.
func (s *schedule) lingers() bool {
	keys := s.ready[together]
	if s.linger == 0 || len(keys) == 0 || !keys[0].since.Add(s.linger).After(s.now) {
		return false
	}
	size := 0
	for _, q := range keys {
		if size += q.leading(together); size >= s.batchSize {
			return false
		}
	}
	return true
}

// leading returns how many messages from the front may be handled in the company.
func (q *keyQueue) leading(c company) int {
	n := slices.IndexFunc(q.messages, func(m *message) bool { return m.company != c })
	if n < 0 {
		n = len(q.messages)
	}
	return n
}

// free frees the worker that handled the batch. What becomes of each of its messages must be said right after that, in
// their order, by finish, hold, pause or again.
func (s *schedule) free(batch []*message) {
	s.running--
	if batch[0].company == suspected {
		s.suspect = false
	}
}

// again lets m, which was handled, be handled once more in the company, as soon as a worker is free.
func (s *schedule) again(m *message, c company) {
	m.company = c
	m.queue.out--
	s.release(m.queue)
}

// pause lets m, which was handled, and its key wait until due for another try.
func (s *schedule) pause(m *message, due time.Time) {
	m.queue.out--
	m.queue.due = due
	heap.Push(&s.paused, m.queue)
}

// hold lets m, which was handled, and its key wait until m is finished: its dead letter is on the way.
func (s *schedule) hold(m *message) {
	m.held = true
	s.held++
}

// finish removes m, which was handled or held, so that the next message of its key may start.
func (s *schedule) finish(m *message) {
	q := m.queue
	if m.held {
		s.held--
	}
	i := slices.Index(q.messages, m) // among the first: they are out, and finish in about their order
	q.messages = slices.Delete(q.messages, i, i+1)
	q.out--
	s.release(q)
}

// release makes a key ready, or removes it, once nothing of it is out.
func (s *schedule) release(q *keyQueue) {
	switch {
	case q.out > 0:
	case len(q.messages) == 0:
		delete(s.keys, q.id)
	default:
		s.makeReady(q)
	}
}

func (s *schedule) makeReady(q *keyQueue) {
	s.turns++
	q.turn, q.since = s.turns, s.now
	c := q.messages[0].company
	s.ready[c] = append(s.ready[c], q)
}

// wake says what time it is, and makes the keys ready whose pause is over.
func (s *schedule) wake(now time.Time) {
	s.now = now
	for len(s.paused) > 0 && !s.paused[0].due.After(now) {
		s.makeReady(heap.Pop(&s.paused).(*keyQueue))
	}
}

// nextWake returns when next may return more than now, though nothing else happens; false if that is never. It is
// called after next has returned nil.
func (s *schedule) nextWake() (due time.Time, ok bool) {
	if len(s.paused) > 0 {
		due, ok = s.paused[0].due, true
	}
	if s.running < s.workers && len(s.ready[together]) > 0 { // so it lingers
		if full := s.ready[together][0].since.Add(s.linger); !ok || full.Before(due) {
			due, ok = full, true
		}
	}
	return due, ok
}

// dropWaiting forgets every message that isn't being handled. It is called when a session has ended: they will be
// delivered again.
func (s *schedule) dropWaiting() {
	for id, q := range s.keys {
		q.messages = slices.DeleteFunc(q.messages[:q.out:q.out], func(m *message) bool { return m.held })
		q.out = len(q.messages)
		if q.out == 0 {
			delete(s.keys, id)
		}
	}
	s.ready, s.paused, s.held = [companies][]*keyQueue{}, nil, 0
}

// handled returns the messages that are being handled, in no order.
func (s *schedule) handled() []*message {
	var running []*message
	for _, q := range s.keys {
		for _, m := range q.messages[:q.out] {
			if !m.held {
				running = append(running, m)
			}
		}
	}
	return running
}

// pausedKeys is a heap (container/heap) of paused keys, the one that is due first on top.
type pausedKeys []*keyQueue

func (p pausedKeys) Len() int           { return len(p) }
func (p pausedKeys) Less(i, j int) bool { return p[i].due.Before(p[j].due) }
func (p pausedKeys) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *pausedKeys) Push(x any)        { *p = append(*p, x.(*keyQueue)) }

func (p *pausedKeys) Pop() any {
	last := len(*p) - 1
	q := (*p)[last]
	(*p)[last] = nil
	*p = (*p)[:last]
	return q
}
