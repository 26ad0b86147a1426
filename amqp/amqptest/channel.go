package amqptest

import (
	"cmp"
	"slices"
	"time"
)

// channel is a channel of a connection.
type channel struct {
	conn    *connection
	id      uint16
	closing bool // channel.close was sent; only its answer matters
	nthIn   uint64
	nthOut  uint64
	muted   bool

	// Publishing.

	incoming  *incoming // a message of which frames are missing
	confirm   bool
	published uint64 // publishing number of the newest message
	confirms  confirmer

	// Consuming.

	prefetch  int    // of the next consumer; 0: no limit
	shared    int    // prefetch of all consumers together; 0: no limit
	tag       uint64 // delivery tag of the newest delivery
	unacked   []*delivery
	consumers map[string]*consumer
	declared  string // the last queue, which an empty name stands for
	patience  *timer // for the delivery that is due first
	due       time.Time
}

func newChannel(c *connection, id uint16) *channel {
	ch := &channel{conn: c, id: id, consumers: map[string]*consumer{}}
	ch.confirms = confirmer{ch: ch, sent: map[uint64]bool{}}
	return ch
}

func (ch *channel) broker() *Broker { return ch.conn.broker }

// over reports whether the channel has ended.
func (ch *channel) over() bool { return ch.conn.over(ch) }

// sendMethod sends a method without content.
func (ch *channel) sendMethod(id methodID, p payload) { ch.conn.send(ch, id, p, nil, nil) }

// answer sends a method, unless the client asked for none.
func (ch *channel) answer(noWait bool, id methodID, p payload) {
	if !noWait {
		ch.sendMethod(id, p)
	}
}

// sendContent sends a method with a message.
func (ch *channel) sendContent(id methodID, p payload, m *Message, properties []byte) {
	ch.conn.send(ch, id, p, m, properties)
}

// refuse ends the channel with channel.close.
func (ch *channel) refuse(e *exception) {
	if ch.over() {
		return
	}
	ch.sendMethod(channelClose,
		begin(channelClose).u16(e.code).shortstr(e.text).u16(e.at.class()).u16(e.at.number()))
	ch.closing = true
	ch.end(false)
}

// close executes channel.close.
func (ch *channel) close(*decoder) error {
	ch.end(false)
	ch.sendMethod(channelCloseOk, begin(channelCloseOk))
	delete(ch.conn.channels, ch.id)
	return nil
}

// end gives back what the channel holds, in the order in which it was delivered. lost says that its connection was
// lost.
func (ch *channel) end(lost bool) {
	b := ch.broker()
	b.stop(ch.patience)
	b.stop(ch.confirms.timer)
	ch.incoming = nil
	tags := make([]string, 0, len(ch.consumers))
	for tag := range ch.consumers {
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	held := live(ch.unacked)
	ch.unacked = nil
	why := returnedByClose
	if lost {
		why = returnedByLoss
	}
	// The consumers leave first: what they give back goes to others.
	var left []*queue
	for _, tag := range tags {
		c := ch.consumers[tag]
		c.queue.leave(c)
		left = append(left, c.queue)
	}
	clear(ch.consumers)
	giveBack(held, why)
	for _, q := range left {
		q.deleteIfUnused()
	}
}

// flow executes channel.flow. RabbitMQ doesn't let clients stop their deliveries.
func (ch *channel) flow(d *decoder) error {
	active := d.u8()&1 != 0
	switch {
	case d.err != nil:
		return refuse(502, "%v", d.err)
	case !active:
		return refuse(540, "active=false")
	}
	ch.sendMethod(channelFlowOk, begin(channelFlowOk).bit(true))
	return nil
}

// stirQueues lets the queues look whether the channel's consumers have room.
func (ch *channel) stirQueues() {
	for _, c := range ch.consumers {
		c.queue.stir()
	}
}

// delivery is a message that waits for its acknowledgement.
type delivery struct {
	tag      uint64
	entry    *entry
	queue    *queue
	consumer *consumer // nil after basic.get
	until    time.Time // its acknowledgement is due
	// void says that the message went back when its time was over. RabbitMQ ≥ 4.3 ignores a late acknowledgement.
	void bool
}

// find returns the index of the first unacknowledged delivery whose tag is at least tag.
func (ch *channel) find(tag uint64) (int, bool) {
	return slices.BinarySearchFunc(ch.unacked, tag, func(d *delivery, tag uint64) int { return cmp.Compare(d.tag, tag) })
}

// settled takes deliveries off the list: one, or all up to it, or all if the tag is 0 and multiple.
func (ch *channel) settled(tag uint64, multiple bool) ([]*delivery, error) {
	var out []*delivery
	switch i, found := ch.find(tag); {
	case multiple && tag == 0:
		out, ch.unacked = ch.unacked, nil
	case !found:
		return nil, refuse(406, "unknown delivery tag %d", tag)
	case multiple:
		out, ch.unacked = ch.unacked[:i+1:i+1], ch.unacked[i+1:]
	case i == 0:
		out, ch.unacked = ch.unacked[:1:1], ch.unacked[1:]
	default:
		out = []*delivery{ch.unacked[i]}
		ch.unacked = slices.Delete(ch.unacked, i, i+1)
	}
	out = live(out)
	ch.freed(out)
	return out, nil
}

// live returns those deliveries whose messages didn't go back meanwhile.
func live(all []*delivery) []*delivery {
	if !slices.ContainsFunc(all, (*delivery).isVoid) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), (*delivery).isVoid)
}

func (d *delivery) isVoid() bool { return d.void }

// freed gives consumers their room back.
func (ch *channel) freed(settled []*delivery) {
	for _, d := range settled {
		if d.consumer != nil {
			d.consumer.unacked--
			d.consumer.queue.stir()
		}
	}
	if ch.shared > 0 {
		ch.stirQueues()
	}
}

// incoming is a message that is coming in.
type incoming struct {
	Message
	immediate bool
	hasHeader bool
	size      uint64
	got       uint64
	encoded   []byte
}

// publish executes the method frame of basic.publish.
func (ch *channel) publish(d *decoder) error {
	d.u16()
	in := &incoming{}
	in.Exchange, in.RoutingKey = d.shortstr(), d.shortstr()
	bits := d.u8()
	in.Mandatory, in.immediate = bits&1 != 0, bits&2 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	ch.incoming = in
	return nil
}

// header takes a content header.
func (ch *channel) header(p []byte) error {
	in := ch.incoming
	if in == nil || in.hasHeader {
		return refuse(505, "expected method frame, got non method frame instead")
	}
	d := &decoder{rest: p}
	class, _ := d.u16(), d.u16()
	in.size = d.u64()
	in.encoded = d.rest
	in.Properties = d.properties()
	switch {
	case d.err != nil:
		return refuse(502, "%v", d.err)
	case len(d.rest) > 0:
		return refuse(502, "%d bytes behind the properties", len(d.rest))
	case class != classBasic:
		return refuse(505, "expected content header for class %d, got one for class %d instead", classBasic, class)
	}
	in.hasHeader = true
	return ch.complete()
}

// body takes a content body frame. What is more than a message may have is counted and not kept.
func (ch *channel) body(p []byte) error {
	in := ch.incoming
	if in == nil || !in.hasHeader {
		return refuse(505, "expected content header for class %d, got non content header frame instead", classBasic)
	}
	in.got += uint64(len(p))
	if in.got > in.size {
		return refuse(501, "%d bytes of body, more than the %d announced", in.got, in.size)
	}
	if in.size <= uint64(ch.broker().cfg.MaxMessageBytes) {
		if in.Body == nil && in.got == in.size {
			in.Body = p // in one frame, which is the usual case
		} else {
			in.Body = append(in.Body, p...)
		}
	}
	return ch.complete()
}

// complete publishes the message when its last frame has come.
func (ch *channel) complete() error {
	in := ch.incoming
	if in.got < in.size {
		return nil
	}
	ch.incoming = nil
	err := ch.accept(in)
	if e, ok := err.(*exception); ok {
		e.at = basicPublish
	}
	return err
}

// confirmSelect executes confirm.select.
func (ch *channel) confirmSelect(d *decoder) error {
	noWait := d.u8()&1 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	ch.confirm = true
	ch.answer(noWait, confirmSelectOk, begin(confirmSelectOk))
	return nil
}
