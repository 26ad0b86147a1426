package relaytest

import (
	"context"
	"fmt"
	"sync"

	"github.com/surepost/surepost/relay"
)

// session is a relay.Session: a queue, and one goroutine that does with each event in it what its fate is.
type session struct {
	publisher *Publisher

	mu       sync.Mutex
	queue    []sent
	open     int // sent, and without an outcome
	silent   bool
	closing  bool
	err      error
	reported int                  // outcomes
	takenIn  int                  // of them: what awaitTakenIn waits for
	news     chan struct{}        // closed when takenIn grows
	outcomes chan []relay.Outcome // holds one batch, which grows until it is fetched

	queued  chan struct{} // wakes serve
	drained chan struct{} // closed when closing and nothing is open any more
	ended   chan struct{}
}

type sent struct {
	tag   uint64
	entry relay.Entry
}

// Send implements relay.Session. It never waits.
func (s *session) Send(_ context.Context, tag uint64, entry *relay.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case s.closing:
		return errClosed
	}
	s.queue = append(s.queue, sent{tag, *entry})
	s.open++
	select {
	case s.queued <- struct{}{}:
	default:
	}
	return nil
}

// Outcomes implements relay.Session.
func (s *session) Outcomes() <-chan []relay.Outcome { return s.outcomes }

// Blocked implements relay.Session.
func (s *session) Blocked() (blocked bool, reason string, changed <-chan struct{}) {
	s.noteTakenIn()
	s.publisher.mu.Lock()
	defer s.publisher.mu.Unlock()
	g := s.publisher.gate
	return g.blocked, g.reason, g.changed
}

// noteTakenIn notes that the relay has taken in all outcomes that it received: it asks for Blocked each time before it waits
// for outcomes, in the goroutine that receives them.
func (s *session) noteTakenIn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.outcomes) == 0 && s.takenIn < s.reported {
		s.takenIn = s.reported
		close(s.news)
		s.news = make(chan struct{})
	}
}

// reportedSoFar returns how many outcomes the session has reported.
func (s *session) reportedSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reported
}

// awaitTakenIn waits until the relay has taken in the first n outcomes, or the session has ended.
func (s *session) awaitTakenIn(n int) {
	for {
		s.mu.Lock()
		takenIn, news := s.takenIn, s.news
		s.mu.Unlock()
		if takenIn >= n {
			return
		}
		select {
		case <-news:
		case <-s.ended:
			return
		}
	}
}

// Err implements relay.Session.
func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close implements relay.Session.
func (s *session) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.drain()
	s.mu.Unlock()
	select {
	case <-s.drained:
	case <-s.ended:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open > 0 {
		s.end(fmt.Errorf("relaytest: the session was closed before every event had its outcome: %w", context.Cause(ctx)))
	}
	s.end(errClosed)
	if s.err == errClosed {
		return nil
	}
	return s.err
}

// drain tells Close that nothing is open any more.
func (s *session) drain() {
	if !s.closing || s.open > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// end ends the session, under mu. The first reason counts.
func (s *session) end(why error) {
	if s.err != nil {
		return
	}
	s.err = why
	close(s.outcomes)
	close(s.ended)
	s.publisher.mu.Lock()
	defer s.publisher.mu.Unlock()
	delete(s.publisher.sessions, s)
}

func (s *session) serve() {
	for {
		m, ok := s.next()
		if !ok || !s.settle(m, s.publisher.fate(s, m.entry)) {
			return
		}
	}
}

// next waits for an event that the broker wants to take; false if the session ends first.
func (s *session) next() (sent, bool) {
	for {
		s.publisher.mu.Lock()
		g := s.publisher.gate
		s.publisher.mu.Unlock()
		if g.blocked || g.hung {
			select {
			case <-g.changed:
				continue
			case <-s.ended:
				return sent{}, false
			}
		}
		s.mu.Lock()
		if len(s.queue) > 0 {
			m := s.queue[0]
			s.queue = s.queue[1:]
			s.mu.Unlock()
			return m, true
		}
		s.mu.Unlock()
		select {
		case <-s.queued:
		case <-s.ended:
			return sent{}, false
		}
	}
}

// settle does with an event what its fate is, and reports whether the session goes on. An event whose session has ended
// meanwhile never arrives.
func (s *session) settle(m sent, fate Fate) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	switch fate {
	case Confirm, LoseAfter, Silence:
		s.publisher.take(m.entry.Event)
	}
	id := m.entry.Event.ID
	switch fate {
	case Confirm:
		s.report(relay.Outcome{Tag: m.tag, Status: relay.Confirmed})
	case Reject:
		s.report(relay.Outcome{Tag: m.tag, Status: relay.Rejected, Reason: "relaytest: a queue is full"})
	case Return:
		s.report(relay.Outcome{Tag: m.tag, Status: relay.Unroutable, Reason: "relaytest: no queue is bound for it"})
	case Refuse:
		s.report(relay.Outcome{Tag: m.tag, Status: relay.Refused, Reason: "relaytest: it can't be published as it is"})
	case LoseBefore, LoseAfter:
		s.end(ErrLost)
	case Kill:
		s.end(fmt.Errorf("relaytest: event %s: %w", id, relay.ErrRefused))
	case Blame:
		s.end(fmt.Errorf("relaytest: event %s: %w: %w", id, relay.ErrRefused, relay.ErrUnpublishable))
	case Silence:
		s.silent = true
	default:
		s.end(fmt.Errorf("relaytest: the fate of event %s is %v, which isn't one of the package's", id, fate))
	}
	return s.err == nil
}

// report puts an outcome where Outcomes fetches it. It never waits: what wasn't fetched yet is taken back and grows.
func (s *session) report(o relay.Outcome) {
	if s.silent {
		return
	}
	s.open--
	s.reported++
	batch := []relay.Outcome{o}
	select {
	case before := <-s.outcomes:
		batch = append(before, o)
	default:
	}
	s.outcomes <- batch // has room: this is done under mu
	s.drain()
}
