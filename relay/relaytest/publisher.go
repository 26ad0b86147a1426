package relaytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// Fate is what a [Publisher] does with an event.
type Fate uint8

const (
	// Confirm takes the event.
	Confirm Fate = iota
	// Reject doesn't take it for now: relay.Rejected.
	Reject
	// Return finds no queue for it: relay.Unroutable.
	Return
	// Refuse finds that it can never be published: relay.Refused.
	Refuse
	// LoseBefore loses the connection before the event arrives.
	LoseBefore
	// LoseAfter takes the event and loses the connection before its outcome is told.
	LoseAfter
	// Kill ends the session because of the event: relay.ErrRefused.
	Kill
	// Blame does so too, and says that the fault lies in the event itself: relay.ErrUnpublishable.
	Blame
	// Silence takes the event, and those after it, and tells no more outcomes for as long as the session lasts.
	Silence
)

func (f Fate) String() string {
	names := [...]string{"Confirm", "Reject", "Return", "Refuse", "LoseBefore", "LoseAfter", "Kill", "Blame", "Silence"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("Fate(%d)", uint8(f))
}

// ErrLost is what a session ends with when its connection is lost.
var ErrLost = errors.New("relaytest: the connection was lost")

var errClosed = errors.New("relaytest: the session was closed")

// Publisher is a relay.Publisher in memory, for tests. It takes every event unless it is told otherwise, and remembers
// what it took. It is safe for concurrent use, and works inside of a testing/synctest bubble.
type Publisher struct {
	mu        sync.Mutex
	published []surepost.Event
	more      chan struct{} // closed when published grows
	next      []Fate
	decide    func(s *session, e relay.Entry) Fate
	down      error
	gate      gate
	sessions  map[*session]bool // those that are open
	opened    int
}

// gate is whether the broker wants events, and answers at all. A change replaces it.
type gate struct {
	blocked, hung bool
	reason        string
	changed       chan struct{} // closed when it is replaced
}

// NewPublisher returns a publisher that takes every event.
func NewPublisher() *Publisher {
	return &Publisher{more: make(chan struct{}), gate: gate{changed: make(chan struct{})}, sessions: map[*session]bool{}}
}

var _ relay.Publisher = (*Publisher)(nil)

// Open implements relay.Publisher.
func (p *Publisher) Open(ctx context.Context) (relay.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.gate.hung && ctx.Err() == nil {
		changed := p.gate.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		p.mu.Lock()
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case p.down != nil:
		return nil, p.down
	}
	s := &session{
		publisher: p, queued: make(chan struct{}, 1), news: make(chan struct{}),
		outcomes: make(chan []relay.Outcome, 1), drained: make(chan struct{}), ended: make(chan struct{}),
	}
	p.sessions[s] = true
	p.opened++
	go s.serve()
	return s, nil
}

// Next decides the fates of the next events, one each, in the order in which they arrive.
func (p *Publisher) Next(fates ...Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = append(p.next, fates...)
}

// Decide sets the function that decides the fate of each event for which Next has none; nil takes all. It is called by
// one goroutine per session, and must not call the publisher.
func (p *Publisher) Decide(fate func(e relay.Entry) Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decide = nil
	if fate != nil {
		p.decide = func(_ *session, e relay.Entry) Fate { return fate(e) }
	}
}

// Block asks, as a broker that is short of memory does, to send nothing; what arrives nevertheless waits.
func (p *Publisher) Block(reason string) {
	p.change(func(g *gate) { g.blocked, g.reason = true, reason })
}

// Unblock ends Block.
func (p *Publisher) Unblock() { p.change(func(g *gate) { g.blocked, g.reason = false, "" }) }

// Hang keeps the connections open and answers nothing, as a broker does that was stopped with SIGSTOP, or whose network
// swallows everything: nothing arrives, and Open waits until its context ends.
func (p *Publisher) Hang() { p.change(func(g *gate) { g.hung = true }) }

// Resume ends Hang.
func (p *Publisher) Resume() { p.change(func(g *gate) { g.hung = false }) }

func (p *Publisher) change(to func(*gate)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.gate.changed)
	to(&p.gate)
	p.gate.changed = make(chan struct{})
}

// Drop loses the connections of all sessions: what they sent and didn't arrive is lost, and outcomes that weren't told
// never will be.
func (p *Publisher) Drop() { p.drop(ErrLost) }

func (p *Publisher) drop(why error) {
	p.mu.Lock()
	open := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		open = append(open, s)
	}
	p.mu.Unlock()
	for _, s := range open {
		s.mu.Lock()
		s.end(why)
		s.mu.Unlock()
	}
}

// Stop drops all sessions, and lets Open fail with why until Start is called.
func (p *Publisher) Stop(why error) {
	p.mu.Lock()
	p.down = why
	p.mu.Unlock()
	p.drop(why)
}

// Start ends Stop.
func (p *Publisher) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = nil
}

// Published returns the events that were taken, repetitions included, in the order in which they arrived.
func (p *Publisher) Published() []surepost.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.published)
}

// Await returns the events that were taken as soon as there are n, repetitions included. After ctx has ended it returns
// those that are there, and an error.
func (p *Publisher) Await(ctx context.Context, n int) ([]surepost.Event, error) {
	for {
		p.mu.Lock()
		published, more := slices.Clone(p.published), p.more
		p.mu.Unlock()
		if len(published) >= n {
			return published, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return published, fmt.Errorf("relaytest: %d of %d events were published: %w", len(published), n, context.Cause(ctx))
		}
	}
}

// Opened returns how many sessions were opened.
func (p *Publisher) Opened() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened
}

// unavailable says why no event can arrive.
func (p *Publisher) unavailable() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.down != nil:
		return "is stopped: call Publisher.Start"
	case p.gate.hung:
		return "hangs: call Publisher.Resume"
	case p.gate.blocked:
		return "is blocked: call Publisher.Unblock"
	}
	return ""
}

// fate decides what becomes of an event.
func (p *Publisher) fate(s *session, e relay.Entry) Fate {
	p.mu.Lock()
	if len(p.next) > 0 {
		defer p.mu.Unlock()
		fate := p.next[0]
		p.next = p.next[1:]
		return fate
	}
	decide := p.decide
	p.mu.Unlock()
	if decide == nil {
		return Confirm
	}
	return decide(s, e)
}

// take notes an event that has arrived.
func (p *Publisher) take(e surepost.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = append(p.published, e)
	close(p.more)
	p.more = make(chan struct{})
}
