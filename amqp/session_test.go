package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/relay"
)

func testEvent(id string) surepost.Event {
	return surepost.Event{
		ID: id, Type: "OrderCreated", Source: "order-service", Version: "1.0", CorrelationID: "c1", Key: "k1",
		Time: time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC), Data: []byte(`{"a":1}`),
	}
}

// openSession opens a session to a broker; cfg may set everything but the address.
func openSession(t *testing.T, b *amqptest.Broker, cfg PublisherConfig) *session {
	t.Helper()
	cfg.Connection.URLs, cfg.Logger = []string{b.URL()}, slog.New(slog.DiscardHandler)
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
	b := startBroker(t, amqptest.Config{})
	messages := observe(b, amqptest.Publish(nil))
	b.Inject(amqptest.Fault{When: published("e2"), Do: amqptest.Nack()})
	var gates []*amqptest.Gate
	for i := range 5 {
		gates = append(gates, amqptest.NewGate())
		b.Inject(amqptest.Fault{When: published(fmt.Sprint("e", i)), Do: amqptest.ConfirmWhen(gates[i])})
	}
	s := openSession(t, b, PublisherConfig{})
	for tag := range uint64(5) {
		send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
	}
	m := messages.await(t, 5)[0].Message
	for i := range gates { // in reverse
		gates[len(gates)-1-i].Open()
	}
	got := statuses(receive(t, s, 5))
	if want := "0 confirmed, 1 confirmed, 2 rejected, 3 confirmed, 4 confirmed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if m.Exchange != "events" || m.RoutingKey != "order-service.OrderCreated" || m.MessageID != "e0" ||
		!m.Mandatory || !m.Persistent() {
		t.Errorf("the message went out as %+v", m)
	}
	if s.Err() != nil {
		t.Errorf("the session ended: %v", s.Err())
	}
}

func TestOfTwoEventsWithOneIDBothCountAsReturned(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	gate := amqptest.NewGate()
	confirms := observe(b, amqptest.Sent("basic.ack"))
	number := func(n uint64) func(amqptest.Event) bool {
		return amqptest.Publish(func(m *amqptest.Message) bool { return m.Number == n })
	}
	b.Inject(amqptest.Fault{When: number(1), Do: amqptest.ConfirmWhen(gate)})
	b.Inject(amqptest.Fault{When: number(2), Do: amqptest.Unroutable()})
	s := openSession(t, b, PublisherConfig{})
	send(t, s, 1, testEvent("same"))
	send(t, s, 2, testEvent("same"))
	confirms.await(t, 1) // the second's: it isn't routed, the first is
	gate.Open()
	got := receive(t, s, 2)
	if statuses(got) != "1 unroutable, 2 unroutable" {
		t.Errorf("got %s: one of them passed for confirmed", statuses(got))
	}
	wantText(t, errors.New(got[0].Reason), `exchange "events"`, `"order-service.OrderCreated"`, "312 NO_ROUTE")
}

func TestAnExceptionOfAMessageIsRefused(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	for _, code := range []uint16{311, 403, 404, 406} {
		remove := b.Inject(amqptest.Fault{When: published("bad"), Do: amqptest.CloseChannel(code, "no")})
		s := openSession(t, b, PublisherConfig{})
		send(t, s, 1, testEvent("good"))
		send(t, s, 2, testEvent("bad"))
		if got := statuses(receive(t, s, 1)); got != "1 confirmed" {
			t.Errorf("channel exception %d: got %s", code, got)
		}
		wantEnd(t, s, true)
		if blamed := errors.Is(s.Err(), relay.ErrUnpublishable); blamed != (code == 311 || code == 406) {
			t.Errorf("channel exception %d blames the message: %v", code, blamed)
		}
		remove()
	}
}

// The publish that fails because the channel is closed must not hide why it was closed.
func TestARefusalIsNotHiddenByTheNextPublish(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.NeverConfirm()})
	b.Inject(amqptest.Fault{When: amqptest.Publish(func(m *amqptest.Message) bool { return m.Number == 20 }),
		Do: amqptest.CloseChannel(406, "PRECONDITION_FAILED - message size 2 is larger than configured max size 1")})
	for range 30 {
		s := openSession(t, b, PublisherConfig{})
		for tag := uint64(0); s.Err() == nil && tag < 1000; tag++ {
			s.Send(t.Context(), tag, &relay.Entry{Event: testEvent("e")})
		}
		wantEnd(t, s, true)
	}
}

// A connection's exception is told to its channels too, in no order.
func TestOnlyBytesThatAMessageBroughtAreRefusedByAConnection(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	for code, refused := range map[uint16]bool{501: true, 502: true, 505: false, 541: false, 320: false, 403: false} {
		remove := b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.CloseConnection(code, "no")})
		for range 20 {
			s := openSession(t, b, PublisherConfig{})
			send(t, s, 1, testEvent("bad"))
			wantEnd(t, s, refused)
		}
		remove()
	}
}

func TestALostConnectionIsNotRefused(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.Drop()})
	s := openSession(t, b, PublisherConfig{})
	send(t, s, 1, testEvent("e1"))
	wantEnd(t, s, false)
	wantText(t, s.Err(), "was lost")
}

func TestBlockedStopsSendingAndTheConfirmTimer(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	messages := observe(b, amqptest.Publish(nil))
	s := openSession(t, b, PublisherConfig{ConfirmTimeout: 60 * time.Millisecond})
	blocked, _, changed := s.Blocked()
	if blocked {
		t.Fatal("a new session is blocked")
	}
	b.Block("low on memory")
	send(t, s, 1, testEvent("e1")) // RabbitMQ tells those that publish, and takes this one later
	within(t, time.Second, "the announcement", func() { <-changed })
	blocked, reason, changed := s.Blocked()
	if !blocked || reason != "low on memory" {
		t.Errorf("blocked %v, reason %q", blocked, reason)
	}
	send(t, s, 2, testEvent("e2"))
	select {
	case o, ok := <-s.Outcomes():
		t.Errorf("while blocked: %v %v %v", o, ok, s.Err())
	case <-time.After(150 * time.Millisecond):
	}
	if next := s.window.unpublished(); next == nil || next.id != "e2" {
		t.Errorf("a message was sent to a broker that is blocked; the next is %+v", next)
	}
	b.Unblock()
	within(t, time.Second, "the announcement", func() { <-changed })
	if got := statuses(receive(t, s, 2)); got != "1 confirmed, 2 confirmed" {
		t.Errorf("got %s", got)
	}
	if blocked, _, _ := s.Blocked(); blocked {
		t.Error("still blocked")
	}
	if n := len(messages.all()); n != 2 {
		t.Errorf("%d messages arrived, want 2", n)
	}
}

func TestTheConfirmTimerStandsStillWhileBlocked(t *testing.T) {
	b, gate := startBroker(t, amqptest.Config{}), amqptest.NewGate()
	b.Inject(amqptest.Fault{When: published("e1"), Do: amqptest.ConfirmWhen(gate)})
	messages, told := observe(b, amqptest.Publish(nil)), observe(b, amqptest.Sent("connection.blocked"))
	s := openSession(t, b, PublisherConfig{ConfirmTimeout: 100 * time.Millisecond})
	send(t, s, 1, testEvent("e1"))
	messages.await(t, 1)
	b.Block("disk")
	send(t, s, 2, testEvent("e2"))
	told.await(t, 1)
	time.Sleep(300 * time.Millisecond)
	if err := s.Err(); err != nil {
		t.Fatalf("ended while blocked: %v", err)
	}
	b.Unblock()
	gate.Open()
	if got := statuses(receive(t, s, 2)); got != "1 confirmed, 2 confirmed" {
		t.Errorf("got %s", got)
	}
}

// The broker takes a frame of exactly its limit and ends the connection over one byte more; so must our own measure.
func TestTheHeaderFrameIsMeasuredExactly(t *testing.T) {
	const limit = 4096
	b := startBroker(t, amqptest.Config{FrameMaxBytes: limit})
	e := testEvent("e1")
	e.Headers = map[string]string{"pad": "", "tenant": "",
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	msg, err := PublishingFromEvent(e)
	if err != nil {
		t.Fatal(err)
	}
	fill := limit - headerFrameBytes(&msg)
	for _, more := range []int{0, 1} {
		s := openSession(t, b, PublisherConfig{})
		s.link.Config.FrameSize = 0 // our own check is out of the way
		e.Headers["pad"] = strings.Repeat("x", fill+more)
		send(t, s, 1, e)
		if more > 0 {
			wantEnd(t, s, true)
			wantText(t, s.Err(), "501")
			continue
		}
		if got := statuses(receive(t, s, 1)); got != "1 confirmed" {
			t.Errorf("a frame of %d bytes: %s %v", limit, got, s.Err())
		}
	}
}

func TestSendBeyondTheWindowWaitsAndHonoursItsContext(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.NeverConfirm()})
	s := openSession(t, b, PublisherConfig{Window: 2})
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

func TestCloseWaitsForOutcomes(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.ConfirmAfter(50 * time.Millisecond)})
	s := openSession(t, b, PublisherConfig{})
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

func TestOpenSaysWhatIsWrongWithTheTopology(t *testing.T) {
	permission := amqptest.Fault{When: amqptest.Received("exchange.declare"),
		Do: amqptest.CloseChannel(403, "ACCESS_REFUSED - access refused")}
	for name, test := range map[string]struct {
		exchange Exchange
		mode     Mode
		fault    *amqptest.Fault
		code     int
		want     []string
	}{
		"kind": {Exchange{Name: "events", Kind: "fanout"}, Declare, nil, 406,
			[]string{`declare exchange "events"`, "another type: asked for fanout, there is topic", "maintenance window"}},
		"argument": {Exchange{Name: "events", Args: map[string]any{"alternate-exchange": "ae"}}, Declare, nil, 406,
			[]string{`declare exchange "events"`, "another alternate-exchange", "there is none", "maintenance window"}},
		"kind of no plugin": {Exchange{Name: "new", Kind: "x-nothing"}, Declare, nil, 406,
			[]string{`declare exchange "new"`, "x-nothing"}},
		"missing":    {Exchange{Name: "new"}, Verify, nil, 404, []string{"it isn't there", "Mode Declare"}},
		"permission": {Exchange{Name: "events"}, Declare, &permission, 403, []string{"no permission", "Mode Verify or None"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, amqptest.Config{})
			if test.fault != nil {
				b.Inject(*test.fault)
			}
			publisher, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{b.URL()}}, Mode: test.mode,
				Exchanges: []Exchange{test.exchange}, Routing: Routing{Exchange: test.exchange.Name}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = publisher.Open(testContext(t))
			wantText(t, err, test.want...)
			var te *TopologyError
			if !errors.As(err, &te) || te.Code != test.code || te.Name != test.exchange.Name {
				t.Errorf("not a TopologyError about %s: %+v", test.exchange.Name, te)
			}
		})
	}
}
