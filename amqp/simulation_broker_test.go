package amqp

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// simBroker is RabbitMQ, as far as a consumer sees it: queues that check messages out to consumers in order, up to their
// prefetch and before they have arrived anywhere, and that take back what a lost one held, in front and in order. The
// world's lock guards it.
type simBroker struct {
	*simulation
	version   serverVersion
	queues    map[string]*simQueue
	sessions  int
	waiting   int // messages in retry queues
	acked     int // messages
	downUntil time.Duration
}

// simQueue is a quorum or a classic queue; with a single active consumer unless they compete.
type simQueue struct {
	name     string
	quorum   bool
	returns  []*simMessage // go first, as in rabbit_fifo
	ready    []*simMessage
	sessions []*simSession // in the order in which they came
}

// simMessage is a message in a queue.
type simMessage struct {
	publishing      amqp091.Publishing
	exchange, key   string
	redelivered     bool
	count, acquired int64
	buried          bool // its copy is in the dead-letter queue, or in a retry queue
}

func (m *simMessage) id() string { return m.publishing.MessageId }

// all returns what is in the queue, with a consumer or not.
func (q *simQueue) all() []*simMessage {
	all := slices.Concat(q.returns, q.ready)
	for _, s := range q.sessions {
		for _, u := range s.unacked {
			all = append(all, u.message)
		}
	}
	return all
}

// pop takes the next message, nil if there is none.
func (q *simQueue) pop() (m *simMessage) {
	for _, from := range []*[]*simMessage{&q.returns, &q.ready} {
		if len(*from) > 0 {
			m, *from = (*from)[0], (*from)[1:]
			return m
		}
	}
	return nil
}

// checkOut assigns messages to consumers.
func (b *simBroker) checkOut(q *simQueue) {
	for {
		var to *simSession // the active one or, of competing ones, who has least
		for _, s := range q.sessions {
			if to == nil || b.competing && len(s.unacked) < len(to.unacked) {
				to = s
			}
		}
		if to == nil || len(to.unacked) == to.config.Prefetch {
			return
		}
		m := q.pop()
		if m == nil {
			return
		}
		m.acquired++
		to.tag++
		to.unacked = append(to.unacked, simUnacked{to.tag, m})
		to.inflight = append(to.inflight, to.delivery(to.tag, m))
		to.poke()
	}
}

// publish puts a message into the queue of the name.
func (b *simBroker) publish(exchange, name string, p amqp091.Publishing) {
	q := b.queues[name]
	q.ready = append(q.ready, &simMessage{publishing: p, exchange: exchange, key: name})
	b.checkOut(q)
}

// drop takes back what a session held: the broker has noticed its end.
func (b *simBroker) drop(s *simSession) {
	if s.gone {
		return
	}
	s.gone = true
	q := s.queue
	if q == nil {
		return // it doesn't even consume yet, and won't
	}
	q.sessions = slices.DeleteFunc(q.sessions, func(o *simSession) bool { return o == s })
	for _, u := range s.unacked {
		u.message.redelivered = true
		u.message.count++ // all versions count what a lost channel held
		q.returns = append(q.returns, u.message)
	}
	s.unacked, s.inflight = nil, nil
	b.checkOut(q)
}

type simUnacked struct {
	tag     uint64
	message *simMessage
}

// simSession is one connection's worth of consuming: an amqpSession without its frames, with the real acker. The fields
// after queue are the broker's.
type simSession struct {
	process *simProcess
	config  ConsumerConfig
	number  int
	inflow  chan *message
	acks    *acker
	ctx     context.Context
	end     context.CancelCauseFunc
	arrived chan struct{} // something may be in flight
	all     sync.WaitGroup

	queue    *simQueue
	gone     bool
	tag      uint64
	unacked  []simUnacked
	inflight []amqp091.Delivery
}

var _ consumerSession = (*simSession)(nil)

// open is a Consumer's way to its sessions.
func (p *simProcess) open(ctx context.Context, config ConsumerConfig) (consumerSession, error) {
	s := &simSession{process: p, config: config,
		inflow: make(chan *message, config.Prefetch), arrived: make(chan struct{}, 1)}
	s.ctx, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	var channel simChannel = s
	if p.plant.channel != nil {
		channel = p.plant.channel(channel)
	}
	s.acks = &acker{channel: channel, fail: s.end, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	b := p.broker
	_, err := do(ctx, p, "consume", config.Queue, func() (struct{}, error) {
		if s.gone || b.Now() < b.downUntil {
			return struct{}{}, errSimDown
		}
		b.sessions++
		s.number = b.sessions
		s.queue = b.queues[config.Queue]
		s.queue.sessions = append(s.queue.sessions, s)
		b.checkOut(s.queue)
		return struct{}{}, nil
	})
	if err != nil {
		s.end(err)
		s.lost()
		return nil, err
	}
	p.Look(func() { p.session = s })
	s.all.Go(func() { s.acks.run(s.ctx) })
	s.all.Go(s.read)
	return s, nil
}

// simChannel is what an acker needs.
type simChannel interface {
	Ack(tag uint64, multiple bool) error
}

func (s *simSession) poke() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// lost lets the broker notice, some time, that the session has ended.
func (s *simSession) lost() {
	b := s.process.broker
	b.later("broker", "notices the end of a session of", s.process.actor.Name(), func() { b.drop(s) })
}

func (s *simSession) delivery(tag uint64, m *simMessage) amqp091.Delivery {
	headers := amqp091.Table{}
	maps.Copy(headers, m.publishing.Headers)
	if s.queue.quorum {
		if m.count > 0 {
			headers[headerDeliveryCount] = m.count
		}
		if b := s.process.broker; b.version.atLeast(4, 3) && m.acquired > 1 {
			headers[headerAcquiredCount] = m.acquired - 1
		}
	}
	p := m.publishing
	return amqp091.Delivery{
		Headers: headers, MessageId: p.MessageId, Type: p.Type, AppId: p.AppId, CorrelationId: p.CorrelationId,
		ContentType: p.ContentType, DeliveryMode: p.DeliveryMode, Timestamp: p.Timestamp, Body: p.Body,
		Exchange: m.exchange, RoutingKey: m.key, DeliveryTag: tag, Redelivered: m.redelivered,
	}
}

// read brings what is in flight to the process, one by one.
func (s *simSession) read() {
	defer close(s.inflow)
	for {
		select {
		case <-s.arrived:
		case <-s.ctx.Done():
			return
		}
		for {
			next := ""
			s.process.Look(func() {
				if len(s.inflight) > 0 {
					next = s.inflight[0].MessageId
				}
			})
			if next == "" {
				break
			}
			d, err := do(s.ctx, s.process, "receive", next, func() (d amqp091.Delivery, err error) {
				if len(s.inflight) == 0 {
					return d, errSimCut // the broker has closed the connection
				}
				d, s.inflight = s.inflight[0], s.inflight[1:]
				return d, nil
			})
			if err != nil {
				s.end(err)
				s.lost()
				return
			}
			s.deliver(d)
		}
	}
}

func (s *simSession) deliver(d amqp091.Delivery) {
	s.acks.delivered(d.DeliveryTag)
	m := newMessage(s, d)
	m.source = s.queue.name
	if s.process.plant.message != nil {
		s.process.plant.message(m)
	}
	s.inflow <- m // it has room for Prefetch
}

func (s *simSession) messages() <-chan *message { return s.inflow }
func (s *simSession) done() <-chan struct{}     { return s.ctx.Done() }
func (s *simSession) err() error                { return context.Cause(s.ctx) }
func (s *simSession) ack(messages ...*message)  { s.acks.finish(messages) }

// Ack is basic.ack. The broker checks what is acknowledged.
func (s *simSession) Ack(tag uint64, multiple bool) error {
	b, what := s.process.broker, "acknowledges"
	if multiple {
		what = "acknowledges all up to"
	}
	_, err := do(s.ctx, s.process, what, strconv.FormatUint(tag, 10), func() (struct{}, error) {
		if s.gone {
			return struct{}{}, nil // a socket whose other end is gone takes what is written, for a while
		}
		isAcked := func(u simUnacked) bool { return u.tag == tag || multiple && u.tag < tag }
		if !slices.ContainsFunc(s.unacked, func(u simUnacked) bool { return u.tag == tag }) {
			b.FailIn("%s acknowledged the delivery tag %d twice, or before it was delivered", s.process.actor.Name(), tag)
		}
		for _, u := range s.unacked {
			if isAcked(u) {
				b.Detail("%s", u.message.id())
				b.acked++
				b.checkAck(s, u.message)
			}
		}
		s.unacked = slices.DeleteFunc(s.unacked, isAcked)
		b.checkOut(s.queue)
		return struct{}{}, nil
	})
	if err != nil {
		s.lost()
	}
	return err
}

func (s *simSession) bury(l letter) error {
	publish := func() error { return s.publish(l) }
	if s.process.plant.letters != nil {
		return s.process.plant.letters(publish)
	}
	return publish()
}

// publish publishes the letter where the consumer's configuration says. That is on another connection than the session's.
func (s *simSession) publish(l letter) error {
	b, name, id := s.process.broker, s.config.letterQueue(l), l.delivery.MessageId
	_, err := do(s.ctx, s.process, "publishes to "+name, id, func() (struct{}, error) {
		b.Detail("%s", l.reason)
		parcel := s.config.parcel(l, time.Now(), 0)
		p := parcel.publishing
		b.checkLetter(s, l, p)
		for _, m := range s.queue.all() {
			if m.id() == id {
				m.buried = true
			}
		}
		b.events[id].givenUp[s.process.consumer] = l.reason
		delay, again := s.config.retryAfter(l)
		if !again {
			b.publish("", parcel.key, p)
			return struct{}{}, nil
		}
		b.waiting++
		b.events[id].returned[s.process.consumer] = true
		b.after(delay, "broker", "brings back from "+parcel.key, id, func() {
			b.waiting--
			b.publish("", s.config.Queue, p)
		})
		return struct{}{}, nil
	})
	return err
}

func (s *simSession) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	s.acks.flush(ctx)
	_, _ = do(ctx, s.process, "closes its connection to", s.config.Queue, func() (struct{}, error) {
		s.process.broker.drop(s)
		return struct{}{}, nil
	})
	s.lost()
	s.end(errSessionClosed)
	s.all.Wait()
}

// checkAck: a message may be acknowledged when its event's effects are committed, when its copy is where it can be
// found, or if nobody wants it.
func (b *simBroker) checkAck(s *simSession, m *simMessage) {
	switch e := b.events[m.id()]; {
	case m.buried:
	case b.db.effects[simRecord{s.process.consumer, m.id()}] > 0:
	case e.kind == simUnwanted && s.config.Unhandled == AckUnhandled:
	default:
		b.FailIn("%s acknowledged event %s before its effects were committed", s.process.actor.Name(), m.id())
	}
}

// checkLetter: only an event that has deserved it goes to a dead-letter or a retry queue.
func (b *simBroker) checkLetter(s *simSession, l letter, p amqp091.Publishing) {
	id := l.delivery.MessageId
	e, r := b.events[id], simRecord{s.process.consumer, id}
	_, again := s.config.retryAfter(l)
	died := l.reason == KillsProcess && b.db.deaths(r) >= s.config.MaxUnfinished
	switch deserved := e.kind.reason(); {
	case l.reason != deserved && !died:
		b.FailIn("%s gave up event %s for %q, it deserves %q: %w", s.process.actor.Name(), id, l.reason, deserved, l.err)
	case e.kind == simLate && !again && !died:
		b.FailIn("%s gave up event %s, which would have succeeded the next time", s.process.actor.Name(), id)
	case b.db.effects[r] > 0 && !died && e.kind != simLate:
		b.FailIn("%s gave up event %s, which has taken effect", s.process.actor.Name(), id)
	case !bytes.Equal(p.Body, e.body):
		b.FailIn("%s changed event %s on its way to the dead-letter queue", s.process.actor.Name(), id)
	case !again && p.Headers[HeaderReason] != string(l.reason):
		b.FailIn("the dead letter of event %s doesn't say why it is one: %v", id, p.Headers)
	}
}
