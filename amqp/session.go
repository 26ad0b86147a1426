package amqp

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// closeGrace is how long a session that is over may take to say good-bye to the broker before its socket is cut.
const closeGrace = time.Second

// session is a [relay.Session]: one connection with one confirm channel. Three goroutines share its work:
//
//	write    publishes what Send put into the window; it alone uses the channel
//	collect  waits for the confirm of the window's head, settles what is done, reports outcomes, and cleans up
//	watch    listens to the library: closed, blocked, unblocked
//
// Send never waits for the socket, only for room in the window, and outcomes never wait for their receiver: the
// caller of Send may be the receiver of Outcomes.
type session struct {
	link    *link
	channel *amqp091.Channel
	window  *window
	router  *router
	returns chan amqp091.Return // collect's: messages that no queue wanted
	cfg     PublisherConfig

	rejections rejections // collect's

	outcomes chan []relay.Outcome // holds one batch, which grows until it is fetched

	queued    signal // Send → write: there is something to publish
	confirms  signal // write → collect: there is something to wait for
	room      signal // collect → Send: the window has room
	gate      atomic.Pointer[gate]
	closing   chan struct{} // closed by Close: end when the window is empty
	closeOnce sync.Once

	dead    chan struct{} // closed by end
	err     error         // why; written before dead is closed
	endOnce sync.Once
	running sync.WaitGroup // write and watch
	gone    chan struct{}  // closed when nothing of the session runs any more
}

var _ relay.Session = (*session)(nil)

// gate is whether the broker wants messages. A change replaces it.
type gate struct {
	blocked bool
	reason  string
	changed chan struct{} // closed when it is replaced
}

// signal wakes one goroutine that looks for work by itself: any number of set is one wake-up.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

func newSession(p *Publisher, l *link, ch *amqp091.Channel) *session {
	s := &session{
		link: l, channel: ch, router: p.router, cfg: p.cfg,
		window: newWindow(p.cfg.Window), rejections: newRejections(&p.patience),
		// A message without an outcome has at most one return waiting here, so it is never full. A full one would be
		// skipped by the library, and an unroutable event would pass for confirmed.
		returns:  ch.NotifyReturn(make(chan amqp091.Return, p.cfg.Window+1)),
		outcomes: make(chan []relay.Outcome, 1),
		queued:   newSignal(), confirms: newSignal(), room: newSignal(),
		closing: make(chan struct{}), dead: make(chan struct{}), gone: make(chan struct{}),
	}
	s.gate.Store(&gate{changed: make(chan struct{})})
	s.running.Add(2)
	return s
}

// Send puts an event into the window. Where the window is full it waits, until there is room or ctx ends; the session
// lasts then, and the event wasn't sent.
func (s *session) Send(ctx context.Context, tag uint64, entry *relay.Entry) error {
	for {
		select {
		case <-s.dead:
			return s.err
		case <-s.closing:
			return errClosed
		default:
		}
		if s.window.push(tag, &entry.Event) {
			s.queued.set()
			return nil
		}
		select {
		case <-s.room:
		case <-s.dead:
		case <-s.closing:
		case <-ctx.Done():
			return fmt.Errorf("amqp: event %s wasn't sent, since the window of %d events is full: %w",
				entry.Event.ID, s.cfg.Window, context.Cause(ctx))
		}
	}
}

func (s *session) Outcomes() <-chan []relay.Outcome { return s.outcomes }

func (s *session) Blocked() (blocked bool, reason string, changed <-chan struct{}) {
	g := s.gate.Load()
	return g.blocked, g.reason, g.changed
}

func (s *session) Err() error {
	select {
	case <-s.dead:
		return s.err
	default:
		return nil
	}
}

// Close waits for the outcomes of all sent events until ctx ends, then at most about closeGrace for an orderly end.
// What Outcomes still holds can be read afterwards. An error says why outcomes are missing, or why the session had
// ended before.
func (s *session) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { close(s.closing) })
	select {
	case <-s.gone:
	case <-ctx.Done():
		s.end(fmt.Errorf("amqp: the session was closed before every event had its outcome: %w", context.Cause(ctx)))
		// collect gives the library closeGrace, and link.close cutGrace more after it cut the socket. If the library
		// still holds a goroutine then, it isn't waited for.
		timer := time.NewTimer(closeGrace + 2*cutGrace)
		defer timer.Stop()
		select {
		case <-s.gone:
		case <-timer.C:
		}
	}
	if err := s.Err(); err != errClosed {
		return err
	}
	return nil
}

// end ends the session. The first reason counts.
func (s *session) end(why error) {
	s.endOnce.Do(func() {
		s.err = why
		close(s.dead)
	})
}

// write publishes the window's events in order.
func (s *session) write() {
	defer s.running.Done()
	f := formatter{format: s.cfg.Format, omitPartitionKey: s.cfg.OmitPartitionKey}
	for {
		// Blocked: the broker doesn't read. What is written nevertheless would fill the socket, and make
		// duplicates if the connection is lost.
		if g := s.gate.Load(); g.blocked {
			select {
			case <-g.changed:
			case <-s.dead:
				return
			}
			continue
		}
		next := s.window.unpublished()
		if next == nil {
			select {
			case <-s.queued:
			case <-s.dead:
				return
			}
			continue
		}
		if err := s.publish(&f, next); err != nil {
			s.failed(err)
			return
		}
		s.window.published()
		s.confirms.set()
	}
}

// publish puts one event on the wire, or notes why it never can be. An error means that the channel is of no use any
// more.
func (s *session) publish(f *formatter, fl *flight) error {
	defer func() { fl.event = surepost.Event{} }()
	msg, err := f.publishing(&fl.event)
	if err != nil {
		fl.refused = err.Error()
		return nil
	}
	exchange, key := s.router.route(&fl.event)
	if fl.refused = s.tooLarge(key, &msg); fl.refused != "" {
		return nil
	}
	const mandatory, immediate = true, false // RabbitMQ knows no immediate
	fl.confirm, err = s.channel.PublishWithDeferredConfirm(exchange, key, mandatory, immediate, msg)
	return err
}

// failed ends the session after an error of publish. That only says that something is closed: why is about to be told
// to watch, and must not be forestalled, since it decides whether a message is to blame.
func (s *session) failed(err error) {
	timer := time.NewTimer(cutGrace)
	defer timer.Stop()
	select {
	case <-s.dead:
	case <-timer.C:
		s.end(s.lost(err))
	}
}

// tooLarge checks what the broker would end the session over, and returns the reason.
func (s *session) tooLarge(key string, msg *amqp091.Publishing) string {
	if len(key) > maxShortString {
		return fmt.Sprintf("its routing key would be %d bytes long, AMQP carries %d: "+
			"shorten the event's fields or the key's template (it begins with %.40q)",
			len(key), maxShortString, key)
	}
	if len(msg.Body) > s.cfg.MaxMessageBytes {
		return fmt.Sprintf("its message is %d bytes long, the limit is %d (PublisherConfig.MaxMessageBytes): "+
			"store the document elsewhere and send its address, or raise the limit here and at the broker (max_message_size)",
			len(msg.Body), s.cfg.MaxMessageBytes)
	}
	if n, most := headerFrameBytes(msg), s.link.Config.FrameSize; most > 0 && n > most {
		return fmt.Sprintf("its headers and properties make a frame of %d bytes, the broker takes %d (frame_max): "+
			"move facts from the headers into the data", n, most)
	}
	return ""
}

// watch passes on what the library tells until the library has closed all of the channels, which it does when the
// connection is over.
func (s *session) watch(connection, channel <-chan *amqp091.Error, blockings <-chan amqp091.Blocking) {
	defer s.running.Done()
	for connection != nil || channel != nil || blockings != nil {
		select {
		case b, ok := <-blockings:
			if !ok {
				blockings = nil
				continue
			}
			s.setBlocked(b)
		case e, ok := <-connection:
			if !ok {
				connection = nil
				s.end(s.connectionEnded(nil))
				continue
			}
			s.end(s.connectionEnded(e))
		case e, ok := <-channel:
			switch {
			case !ok:
				channel = nil
				s.end(s.connectionEnded(nil))
			case s.link.IsClosed(): // the library tells the channels of a connection's end too
				s.end(s.connectionEnded(e))
			default:
				s.end(s.channelEnded(e))
			}
		}
	}
}

func (s *session) setBlocked(b amqp091.Blocking) {
	s.link.guard.pauseDeadline(b.Active)
	before := s.gate.Load()
	s.gate.Store(&gate{blocked: b.Active, reason: b.Reason, changed: make(chan struct{})})
	close(before.changed)
	if b.Active {
		s.cfg.Logger.Warn("RabbitMQ takes no messages for now", "node", s.link.node.address(), "reason", b.Reason)
	} else {
		s.cfg.Logger.Info("RabbitMQ takes messages again", "node", s.link.node.address())
	}
}

// collect settles the window from its head until the session ends.
func (s *session) collect() {
	defer s.finish()
	timer := time.NewTimer(s.cfg.ConfirmTimeout)
	timer.Stop()
	var (
		timing  uint64 // the flight that the timer runs for, + 1
		closing = s.closing
	)
	for {
		if known := s.settle(); !known {
			<-s.dead // watch is about to say why
			return
		}
		if closing == nil && s.window.empty() {
			s.end(errClosed)
		}
		if s.Err() != nil {
			return
		}
		var (
			g            = s.gate.Load()
			number, head = s.window.first()
			confirm      <-chan struct{}
			confirms     = s.confirms
		)
		if head != nil && head.done() {
			continue // it came in since settle
		}
		if head != nil {
			confirm, confirms = head.confirm.Done(), nil
		}
		switch {
		case head == nil || g.blocked:
			timer.Stop()
			timing = 0
		case timing != number+1:
			timer.Reset(s.cfg.ConfirmTimeout)
			timing = number + 1
		}
		select {
		case <-confirm:
		case <-confirms:
		case <-g.changed:
		case <-closing:
			closing = nil
		case <-timer.C:
			s.end(&confirmTimeoutError{s.link.node.address(), head.id, s.cfg.ConfirmTimeout})
		case <-s.dead:
		}
	}
}

// settle takes the flights that are done out of the window, up to the first whose outcome is unknown, and reports
// their outcomes. It returns false if it met an unknown one: the session is over.
func (s *session) settle() (known bool) {
	first, n := s.window.finished()
	if n == 0 {
		return true
	}
	// Returns are read after the confirms were seen, never before: the library passes on a message's return before
	// its confirm, so that a return that belongs to any of the n is here by now. The other way round some would be
	// missed.
	s.markReturned()
	batch := make([]relay.Outcome, 0, n)
	var stuck error
	for i := range n {
		f := s.window.at(first + i)
		o, known := s.outcome(f)
		if !known {
			break
		}
		batch = append(batch, o)
		switch o.Status {
		case relay.Confirmed:
			s.rejections.confirmed(f.id)
		case relay.Rejected:
			if err := s.rejections.rejected(f.id, time.Now()); stuck == nil {
				stuck = err
			}
		}
	}
	s.window.settled(uint64(len(batch)))
	s.room.set()
	s.report(batch)
	if stuck != nil {
		s.end(stuck)
	}
	return len(batch) == int(n)
}

// outcome tells what became of a flight that is done.
func (s *session) outcome(f *flight) (o relay.Outcome, known bool) {
	switch {
	case f.confirm == nil:
		return relay.Outcome{Tag: f.tag, Status: relay.Refused, Reason: f.refused}, true
	case !f.confirm.Acked() && s.channel.IsClosed():
		// The library says "not acked" for a nack and for a channel that was closed; it marks the channel closed
		// first.
		return relay.Outcome{}, false
	case f.returned != "":
		return relay.Outcome{Tag: f.tag, Status: relay.Unroutable, Reason: f.returned}, true
	case !f.confirm.Acked():
		return relay.Outcome{Tag: f.tag, Status: relay.Rejected, Reason: nackReason}, true
	}
	return relay.Outcome{Tag: f.tag, Status: relay.Confirmed}, true
}

const nackReason = "the broker answered with a nack: a queue is full (x-overflow reject-publish) or can't take it for now"

// markReturned marks the flights of all messages that were returned so far.
func (s *session) markReturned() {
	for {
		select {
		case r, ok := <-s.returns:
			if !ok {
				s.returns = nil // closed with the channel
				return
			}
			s.window.markReturned(r.MessageId, fmt.Sprintf("no queue is bound to exchange %q for routing key %q (%d %s)",
				r.Exchange, r.RoutingKey, r.ReplyCode, r.ReplyText))
		default:
			return
		}
	}
}

// report puts the batch where Outcomes fetches it. It never waits: what wasn't fetched yet is taken back and grows.
func (s *session) report(batch []relay.Outcome) {
	if len(batch) == 0 {
		return
	}
	select {
	case before := <-s.outcomes:
		batch = append(before, batch...)
	default:
	}
	s.outcomes <- batch // has room: only this goroutine sends
}

// finish closes the connection, reports what was confirmed until then, and waits for the other goroutines.
func (s *session) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	s.link.close(ctx) // how well it closed doesn't matter: the reason for the end is known
	s.settle()
	close(s.outcomes)
	s.running.Wait()
	close(s.gone)
}
