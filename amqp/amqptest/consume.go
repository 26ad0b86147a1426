package amqptest

import (
	"fmt"
	"slices"
	"time"
)

// consumer is a client's subscription to a queue.
type consumer struct {
	ch        *channel
	tag       string
	queue     *queue
	noAck     bool
	exclusive bool
	priority  int64
	prefetch  int // 0: no limit
	unacked   int
	timeout   time.Duration // of its deliveries; 0: the queue's
}

// hasRoom says whether one more message may be delivered.
func (c *consumer) hasRoom() bool {
	ch := c.ch
	switch {
	case ch.over() || ch.conn.congested():
		return false
	case c.noAck:
		return true
	}
	return (c.prefetch == 0 || c.unacked < c.prefetch) && (ch.shared == 0 || len(ch.unacked) < ch.shared)
}

// assignment is a message that has a consumer, and isn't on its way yet.
type assignment struct {
	to    *consumer
	entry *entry
	tag   uint64
}

func (c *consumer) assign(e *entry) assignment {
	return assignment{c, e, c.ch.hold(e, c.queue, c, c.noAck)}
}

// limited says whether there is an end to what may be assigned to the consumer.
func (c *consumer) limited() bool { return !c.noAck && (c.prefetch > 0 || c.ch.shared > 0) }

// send delivers the message, if its channel is still there.
func (a assignment) send() {
	if a.to.ch.over() {
		return
	}
	m, properties := a.entry.outgoing(false)
	a.to.ch.sendContent(basicDeliver, begin(basicDeliver).shortstr(a.to.tag).u64(a.tag).bit(m.Redelivered).
		shortstr(m.Exchange).shortstr(m.RoutingKey), m, properties)
}

// hold gives a delivery its tag and remembers it until it is acknowledged.
func (ch *channel) hold(e *entry, q *queue, c *consumer, noAck bool) uint64 {
	ch.tag++
	if noAck {
		return ch.tag
	}
	d := &delivery{tag: ch.tag, entry: e, queue: q, consumer: c, until: time.Now().Add(ch.timeout(q, c))}
	ch.unacked = append(ch.unacked, d)
	q.unacked++
	if c != nil {
		c.unacked++
	}
	ch.watchTimeout(d.until)
	return ch.tag
}

// qos executes basic.qos. As in RabbitMQ the limit is for each of the channel's next consumers, or with global for
// all together.
func (ch *channel) qos(d *decoder) error {
	size, count, global := d.u32(), d.u16(), d.u8()&1 != 0
	switch {
	case d.err != nil:
		return refuse(502, "%v", d.err)
	case size != 0:
		return refuse(540, "prefetch_size!=0 (%d)", size)
	}
	if global && ch.broker().rules.globalQos {
		ch.shared = int(count)
	} else {
		ch.prefetch = int(count)
	}
	ch.sendMethod(basicQosOk, begin(basicQosOk))
	ch.stirQueues()
	return nil
}

// consume executes basic.consume.
func (ch *channel) consume(d *decoder) error {
	d.u16()
	name, tag, bits, args := d.shortstr(), d.shortstr(), d.u8(), d.table()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	c := &consumer{ch: ch, tag: tag, noAck: bits&2 != 0, exclusive: bits&4 != 0, prefetch: ch.prefetch}
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	c.queue = q
	if value, ok := args["x-priority"]; ok {
		n, isInt := integer(value)
		if !isInt {
			return refuse(406, "invalid arg 'x-priority' for %s: {unacceptable_type,%s}", q, typeName(value))
		}
		c.priority = n
	}
	if ms, ok := integer(args["x-consumer-timeout"]); ok && ch.broker().rules.timeoutCancels {
		c.timeout = time.Duration(ms) * time.Millisecond
	}
	if c.tag == "" {
		ch.broker().named++
		c.tag = fmt.Sprintf("amq.ctag-%d", ch.broker().named)
	}
	switch {
	case ch.consumers[c.tag] != nil:
		return refuse(530, "attempt to reuse consumer tag '%s'", c.tag)
	case q.quorum && ch.shared > 0:
		return refuse(540, "%s does not support global qos", q)
	case q.exclusiveConsumer() || c.exclusive && len(q.consumers) > 0:
		return refuse(403, "%s in exclusive use", q)
	}
	ch.consumers[c.tag] = c
	ch.answer(bits&8 != 0, basicConsumeOk, begin(basicConsumeOk).shortstr(c.tag))
	q.join(c)
	return nil
}

// cancel executes basic.cancel. What the consumer holds stays with the channel.
func (ch *channel) cancel(d *decoder) error {
	tag, noWait := d.shortstr(), d.u8()&1 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	ch.answer(noWait, basicCancelOk, begin(basicCancelOk).shortstr(tag))
	if c := ch.consumers[tag]; c != nil {
		delete(ch.consumers, tag)
		c.queue.leave(c)
		c.queue.deleteIfUnused()
	}
	return nil
}

// cancelled ends a consumer from the broker's side, with the notification for those that understand it (RabbitMQ's
// consumer_cancel_notify).
func (c *consumer) cancelled() {
	delete(c.ch.consumers, c.tag)
	if c.ch.conn.can["consumer_cancel_notify"] == true && !c.ch.over() {
		c.ch.sendMethod(basicCancel, begin(basicCancel).shortstr(c.tag).bit(true))
	}
}

// get executes basic.get.
func (ch *channel) get(d *decoder) error {
	d.u16()
	name, noAck := d.shortstr(), d.u8()&1 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	q.used()
	if q.singleActive && q.quorum {
		return refuse(405, "cannot obtain access to locked %s. basic.get operations are not supported by "+
			"%s queues with single active consumer", q, ch.broker().rules.queueKind)
	}
	e := q.take()
	if e == nil {
		ch.sendMethod(basicGetEmpty, begin(basicGetEmpty).shortstr(""))
		return nil
	}
	tag := ch.hold(e, q, nil, noAck)
	m, properties := e.outgoing(ch.broker().rules.getCountsZero)
	ch.sendContent(basicGetOk, begin(basicGetOk).u64(tag).bit(m.Redelivered).
		shortstr(m.Exchange).shortstr(m.RoutingKey).u32(uint32(q.ready())), m, properties)
	return nil
}

// ack executes basic.ack.
func (ch *channel) ack(d *decoder) error {
	tag, multiple := d.u64(), d.u8()&1 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	settled, err := ch.settled(tag, multiple)
	for _, s := range settled {
		s.queue.acked(s)
	}
	return err
}

// reject executes basic.reject.
func (ch *channel) reject(d *decoder) error {
	tag, requeue := d.u64(), d.u8()&1 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	return ch.refused(tag, false, requeue, returnedByReject)
}

// nack executes basic.nack.
func (ch *channel) nack(d *decoder) error {
	tag, bits := d.u64(), d.u8()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	return ch.refused(tag, bits&1 != 0, bits&2 != 0, returnedByNack)
}

func (ch *channel) refused(tag uint64, multiple, requeue bool, why returned) error {
	settled, err := ch.settled(tag, multiple)
	if err != nil {
		return err
	}
	if requeue {
		giveBack(settled, why)
		return nil
	}
	for _, s := range settled {
		s.queue.rejected(s)
	}
	return nil
}

// recover executes basic.recover: all deliveries go back to their queues.
func (ch *channel) recover(d *decoder) error {
	if err := ch.recoverAsync(d); err != nil {
		return err
	}
	ch.sendMethod(basicRecoverOk, begin(basicRecoverOk))
	return nil
}

func (ch *channel) recoverAsync(d *decoder) error {
	requeue := d.u8()&1 != 0
	switch {
	case d.err != nil:
		return refuse(502, "%v", d.err)
	case !requeue:
		return refuse(540, "requeue=false")
	}
	held := live(ch.unacked)
	ch.unacked = nil
	ch.freed(held)
	giveBack(held, returnedByNack)
	return nil
}

// giveBack puts deliveries back into their queues, in the order in which they were delivered.
func giveBack(held []*delivery, why returned) {
	perQueue := map[*queue][]*delivery{}
	var order []*queue
	for _, d := range held {
		if perQueue[d.queue] == nil {
			order = append(order, d.queue)
		}
		perQueue[d.queue] = append(perQueue[d.queue], d)
	}
	for _, q := range order {
		q.giveBack(perQueue[q], why)
	}
}

// timeout is how long a delivery may wait for its acknowledgement: the consumer's own argument, the queue's, or the
// broker's.
func (ch *channel) timeout(q *queue, c *consumer) time.Duration {
	switch {
	case c != nil && c.timeout > 0:
		return c.timeout
	case q.consumerTimeout > 0:
		return q.consumerTimeout
	}
	return ch.broker().cfg.ConsumerTimeout
}

// watchTimeout makes sure that a timer runs for a delivery that is due then.
func (ch *channel) watchTimeout(due time.Time) {
	b := ch.broker()
	if ch.patience != nil {
		if !due.Before(ch.due) {
			return
		}
		b.stop(ch.patience)
	}
	ch.due = due
	ch.patience = b.after(time.Until(due), func() {
		ch.patience = nil
		now := time.Now()
		var next *delivery
		for _, d := range slices.Clone(ch.unacked) {
			switch {
			case d.void:
			case !now.Before(d.until):
				if ch.timedOut(d); ch.over() {
					return
				}
			case next == nil || d.until.Before(next.until):
				next = d
			}
		}
		if next != nil {
			ch.watchTimeout(next.until)
		}
	})
}

// timedOut ends whoever holds a delivery for too long: the consumer, whose messages go back without being counted, or
// the channel.
func (ch *channel) timedOut(d *delivery) {
	b := ch.broker()
	c := d.consumer
	if !b.rules.timeoutCancels || !d.queue.quorum || c == nil {
		ch.refuse(refuse(406, "delivery acknowledgement on channel %d timed out. Timeout value used: %d ms. "+
			"This timeout value can be configured, see consumers doc guide to learn more",
			ch.id, ch.timeout(d.queue, c).Milliseconds()))
		return
	}
	c.cancelled()
	d.queue.leave(c)
	var held []*delivery
	for _, d := range ch.unacked {
		if d.consumer == c && !d.void {
			held = append(held, d)
			d.void = true
		}
	}
	giveBack(held, returnedByTimeout)
}
