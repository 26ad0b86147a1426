package amqp

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

func testEvent(id string) surepost.Event {
	return surepost.Event{
		ID: id, Type: "OrderCreated", Source: "order-service", Version: "1.0", CorrelationID: "c1", Key: "k1",
		Time: time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC), Data: []byte(`{"a":1}`),
	}
}

// openSession opens a session to a peer; cfg may set everything but the address.
func openSession(t *testing.T, p *peer, cfg PublisherConfig) *session {
	t.Helper()
	cfg.Connection.URLs = []string{p.url()}
	publisher, err := NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := publisher.Open(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		s.Close(ctx)
	})
	return s.(*session)
}

func send(t *testing.T, s *session, tag uint64, e surepost.Event) {
	t.Helper()
	if err := s.Send(testContext(t), tag, &relay.Entry{Seq: int64(tag), Event: e}); err != nil {
		t.Fatalf("send %d: %v", tag, err)
	}
}

// receive returns the next n outcomes, fewer if the session ends.
func receive(t *testing.T, s *session, n int) []relay.Outcome {
	t.Helper()
	var all []relay.Outcome
	timeout := time.After(5 * time.Second)
	for len(all) < n {
		select {
		case batch, ok := <-s.Outcomes():
			if !ok {
				return all
			}
			all = append(all, batch...)
		case <-timeout:
			t.Fatalf("%d of %d outcomes within 5 s", len(all), n)
		}
	}
	return all
}

func statuses(outcomes []relay.Outcome) string {
	var words []string
	for _, o := range outcomes {
		words = append(words, fmt.Sprintf("%d %s", o.Tag, o.Status))
	}
	return strings.Join(words, ", ")
}

func wantEnd(t *testing.T, s *session, refused bool) {
	t.Helper()
	if more := receive(t, s, 1000); len(more) > 0 {
		t.Errorf("the session ended with the outcomes %s, want none", statuses(more))
	}
	if s.Err() == nil {
		t.Fatal("Outcomes is closed, but Err is nil")
	}
	if errors.Is(s.Err(), relay.ErrRefused) != refused {
		t.Errorf("matching ErrRefused should be %v: %v", refused, s.Err())
	}
	if err := s.Send(t.Context(), 1000, &relay.Entry{Event: testEvent("late")}); err == nil {
		t.Error("Send after the end succeeds")
	}
}

func TestOutcomesComeInTheOrderOfSending(t *testing.T) {
	var mu sync.Mutex
	var held []peerMessage
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, m); len(held) < 5 {
			return
		}
		for _, m := range slices.Backward(held) { // acks in reverse
			if m.number == 3 {
				c.nack(m)
			} else {
				c.ack(m)
			}
		}
	}})
	s := openSession(t, p, PublisherConfig{})
	for tag := range uint64(5) {
		send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
	}
	got := statuses(receive(t, s, 5))
	if want := "0 confirmed, 1 confirmed, 2 rejected, 3 confirmed, 4 confirmed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if m := held[0]; m.exchange != "events" || m.key != "order-service.OrderCreated" || m.mandatory != 1 || m.messageID != "e0" {
		t.Errorf("the message went out as %+v", m)
	}
	if s.Err() != nil {
		t.Errorf("the session ended: %v", s.Err())
	}
}

func TestANackIsToldFromAClosedChannel(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		switch m.messageID {
		case "nack":
			c.nack(m)
		case "close":
			c.closeConnection(320, "CONNECTION_FORCED - stopped by an operator")
		}
	}})
	s := openSession(t, p, PublisherConfig{})
	send(t, s, 1, testEvent("nack"))
	if got := statuses(receive(t, s, 1)); got != "1 rejected" {
		t.Errorf("got %s, want 1 rejected", got)
	}
	send(t, s, 2, testEvent("unanswered"))
	send(t, s, 3, testEvent("close"))
	wantEnd(t, s, false)
	wantText(t, s.Err(), "320", "stopped by an operator")
}

func TestAReturnIsNeverMissed(t *testing.T) {
	for _, every := range []uint64{1, 3} {
		p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
			if m.number%every == 0 {
				c.giveBack(m)
			}
			c.ack(m)
		}})
		s := openSession(t, p, PublisherConfig{Window: 1024})
		const n = 5000
		go func() {
			for tag := range uint64(n) {
				send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
			}
		}()
		for i, o := range receive(t, s, n) {
			want := relay.Confirmed
			if uint64(i+1)%every == 0 {
				want = relay.Unroutable
			}
			if o.Tag != uint64(i) || o.Status != want {
				t.Fatalf("every %d: outcome %d is %+v, want %s", every, i, o, want)
			}
		}
	}
}

// The moment that matters is between looking at the returns and looking at the confirms: here a return and its
// confirm arrive while settle has begun and waits for the window's lock.
func TestAReturnThatArrivesDuringSettleIsNotMissed(t *testing.T) {
	published := make(chan peerMessage, 1)
	p := newPeer(t, script{published: func(_ *peerConn, m peerMessage) { published <- m }})
	s := openSession(t, p, PublisherConfig{})
	send(t, s, 1, testEvent("e1"))
	m := <-published
	eventually(t, "the event is unconfirmed", func() bool { _, head := s.window.first(); return head != nil })

	s.window.mu.Lock()
	confirm := s.window.at(0).confirm
	s.setBlocked(amqp091.Blocking{}) // wakes collect, which settles
	time.Sleep(20 * time.Millisecond)
	p.last().giveBack(m)
	p.last().ack(m)
	<-confirm.Done()
	s.window.mu.Unlock()
	if got := statuses(receive(t, s, 1)); got != "1 unroutable" {
		t.Errorf("got %s", got)
	}
}

func TestOfTwoEventsWithOneIDBothCountAsReturned(t *testing.T) {
	var first peerMessage
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		if m.number == 1 {
			first = m
			return
		}
		c.giveBack(m) // the second isn't routed, the first is
		c.ack(first)
		c.ack(m)
	}})
	s := openSession(t, p, PublisherConfig{})
	send(t, s, 1, testEvent("same"))
	send(t, s, 2, testEvent("same"))
	got := receive(t, s, 2)
	if statuses(got) != "1 unroutable, 2 unroutable" {
		t.Errorf("got %s: one of them passed for confirmed", statuses(got))
	}
	wantText(t, errors.New(got[0].Reason), `exchange "events"`, `"order-service.OrderCreated"`, "312 NO_ROUTE")
}

func TestAMissingConfirmEndsTheSession(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		if m.number != 2 {
			c.ack(m)
		}
	}})
	s := openSession(t, p, PublisherConfig{ConfirmTimeout: 50 * time.Millisecond})
	for tag := range uint64(3) {
		send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
	}
	if got := statuses(receive(t, s, 1)); got != "0 confirmed" {
		t.Errorf("got %s", got)
	}
	wantEnd(t, s, false)
	wantText(t, s.Err(), "event e1", "ConfirmTimeout (50ms)")
	if n := p.last().published; n != 3 {
		t.Errorf("%d messages were published, want 3: nothing may be sent again on the same channel", n)
	}
}

func TestAnExceptionOfAMessageIsRefused(t *testing.T) {
	for _, code := range []uint16{311, 403, 404, 406} {
		p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
			if m.number == 1 {
				c.ack(m)
				return
			}
			c.closeChannel(m.channel, code, "no")
		}})
		s := openSession(t, p, PublisherConfig{})
		send(t, s, 1, testEvent("good"))
		send(t, s, 2, testEvent("bad"))
		if got := statuses(receive(t, s, 1)); got != "1 confirmed" {
			t.Errorf("channel exception %d: got %s", code, got)
		}
		wantEnd(t, s, true)
	}
}

// The publish that fails because the channel is closed must not hide why it was closed.
func TestARefusalIsNotHiddenByTheNextPublish(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		if m.number == 20 {
			c.closeChannel(m.channel, 406, "PRECONDITION_FAILED - message size 2 is larger than configured max size 1")
		}
	}})
	for range 30 {
		s := openSession(t, p, PublisherConfig{})
		for tag := uint64(0); s.Err() == nil && tag < 1000; tag++ {
			s.Send(t.Context(), tag, &relay.Entry{Event: testEvent("e")})
		}
		wantEnd(t, s, true)
	}
}

// A connection's exception is told to its channels too, in no order.
func TestOnlyBytesThatAMessageBroughtAreRefusedByAConnection(t *testing.T) {
	for code, refused := range map[uint16]bool{501: true, 502: true, 505: false, 541: false, 320: false, 403: false} {
		p := newPeer(t, script{published: func(c *peerConn, m peerMessage) { c.closeConnection(code, "no") }})
		for range 20 {
			s := openSession(t, p, PublisherConfig{})
			send(t, s, 1, testEvent("bad"))
			wantEnd(t, s, refused)
		}
	}
}

func TestAConnectionsExceptionHeardFromTheChannelFirst(t *testing.T) {
	for _, connectionClosed := range []bool{true, false} {
		l, err := dial(testContext(t), Connection{URLs: []string{newPeer(t, script{}).url()}})
		if err != nil {
			t.Fatal(err)
		}
		if connectionClosed {
			l.close(testContext(t))
		}
		s := &session{link: l, dead: make(chan struct{})}
		s.running.Add(1)
		heard := make(chan *amqp091.Error, 1)
		heard <- &amqp091.Error{Code: 403, Server: true}
		close(heard)
		s.watch(nil, heard, nil)
		if refused := errors.Is(s.Err(), relay.ErrRefused); refused == connectionClosed {
			t.Errorf("connection closed %v, refused %v: %v", connectionClosed, refused, s.Err())
		}
		l.close(testContext(t))
	}
}

func TestALostConnectionIsNotRefused(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) { c.Close() }})
	s := openSession(t, p, PublisherConfig{})
	send(t, s, 1, testEvent("e1"))
	wantEnd(t, s, false)
	wantText(t, s.Err(), "was lost")
}

func TestBlockedStopsSendingAndTheConfirmTimer(t *testing.T) {
	p := newPeer(t, script{})
	s := openSession(t, p, PublisherConfig{ConfirmTimeout: 60 * time.Millisecond})
	blocked, _, changed := s.Blocked()
	if blocked {
		t.Fatal("a new session is blocked")
	}
	p.last().blocked("low on memory")
	within(t, time.Second, "the announcement", func() { <-changed })
	blocked, reason, changed := s.Blocked()
	if !blocked || reason != "low on memory" {
		t.Errorf("blocked %v, reason %q", blocked, reason)
	}
	send(t, s, 1, testEvent("e1"))
	select {
	case o, ok := <-s.Outcomes():
		t.Errorf("while blocked: %v %v %v", o, ok, s.Err())
	case <-time.After(150 * time.Millisecond):
	}
	if n := p.last().count(); n != 0 {
		t.Errorf("%d messages were sent to a broker that is blocked", n)
	}
	p.last().unblocked()
	within(t, time.Second, "the announcement", func() { <-changed })
	if got := statuses(receive(t, s, 1)); got != "1 confirmed" {
		t.Errorf("got %s", got)
	}
	if blocked, _, _ := s.Blocked(); blocked {
		t.Error("still blocked")
	}
}

func TestTheConfirmTimerStandsStillWhileBlocked(t *testing.T) {
	var mu sync.Mutex
	var unconfirmed peerMessage
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		mu.Lock()
		defer mu.Unlock()
		unconfirmed = m
		c.blocked("disk")
	}})
	s := openSession(t, p, PublisherConfig{ConfirmTimeout: 100 * time.Millisecond})
	send(t, s, 1, testEvent("e1"))
	time.Sleep(300 * time.Millisecond)
	if err := s.Err(); err != nil {
		t.Fatalf("ended while blocked: %v", err)
	}
	p.last().unblocked()
	mu.Lock()
	p.last().ack(unconfirmed)
	mu.Unlock()
	if got := statuses(receive(t, s, 1)); got != "1 confirmed" {
		t.Errorf("got %s", got)
	}
}

func TestWhatAMQPCannotCarryIsRefusedAndHarmsNobody(t *testing.T) {
	p := newPeer(t, script{frameMax: 8192})
	s := openSession(t, p, PublisherConfig{MaxMessageBytes: 10_000, Routing: Routing{Key: "{source}.{type}.{key}"}})
	long := strings.Repeat("x", 256)
	bad := map[string]surepost.Event{}
	change := func(reason string, f func(*surepost.Event)) {
		e := testEvent("bad")
		f(&e)
		bad[reason] = e
	}
	change("ID is 256 bytes", func(e *surepost.Event) { e.ID = long })
	change("ID is empty", func(e *surepost.Event) { e.ID = "" })
	change("CorrelationID is 256 bytes", func(e *surepost.Event) { e.CorrelationID = long })
	change("Type is 256 bytes", func(e *surepost.Event) { e.Type = long })
	change("Source is 256 bytes", func(e *surepost.Event) { e.Source = long })
	change("is 256 bytes long", func(e *surepost.Event) { e.Headers = map[string]string{long: "v"} })
	change(`Headers["CC"]`, func(e *surepost.Event) { e.Headers = map[string]string{"CC": "v"} })
	change("routing key would be 282 bytes", func(e *surepost.Event) { e.Key = long[1:] })
	change("the limit is 10000", func(e *surepost.Event) { e.Data = []byte(`"` + strings.Repeat("x", 10_000) + `"`) })
	change("the broker takes 8192", func(e *surepost.Event) { e.Headers = map[string]string{"h": strings.Repeat("x", 8192)} })
	change("can't be marshalled", func(e *surepost.Event) { e.Data = func() {} })
	tag := uint64(0)
	for reason, e := range bad {
		send(t, s, tag, testEvent("before"))
		send(t, s, tag+1, e)
		send(t, s, tag+2, testEvent("after"))
		got := receive(t, s, 3)
		if want := fmt.Sprintf("%d confirmed, %d refused, %d confirmed", tag, tag+1, tag+2); statuses(got) != want {
			t.Fatalf("%s: got %s, want %s", reason, statuses(got), want)
		}
		wantText(t, errors.New(got[1].Reason), reason)
		tag += 3
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

func TestTheHeaderFrameIsMeasuredExactly(t *testing.T) {
	sizes := make(chan int, 1)
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) { sizes <- len(m.header) + 8; c.ack(m) }})
	s := openSession(t, p, PublisherConfig{})
	e := testEvent("e1")
	e.Headers = map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tenant": ""}
	msg, err := PublishingFromEvent(e)
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, 1, e)
	if got := <-sizes; got != headerFrameBytes(&msg) {
		t.Errorf("on the wire %d bytes, computed %d", got, headerFrameBytes(&msg))
	}
}

func TestSendBeyondTheWindowWaitsAndHonoursItsContext(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {}})
	s := openSession(t, p, PublisherConfig{Window: 2})
	send(t, s, 1, testEvent("e1"))
	send(t, s, 2, testEvent("e2"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Send(ctx, 3, &relay.Entry{Event: testEvent("e3")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if s.Err() != nil {
		t.Errorf("the session ended: %v", s.Err())
	}
}

func TestSendNeverWaitsForOutcomesToBeRead(t *testing.T) {
	s := openSession(t, newPeer(t, script{}), PublisherConfig{Window: 8})
	within(t, 5*time.Second, "1000 sends without reading an outcome", func() {
		for tag := range uint64(1000) {
			send(t, s, tag, testEvent("e"))
		}
	})
	if err := s.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	for i, o := range receive(t, s, 1000) {
		if o.Tag != uint64(i) {
			t.Fatalf("outcome %d has the tag %d", i, o.Tag)
		}
	}
}

func TestCloseWaitsForOutcomes(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		time.AfterFunc(50*time.Millisecond, func() { c.ack(m) })
	}})
	s := openSession(t, p, PublisherConfig{})
	send(t, s, 1, testEvent("e1"))
	if err := s.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	if got := statuses(receive(t, s, 2)); got != "1 confirmed" {
		t.Errorf("got %q", got)
	}
	if s.Err() == nil {
		t.Error("Err is nil after Close")
	}
}

// The library's own shutdown would wait until the kernel gives up: it wants a lock that the blocked publish holds.
func TestCloseReturnsThoughThePeerReadsNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	stall := make(chan struct{})
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) { <-stall }})
	s := openSession(t, p, PublisherConfig{})
	big := testEvent("big")
	big.Data = []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	for tag := range uint64(64) { // more than the socket's buffers hold
		send(t, s, tag, big)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	within(t, 50*time.Millisecond+closeGrace+cutGrace, "Close", func() {
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want that outcomes are missing", err)
		}
	})
	wantEnd(t, s, false)
	close(stall)
	p.listener.Close()
	p.last().Close()
	eventually(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
}

func TestAPeerThatStopsReadingIsGivenUp(t *testing.T) {
	stall := make(chan struct{})
	defer close(stall)
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) { <-stall }})
	s := openSession(t, p, PublisherConfig{Connection: Connection{WriteTimeout: 100 * time.Millisecond}})
	big := testEvent("big")
	big.Data = []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	for tag := range uint64(64) {
		send(t, s, tag, big)
	}
	within(t, 5*time.Second, "the end", func() { wantEnd(t, s, false) })
	wantText(t, s.Err(), "i/o timeout")
}

func TestASilentPeerIsGivenUpAfterTwoHeartbeats(t *testing.T) {
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {}})
	s := openSession(t, p, PublisherConfig{Connection: Connection{Heartbeat: time.Second}})
	send(t, s, 1, testEvent("e1"))
	within(t, 4*time.Second, "the end", func() { wantEnd(t, s, false) })
	wantText(t, s.Err(), "i/o timeout")
}

func TestOpenSaysWhatIsWrongWithTheTopology(t *testing.T) {
	const mismatch = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'events' in vhost '/': " +
		"received 'fanout' but current is 'topic'"
	for name, test := range map[string]struct {
		mode Mode
		code uint16
		text string
		want []string
	}{
		"kind":       {Declare, 406, mismatch, []string{`declare exchange "events"`, "another type: asked for fanout, there is topic", "maintenance window"}},
		"missing":    {Verify, 404, "NOT_FOUND - no exchange 'events' in vhost '/'", []string{"it isn't there", "Mode Declare"}},
		"permission": {Declare, 403, "ACCESS_REFUSED - access refused", []string{"no permission", "Mode Verify or None"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, script{method: func(c *peerConn, class, method uint16, _ []byte) bool {
				if class == classExchange {
					c.closeChannel(1, test.code, test.text)
				}
				return class == classExchange
			}})
			publisher, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{p.url()}}, Mode: test.mode})
			if err != nil {
				t.Fatal(err)
			}
			_, err = publisher.Open(testContext(t))
			wantText(t, err, test.want...)
			var te *TopologyError
			if !errors.As(err, &te) || te.Code != int(test.code) || te.Name != "events" {
				t.Errorf("not a TopologyError about events: %+v", te)
			}
		})
	}
}

func (c *peerConn) count() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.published
}
