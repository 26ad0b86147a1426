package amqp

import (
	"container/heap"
	"time"
)

// schedule decides which message may be handled next. It is pure: it has no clock, no goroutine and no socket, and is
// owned by the dispatcher's one goroutine.
//
// Its invariant is the promise "order per key": **of one key, only the oldest message is ever handled, and the next
// one starts after the oldest has left the schedule** (acknowledged, dead-lettered, or dropped with its session).
// Keys are queues of their own, so that the invariant costs concurrency only inside a key: a key that waits out a
// backoff, or for its dead letter to be confirmed, occupies no worker. Messages without a key are keys of one message
// each.
//
// The invariant holds across sessions as well: when a session ends, everything that isn't being handled is dropped
// ([schedule.dropWaiting]), and what is being handled stays at the head of its key until it has finished. The broker
// delivers the same messages again in the next session, oldest first, and they line up behind that head. So a
// redelivered message never runs beside its own first delivery, nor a later one of its key before it.
type schedule struct {
	workers int // how many messages may be handled at once
	running int // how many are
	held    int // how many are being dead-lettered

	keys   map[keyID]*keyQueue
	ready  []*keyQueue // first in, first out: keys take turns, a busy key can't starve the others
	paused pausedKeys
}

// keyID identifies a key: its name, or for a message without one the message itself.
type keyID struct {
	key  string
	lone *message
}

// keyQueue holds one key's messages in the order of their delivery. It exists while it has any.
type keyQueue struct {
	id       keyID
	messages []*message
	state    keyState
	due      time.Time // of a paused key: when its head is tried again
}

// keyState is the state of the message at the head of a key.
type keyState uint8

const (
	keyReady   keyState = iota // may be handled as soon as a worker is free
	keyRunning                 // a worker handles it
	keyPaused                  // it failed and waits for its next try
	keyHeld                    // it is being dead-lettered
)

func newSchedule(workers int) *schedule {
	return &schedule{workers: workers, keys: map[keyID]*keyQueue{}}
}

// add appends a delivered message to its key.
func (s *schedule) add(m *message) {
	id := keyID{key: m.event.Key}
	if id.key == "" {
		id.lone = m
	}
	q := s.keys[id]
	if q == nil {
		q = &keyQueue{id: id}
		s.keys[id] = q
		s.makeReady(q)
	}
	m.queue = q
	q.messages = append(q.messages, m)
}

// next returns the message that a worker shall handle now, or nil if there is none or no worker is free.
func (s *schedule) next() *message {
	if s.running == s.workers || len(s.ready) == 0 {
		return nil
	}
	q := s.ready[0]
	s.ready = s.ready[1:]
	q.state = keyRunning
	s.running++
	return q.messages[0]
}

// pause frees m's worker and lets m's key wait until due for another try.
func (s *schedule) pause(m *message, due time.Time) {
	s.leave(m.queue)
	m.queue.state, m.queue.due = keyPaused, due
	heap.Push(&s.paused, m.queue)
}

// hold frees m's worker, but lets m's key wait until m is finished: its dead letter is on the way.
func (s *schedule) hold(m *message) {
	s.leave(m.queue)
	m.queue.state = keyHeld
	s.held++
}

// finish removes m, which was running or held, so that the next message of its key may start.
func (s *schedule) finish(m *message) {
	q := m.queue
	s.leave(q)
	q.messages[0] = nil
	q.messages = q.messages[1:]
	if len(q.messages) == 0 {
		delete(s.keys, q.id)
		return
	}
	s.makeReady(q)
}

// leave takes a key out of the counter of its state.
func (s *schedule) leave(q *keyQueue) {
	switch q.state {
	case keyRunning:
		s.running--
	case keyHeld:
		s.held--
	}
}

func (s *schedule) makeReady(q *keyQueue) {
	q.state = keyReady
	s.ready = append(s.ready, q)
}

// wake makes the keys ready whose pause is over.
func (s *schedule) wake(now time.Time) {
	for len(s.paused) > 0 && !s.paused[0].due.After(now) {
		s.makeReady(heap.Pop(&s.paused).(*keyQueue))
	}
}

// nextWake returns when the next pause is over; false if no key is paused.
func (s *schedule) nextWake() (time.Time, bool) {
	if len(s.paused) == 0 {
		return time.Time{}, false
	}
	return s.paused[0].due, true
}

// dropWaiting forgets every message that isn't being handled. It is called when a session has ended: they will be
// delivered again.
func (s *schedule) dropWaiting() {
	for id, q := range s.keys {
		if q.state == keyRunning {
			q.messages = q.messages[:1:1]
		} else {
			delete(s.keys, id)
		}
	}
	s.ready, s.paused, s.held = nil, nil, 0
}

// handled returns the messages that are being handled, in no order.
func (s *schedule) handled() []*message {
	var running []*message
	for _, q := range s.keys {
		if q.state == keyRunning {
			running = append(running, q.messages[0])
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
