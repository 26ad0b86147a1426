package amqptest

import (
	"strconv"
	"time"
)

// accept executes a complete basic.publish: into the queues, a basic.return if it is mandatory and finds none, and
// then the confirm, in this order.
func (ch *channel) accept(in *incoming) error {
	m := &in.Message
	if ch.confirm {
		m.Number = ch.published + 1
	}
	before, after := ch.conn.strikeIncoming(ch, basicPublish, nil, m)
	before.apply(ch.conn, ch)
	if ch.over() {
		return nil
	}
	exchange, err := ch.check(in)
	if err != nil {
		return err
	}
	if ch.confirm {
		ch.published++
	}
	v := before.merge(after)
	s := &stored{Message: *m, encoded: in.encoded}
	s.Mandatory, s.Number = false, 0
	if ch.broker().rules.deathsFromHeaders {
		s.deaths = deathsOf(m.Headers)
	}
	o := outcome{number: m.Number, ack: !v.nackStored, message: s}
	s.unconfirmed = ch.confirm
	ch.muted = after.final
	switch {
	case v.nack:
		o.ack, o.message = false, nil
	case v.unroutable:
		ch.giveBackUnroutable(m, in.encoded)
	default:
		queues := ch.conn.vhost.route(exchange, m)
		if len(queues) == 0 {
			ch.giveBackUnroutable(m, in.encoded)
		}
		for _, q := range queues {
			if !q.publish(s) {
				o.ack = false
			}
		}
	}
	if ch.confirm && !v.never && !after.final {
		ch.settle(o, v)
	}
	ch.muted = false
	after.apply(ch.conn, ch)
	return nil
}

// settle sends the confirm, now or when the faults let it.
func (ch *channel) settle(o outcome, v verdict) {
	now := func() {
		if !ch.over() {
			ch.confirms.settle(o)
		}
	}
	later := now
	if v.late > 0 {
		later = func() { ch.broker().after(v.late, now) }
	}
	if v.gate != nil {
		open := v.gate.pass(func() {
			ch.broker().mu.Lock()
			defer ch.broker().unlock()
			later()
		})
		if !open {
			return
		}
	}
	later()
}

// check says what is wrong with a message, in RabbitMQ's order, and finds its exchange (rabbit_channel,
// handle_method basic.publish).
func (ch *channel) check(in *incoming) (*exchange, error) {
	if limit := ch.broker().cfg.MaxMessageBytes; in.size > uint64(limit) {
		return nil, refuse(406, "message size %d is larger than configured max size %d", in.size, limit)
	}
	v := ch.conn.vhost
	x := v.exchanges[in.Exchange]
	switch {
	case in.immediate:
		return nil, refuse(540, "immediate=true")
	case x == nil:
		return nil, v.noExchange(in.Exchange)
	case x.internal:
		return nil, refuse(403, "cannot publish to internal %s", x)
	case in.UserID != "" && in.UserID != ch.conn.user:
		return nil, refuse(406, "user_id property set to '%s' but authenticated user was '%s'", in.UserID, ch.conn.user)
	}
	if _, err := expiration(&in.Message); err != nil {
		return nil, err
	}
	return x, nil
}

// expiration returns the message's own time to live, negative if it has none.
func expiration(m *Message) (time.Duration, error) {
	if m.Expiration == "" {
		return -1, nil
	}
	ms, err := strconv.ParseUint(m.Expiration, 10, 32)
	if err != nil {
		return 0, refuse(406, "invalid expiration '%s': not a number of milliseconds", m.Expiration)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// giveBackUnroutable returns a mandatory message that found no queue.
func (ch *channel) giveBackUnroutable(m *Message, encoded []byte) {
	if m.Mandatory {
		ch.sendContent(basicReturn,
			begin(basicReturn).u16(312).shortstr(codeNames[312]).shortstr(m.Exchange).shortstr(m.RoutingKey), m, encoded)
	}
}
