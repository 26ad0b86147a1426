package amqptest

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// entry is a message in one queue.
type entry struct {
	msg         *stored
	seq         uint64    // its place in the queue
	expires     time.Time // zero: never
	fresh       bool      // time to live 0, and not offered to a consumer yet
	redelivered bool
	acquired    int // deliveries
	count       int // failed ones
	quorum      bool
	countsTwice bool // RabbitMQ ≥ 4.3 reports both numbers
}

func (e *entry) expired(now time.Time) bool {
	return !e.expires.IsZero() && !e.fresh && !now.Before(e.expires)
}

// outgoing returns the message as it is delivered. zero asks for a delivery count even if it is 0.
func (e *entry) outgoing(zero bool) (*Message, []byte) {
	m := e.msg.Message
	m.Redelivered, m.DeliveryCount = e.redelivered, e.count
	more := Table{}
	if e.quorum && (e.count > 0 || zero) {
		more["x-delivery-count"] = int64(e.count)
	}
	if e.countsTwice && e.acquired > 1 {
		more["x-acquired-count"] = int64(e.acquired - 1)
	}
	return &m, e.msg.withHeaders(more)
}

// returned says how a delivery came back.
type returned int

const (
	returnedByReject returned = iota
	returnedByNack
	returnedByClose // the channel was closed
	returnedByLoss  // the connection was lost
	returnedByTimeout
)

// queue keeps messages for consumers.
type queue struct {
	vhost      *vhost
	name       string
	durable    bool
	autoDelete bool
	owner      *connection // of an exclusive queue
	args       Table
	settings

	entries []*entry // the oldest first
	returns []*entry // of quorum queues: what came back, and goes out first
	seq     uint64
	unacked int

	consumers []*consumer // those of higher priority first, then those that have waited longest
	active    *consumer   // the single active one
	hadAny    bool        // it had a consumer: an auto-delete queue goes with its last one

	stirred bool
	deleted bool
	ttlTime *timer // of the oldest message
	idle    *timer // x-expires
}

// String returns RabbitMQ's way to name a queue.
func (q *queue) String() string { return queueText(q.name, q.vhost.name) }

func queueText(name, vhost string) string {
	return fmt.Sprintf("queue '%s' in vhost '%s'", name, vhost)
}

func (q *queue) broker() *Broker { return q.vhost.broker }

// stir notes that the queue may have something to deliver.
func (q *queue) stir() {
	if !q.stirred && !q.deleted {
		q.stirred = true
		b := q.broker()
		b.stirred = append(b.stirred, q)
	}
}

func (q *queue) ready() int { return len(q.entries) + len(q.returns) }

func (q *queue) readyBytes() int {
	n := 0
	for _, e := range slices.Concat(q.returns, q.entries) {
		n += len(e.msg.Body)
	}
	return n
}

// publish puts a message at the end of the queue. False: the queue is full and refuses it.
func (q *queue) publish(s *stored) bool {
	if q.rejectPublish && q.full(0) {
		if q.deadLetterRefused {
			q.deadLetter(&entry{msg: s}, deadByLength)
		}
		return false
	}
	q.seq++
	e := &entry{msg: s, seq: q.seq, redelivered: s.redelivered,
		quorum: q.quorum, countsTwice: q.quorum && !q.broker().rules.nackCounts}
	ttl, _ := expiration(&s.Message)
	if q.ttl >= 0 && (ttl < 0 || q.ttl < ttl) {
		ttl = q.ttl
	}
	if ttl >= 0 {
		e.expires, e.fresh = time.Now().Add(ttl), ttl == 0
	}
	q.entries = append(q.entries, e)
	q.stir()
	if !q.rejectPublish && q.full(1) {
		q.deliver() // what a consumer can take doesn't count
		for q.full(1) {
			q.deadLetter(q.take(), deadByLength)
		}
	}
	return true
}

// full says whether the queue would exceed its limits with n messages less than it has, plus one.
func (q *queue) full(n int) bool {
	if q.maxLength >= 0 && q.ready()+1-n > q.maxLength && q.ready()+1-n > 0 {
		return true
	}
	if q.maxBytes < 0 {
		return false
	}
	if n == 0 {
		return q.readyBytes() >= q.maxBytes
	}
	return q.readyBytes() > q.maxBytes
}

// head returns the message that goes out next.
func (q *queue) head() *entry {
	switch {
	case len(q.returns) > 0:
		return q.returns[0]
	case len(q.entries) > 0:
		return q.entries[0]
	}
	return nil
}

// take takes the next message out, after those that have expired. nil: there is none.
func (q *queue) take() *entry {
	q.expire()
	e := q.pop()
	if e != nil {
		e.acquired++
		e.fresh = false
	}
	return e
}

func (q *queue) pop() *entry {
	e := q.head()
	switch {
	case e == nil:
	case len(q.returns) > 0:
		q.returns[0] = nil
		q.returns = q.returns[1:]
	default:
		q.entries[0] = nil
		q.entries = q.entries[1:]
	}
	return e
}

// expire dead-letters what has expired. As in RabbitMQ only the next message is looked at: one behind it waits.
func (q *queue) expire() {
	now := time.Now()
	for e := q.head(); e != nil && e.expired(now); e = q.head() {
		q.deadLetter(q.pop(), deadByTTL)
	}
}

// deliver hands messages to consumers as long as there are both. As in RabbitMQ a consumer's whole prefetch is its own
// before the first of it is sent: a connection that is lost in the middle of the deliveries had them all.
func (q *queue) deliver() {
	var assigned []assignment
	for !q.deleted {
		q.expire()
		e := q.head()
		if e == nil {
			break
		}
		c := q.next()
		if c == nil {
			if !e.fresh {
				break
			}
			e.fresh = false // nobody wants it at once
			continue
		}
		assigned = append(assigned, c.assign(q.take()))
		if !c.limited() {
			assigned = sendAll(assigned)
		}
	}
	sendAll(assigned)
	q.watchTTL()
}

// sendAll sends what is assigned, and returns the emptied list.
func sendAll(assigned []assignment) []assignment {
	for _, a := range assigned {
		a.send()
	}
	return assigned[:0]
}

// next returns the consumer whose turn it is, and makes it the last of its priority.
func (q *queue) next() *consumer {
	if q.singleActive {
		if q.active != nil && q.active.hasRoom() {
			return q.active
		}
		return nil
	}
	for i, c := range q.consumers {
		if c.hasRoom() {
			q.consumers = slices.Delete(q.consumers, i, i+1)
			q.enlist(c)
			return c
		}
	}
	return nil
}

// enlist puts a consumer behind all others of its priority.
func (q *queue) enlist(c *consumer) {
	i := sort.Search(len(q.consumers), func(i int) bool { return q.consumers[i].priority < c.priority })
	q.consumers = slices.Insert(q.consumers, i, c)
}

// join adds a consumer.
func (q *queue) join(c *consumer) {
	q.hadAny = true
	q.enlist(c)
	if q.active == nil {
		q.active = c
	}
	q.used()
	q.stir()
}

// leave removes a consumer. The next one becomes the active one.
func (q *queue) leave(c *consumer) {
	if i := slices.Index(q.consumers, c); i >= 0 {
		q.consumers = slices.Delete(q.consumers, i, i+1)
	}
	if q.active == c {
		q.active = nil
		if len(q.consumers) > 0 {
			q.active = q.consumers[0]
		}
	}
	q.used()
	q.stir()
}

func (q *queue) exclusiveConsumer() bool {
	return slices.ContainsFunc(q.consumers, func(c *consumer) bool { return c.exclusive })
}

// deleteIfUnused deletes an auto-delete queue whose last consumer has left.
func (q *queue) deleteIfUnused() {
	if q.autoDelete && q.hadAny && len(q.consumers) == 0 {
		q.vhost.deleteQueue(q)
	}
}

// used begins x-expires anew.
func (q *queue) used() {
	b := q.broker()
	b.stop(q.idle)
	q.idle = nil
	if q.expiresIdle > 0 && len(q.consumers) == 0 && !q.deleted {
		q.idle = b.after(q.expiresIdle, func() { q.vhost.deleteQueue(q) })
	}
}

// watchTTL makes sure that the next message expires in time.
func (q *queue) watchTTL() {
	b := q.broker()
	b.stop(q.ttlTime)
	q.ttlTime = nil
	if e := q.head(); e != nil && !e.expires.IsZero() && !q.deleted {
		q.ttlTime = b.after(time.Until(e.expires), q.stir)
	}
}

// acked forgets a delivery.
func (q *queue) acked(*delivery) { q.unacked-- }

// rejected dead-letters a delivery that its consumer doesn't want back.
func (q *queue) rejected(d *delivery) {
	q.unacked--
	if !q.deleted {
		q.deadLetter(d.entry, deadByReject)
	}
}

// giveBack takes deliveries back.
//
// A classic queue puts them where they were. A quorum queue counts the failed delivery, dead-letters at the limit,
// and puts the others in front, in the order in which they come back; but before 4.3 one without a delivery limit
// puts those that a client returned at the end (rabbit_fifo, commands return and requeue).
func (q *queue) giveBack(deliveries []*delivery, why returned) {
	q.unacked -= len(deliveries)
	if q.deleted {
		return
	}
	for _, d := range deliveries {
		e := d.entry
		e.redelivered = true
		if !q.quorum {
			q.reinsert(e)
			continue
		}
		if why != returnedByTimeout && (why != returnedByNack || q.broker().rules.nackCounts) {
			e.count++
		}
		switch byClient := why == returnedByReject || why == returnedByNack; {
		case q.deliveryLimit != noLimit && e.count > q.deliveryLimit:
			q.deadLetter(e, deadByDeliveryLimit)
		case q.deliveryLimit == noLimit && byClient && q.broker().rules.unlimitedToTheEnd:
			q.entries = append(q.entries, e)
		default:
			q.returns = append(q.returns, e)
		}
	}
	q.stir()
}

// reinsert puts an entry at its place. What comes back was near the front, so what stands before it is moved.
func (q *queue) reinsert(e *entry) {
	i := sort.Search(len(q.entries), func(i int) bool { return q.entries[i].seq > e.seq })
	q.entries = slices.Insert(q.entries, i, e)
}

// purge drops what is ready.
func (q *queue) purge() int {
	n := q.ready()
	q.entries, q.returns = nil, nil
	return n
}
