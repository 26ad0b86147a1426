package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// fakeQueue behaves like a RabbitMQ queue with one consumer: it delivers in order, has at most prefetch messages
// unacknowledged, and when a session ends it takes back what isn't acknowledged, in order and in front.
type fakeQueue struct {
	t        *testing.T
	prefetch int

	mu        sync.Mutex
	changed   *sync.Cond
	waiting   []amqp091.Delivery
	acked     []string // message ids
	dead      []letter
	live      *fakeSession
	openings  int
	openErr   error
	buryErr   error
	buryDelay time.Duration
}

func newFakeQueue(t *testing.T, prefetch int) *fakeQueue {
	q := &fakeQueue{t: t, prefetch: prefetch}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// put adds events named key/number. An empty key means one without order.
func (q *fakeQueue) put(key string, numbers ...int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range numbers {
		id := fmt.Sprintf("%s/%d", key, n)
		body := fmt.Sprintf(`{"eventId":%q,"eventType":"Tested","source":"test","key":%q,"data":%d}`, id, key, n)
		q.waiting = append(q.waiting, amqp091.Delivery{MessageId: id, Body: []byte(body), RoutingKey: "test.Tested"})
	}
	q.changed.Broadcast()
}

func (q *fakeQueue) putBody(id, body string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, amqp091.Delivery{MessageId: id, Body: []byte(body)})
	q.changed.Broadcast()
}

// open is a Consumer's way to its sessions.
func (q *fakeQueue) open(ctx context.Context, _ ConsumerConfig) (consumerSession, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.openings++
	if q.openErr != nil {
		return nil, q.openErr
	}
	if q.live != nil {
		q.t.Error("a second session was opened beside a live one")
	}
	s := &fakeSession{queue: q, unacked: map[uint64]amqp091.Delivery{},
		inflow: make(chan *message, q.prefetch), ended: make(chan struct{})}
	q.live = s
	go s.deliver()
	return s, nil
}

// cut ends the session, as a lost connection does.
func (q *fakeQueue) cut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.live != nil {
		q.live.end(errors.New("cut by the test"))
	}
}

func (q *fakeQueue) count() (waiting, unacked, acked int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.live != nil {
		unacked = len(q.live.unacked)
	}
	return len(q.waiting), unacked, len(q.acked)
}

func (q *fakeQueue) deadLetters() []letter {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.dead)
}

// fakeSession is one consumer of a fakeQueue.
type fakeSession struct {
	queue   *fakeQueue
	inflow  chan *message
	ended   chan struct{}
	why     error
	tag     uint64
	unacked map[uint64]amqp091.Delivery
}

var _ consumerSession = (*fakeSession)(nil)

func (s *fakeSession) deliver() {
	defer close(s.inflow)
	q := s.queue
	for {
		q.mu.Lock()
		for q.live == s && (len(q.waiting) == 0 || len(s.unacked) >= q.prefetch) {
			q.changed.Wait()
		}
		if q.live != s {
			q.mu.Unlock()
			return
		}
		d := q.waiting[0]
		q.waiting = q.waiting[1:]
		s.tag++
		d.DeliveryTag = s.tag
		s.unacked[s.tag] = d
		q.mu.Unlock()
		select {
		case s.inflow <- newMessage(s, d):
		case <-s.ended:
			return
		}
	}
}

// end is called with the queue's lock held.
func (s *fakeSession) end(why error) {
	if s.queue.live != s {
		return
	}
	s.queue.live, s.why = nil, why
	var back []amqp091.Delivery
	for tag := range s.tag + 1 {
		if d, ok := s.unacked[tag]; ok {
			d.Redelivered = true
			back = append(back, d)
		}
	}
	s.queue.waiting = append(back, s.queue.waiting...)
	close(s.ended)
	s.queue.changed.Broadcast()
}

func (s *fakeSession) messages() <-chan *message { return s.inflow }
func (s *fakeSession) done() <-chan struct{}     { return s.ended }
func (s *fakeSession) err() error                { return s.why }

func (s *fakeSession) ack(messages ...*message) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	if s.queue.live != s {
		return
	}
	for _, m := range messages {
		if _, ok := s.unacked[m.delivery.DeliveryTag]; !ok {
			s.queue.t.Errorf("%s was acknowledged twice, or after it was given back", m.delivery.MessageId)
		}
		delete(s.unacked, m.delivery.DeliveryTag)
		s.queue.acked = append(s.queue.acked, m.delivery.MessageId)
	}
	s.queue.changed.Broadcast()
}

func (s *fakeSession) bury(l letter) error {
	s.queue.mu.Lock()
	delay := s.queue.buryDelay
	s.queue.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-s.ended:
		return s.why
	}
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	if s.queue.buryErr == nil {
		s.queue.dead = append(s.queue.dead, l)
	}
	return s.queue.buryErr
}

func (s *fakeSession) close(context.Context) {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	s.end(errSessionClosed)
}

// ledger is a Handler with an inbox's memory that checks the promises while it works.
type ledger struct {
	t    *testing.T
	work func(ctx context.Context, e surepost.Event) error // before the commit; nil does nothing

	mu      sync.Mutex
	busy    map[string]bool
	done    map[string]bool
	last    map[string]int // per key, the highest number committed
	calls   map[string]int
	running int
	most    int
}

func newLedger(t *testing.T, work func(context.Context, surepost.Event) error) *ledger {
	return &ledger{t: t, work: work,
		busy: map[string]bool{}, done: map[string]bool{}, last: map[string]int{}, calls: map[string]int{}}
}

func (l *ledger) Handle(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	var number int
	if err := e.Decode(&number); err != nil {
		l.t.Errorf("decode: %v", err)
	}
	l.mu.Lock()
	l.calls[e.ID]++
	if e.Key != "" && l.busy[e.Key] {
		l.t.Errorf("%s was started while another event of its key was handled", e.ID)
	}
	l.busy[e.Key] = true
	l.running++
	l.most = max(l.most, l.running)
	known := l.done[e.ID]
	l.mu.Unlock()

	var err error
	if l.work != nil && !known {
		err = l.work(ctx, e)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[e.Key] = false
	l.running--
	switch {
	case known:
		return inbox.Duplicate, nil
	case err != nil:
		return 0, err
	}
	l.done[e.ID] = true
	if e.Key != "" && number < l.last[e.Key] {
		l.t.Errorf("%s was handled after number %d of its key", e.ID, l.last[e.Key])
	}
	l.last[e.Key] = number
	return inbox.Handled, nil
}

func (l *ledger) committed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done)
}

func (l *ledger) lastOf(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[key]
}

// startConsumer runs a consumer of the fake queue and returns how to stop it; stop returns Run's result.
func startConsumer(t *testing.T, q *fakeQueue, config ConsumerConfig) (stop func() error) {
	t.Helper()
	config.Connection.URLs = []string{"amqp://localhost"}
	config.Queue, config.Types, config.Prefetch = "test", []string{"#"}, q.prefetch
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := NewConsumer(config)
	if err != nil {
		t.Fatal(err)
	}
	c.open = q.open
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()
	return func() error {
		cancel()
		return <-result
	}
}

func numbers(from, to int) []int {
	var all []int
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}
