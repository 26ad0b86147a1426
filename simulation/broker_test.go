package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/relay"
)

// cause is why an event can't be published, until it is mended.
type cause uint8

const (
	healthy    cause = iota
	tooLarge         // it is refused
	unbound          // no queue is bound for it
	forbidden        // the broker ends the session over it
	impossible       // so it does, and says that the event is to blame
)

// broker is RabbitMQ as a relay sees it. Its fields are changed while an effect takes place, or under World.Look.
type broker struct {
	w      *sim.World
	db     *database // to know events by their numbers
	ledger *ledger

	down       bool
	starts     int           // connections of before are dead
	blocked    string        // why nothing may be sent
	changed    chan struct{} // closed when that changes
	mended     bool          // no event has a cause any more
	unbound    bool          // no event has a queue
	noExchange bool          // every event ends the session, until one is opened
	rejects    float64       // of the events
	sessions   []*session
	opened     map[string]int // sessions by actor
}

func newBroker(w *sim.World, l *ledger) *broker {
	return &broker{w: w, ledger: l, db: l.db, changed: make(chan struct{}), opened: map[string]int{}}
}

// stop ends every session and lets none be opened.
func (b *broker) stop() {
	b.down = true
	b.starts++
	for _, s := range b.sessions {
		s.end(errors.New("the broker was stopped"))
	}
	b.sessions = nil
}

func (b *broker) block(reason string) {
	b.blocked = reason
	close(b.changed)
	b.changed = make(chan struct{})
}

// publisher is a process's way to the broker.
type publisher struct {
	*broker
	actor *sim.Actor
	plant plant
}

func (p *publisher) Open(ctx context.Context) (relay.Session, error) {
	s, err := sim.Do(ctx, p.actor, "connect", "", func() (*session, error) {
		if p.down {
			return nil, errors.New("connection refused")
		}
		p.noExchange = false // it is declared when a session is opened
		p.opened[p.actor.Name()]++
		name := fmt.Sprint(p.actor.Name(), " session ", p.opened[p.actor.Name()])
		s := &session{
			publisher: p, name: name, server: p.starts, rnd: p.w.Rand(name),
			in: make(chan message, window), pending: make(chan confirm, window), outcomes: make(chan []relay.Outcome),
			ended: make(chan struct{}), closing: make(chan struct{}), done: make(chan struct{}),
		}
		s.ctx, s.cancel = context.WithCancelCause(context.Background())
		p.sessions = append(p.sessions, s)
		return s, nil
	})
	if err != nil {
		return nil, err // a session that the caller doesn't hear of has done nothing yet
	}
	go s.serve()
	go s.confirm()
	return s, nil
}

// Window is how many events may be without an outcome.
func (p *publisher) Window() int { return window }

const window = 16

type message struct {
	tag   uint64
	entry relay.Entry
}

type confirm struct {
	relay.Outcome
	at time.Duration
}

// session is a connection. One goroutine takes what is sent to the broker, in order; another brings the outcomes back.
type session struct {
	*publisher
	name   string
	server int
	rnd    *rand.Rand // of serve

	in       chan message
	pending  chan confirm
	outcomes chan []relay.Outcome
	closing  chan struct{} // in good order
	ended    chan struct{} // at once
	done     chan struct{} // outcomes is closed
	closed   sync.Once

	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	over   sync.Once
	err    error // set before ended is closed
}

func (s *session) end(err error) {
	s.over.Do(func() {
		s.err = err
		close(s.ended)
		s.cancel(err)
	})
}

// serve takes messages to the broker, one after the other.
func (s *session) serve() {
	defer func() {
		if s.plant.confirmsAtOnce { // Send may be using pending
			s.end(nil)
		} else {
			close(s.pending)
		}
	}()
	var last time.Duration
	for {
		var m message
		select {
		case <-s.ended:
			return
		case <-s.actor.Killed():
			s.end(sim.ErrKilled)
			return
		case m = <-s.in:
		default:
			select {
			case <-s.ended:
				return
			case <-s.actor.Killed():
				s.end(sim.ErrKilled)
				return
			case <-s.closing:
				return
			case m = <-s.in:
			}
		}
		for blocked, _, changed := s.Blocked(); blocked; blocked, _, changed = s.Blocked() {
			select { // it stays in the socket
			case <-changed:
			case <-s.ended:
				return
			case <-s.actor.Killed():
				s.end(sim.ErrKilled)
				return
			}
		}
		status, err := sim.Do(s.ctx, s.actor, "publish", m.entry.Event.ID, func() (relay.Status, error) { return s.take(&m.entry) })
		if err != nil {
			s.end(err)
			return
		}
		// A confirm may come before those of earlier messages; the publisher tells them in the order of sending.
		delay := time.Duration(s.rnd.Float64() * float64(3*time.Millisecond))
		if s.rnd.IntN(50) == 0 {
			delay = time.Duration(s.rnd.Float64() * float64(500*time.Millisecond))
		}
		last = max(last, s.w.Now()+delay)
		if !s.plant.confirmsAtOnce {
			s.pending <- confirm{relay.Outcome{Tag: m.tag, Status: status, Reason: "said the broker"}, last}
		}
	}
}

// take is what the broker does with a message.
func (s *session) take(e *relay.Entry) (relay.Status, error) {
	if s.down || s.server != s.starts {
		return 0, errors.New("the connection was lost")
	}
	r := s.ledger.find(e)
	if s.noExchange {
		return 0, fmt.Errorf("%w: 404 no exchange", relay.ErrRefused)
	}
	if !s.mended {
		r.refused = r.refused || r.cause != healthy
		switch r.cause {
		case tooLarge:
			return relay.Refused, nil
		case forbidden:
			return 0, fmt.Errorf("%w: 403 access refused", relay.ErrRefused)
		case impossible:
			return 0, fmt.Errorf("%w: %w: 406 precondition failed", relay.ErrRefused, relay.ErrUnpublishable)
		}
		if s.unbound || r.cause == unbound {
			return relay.Unroutable, nil
		}
		if s.rejects > 0 && s.rnd.Float64() < s.rejects {
			return relay.Rejected, nil
		}
	}
	s.ledger.handed(s.name, e, r)
	s.ledger.published(s.name, r)
	return relay.Confirmed, nil
}

// confirm brings outcomes back.
func (s *session) confirm() {
	defer close(s.done)
	defer close(s.outcomes)
	for {
		var c confirm
		var ok bool
		select {
		case c, ok = <-s.pending:
		case <-s.ended:
			return
		}
		if !ok {
			return
		}
		time.Sleep(c.at - s.w.Now())
		batch := []relay.Outcome{c.Outcome}
		for more := true; more && len(s.pending) > 0; {
			c = <-s.pending
			if more = c.at <= s.w.Now()+time.Millisecond; more {
				batch = append(batch, c.Outcome)
				continue
			}
			if !s.deliver(batch) {
				return
			}
			time.Sleep(c.at - s.w.Now())
			batch, more = []relay.Outcome{c.Outcome}, true
		}
		if !s.deliver(batch) {
			return
		}
	}
}

func (s *session) deliver(batch []relay.Outcome) bool {
	select {
	case <-s.ended:
		return false
	default:
	}
	select {
	case s.outcomes <- batch:
		return true
	case <-s.ended:
		return false
	}
}

func (s *session) Send(_ context.Context, tag uint64, e *relay.Entry) error {
	select {
	case <-s.ended:
		return s.Err()
	default:
	}
	if s.plant.confirmsAtOnce {
		select {
		case s.pending <- confirm{relay.Outcome{Tag: tag, Status: relay.Confirmed}, s.w.Now()}:
		case <-s.ended:
			return s.Err()
		}
	}
	s.in <- message{tag, *e}
	return nil
}

func (s *session) Outcomes() <-chan []relay.Outcome { return s.outcomes }

func (s *session) Blocked() (blocked bool, reason string, changed <-chan struct{}) {
	s.w.Look(func() { blocked, reason, changed = s.blocked != "", s.blocked, s.changed })
	return blocked, reason, changed
}

func (s *session) Err() error {
	select {
	case <-s.ended:
		return s.err
	default:
		return nil
	}
}

func (s *session) Close(ctx context.Context) error {
	s.closed.Do(func() { close(s.closing) })
	select {
	case <-s.done:
	case <-ctx.Done():
		s.end(ctx.Err())
		<-s.done
	}
	return nil
}
