package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// The traps of amqp091-go and of AMQP 0-9-1 itself, in the order of their numbers, each with tests that fail when the
// pattern that avoids it is taken out. T1 to T14 have cost other projects messages or nights; the others are smaller.
//
//	T1  The library closes its socket only after it got locks that a blocked write holds.
//	    Any error closes the raw socket, each write has a deadline, what is received shows life: conn.go.
//	T2  A call that has begun knows no context.
//	    A deadline around it, after which the socket is closed: connection.go, link.do.
//	T3  After the library's own recovery, tags of the old session acknowledge other messages.
//	    A connection never reconnects (connection.go, dialNode); a message belongs to its session (consumer_session.go).
//	T4  A short string over 255 bytes ends the connection, as does a header frame over frame_max.
//	    Events are measured before they are sent: message.go, unpublishable; session.go, tooLarge.
//	T5  A body over max_message_size ends the channel, without a word about which it was.
//	    The same, and what the broker still finds is blamed on a message: errors.go, channelEnded.
//	T6  A missing exchange ends the channel, but later publishes succeed for a while.
//	    What has no confirm was not published: session.go, outcome; errors.go, channelEnded.
//	T7  A nack and a closed channel look the same in a DeferredConfirmation.
//	    It is read together with Channel.IsClosed: session.go, outcome.
//	T8  A late confirm isn't a lost message.
//	    The session ends, and nothing is sent again on it: session.go, collect.
//	T9  NotifyPublish holds up the reader, and drops confirms after 5 s.
//	    Deferred confirmations only: session.go, publish.
//	T10 A return comes before its ack, but by another channel, which drops what it has no room for.
//	    Room for a return of each event, read after the confirms: session.go, newSession and settle.
//	T11 A channel mixes the frames of its callers.
//	    A publishing or consuming channel does nothing else: publisher.go, open; consumer_session.go; deadletter.go.
//	T12 A notice that isn't read is dropped after 5 s, and the end of a connection is told in no order.
//	    Registered first, buffered, read until they are closed: publisher.go, open; session.go, watch.
//	T13 Without a prefetch the whole queue comes; a cancelled consumer is silent.
//	    Qos before Consume, NotifyCancel ends the session, a closed channel is no message: consumer_session.go.
//	T14 The library blanks the password that it was given (until v1.15), and writes to the caller's Properties.
//	    All that it is given is made anew for each dial: connection.go, sasl, dialNode and tlsConfig.
//	T15 Timestamps are in whole seconds.
//	    The envelope's time is the truth: message.go, EventFromDelivery.
//	T16 A confirm with multiple scans all that is unconfirmed.
//	    The window is limited: publisher.go, validate.
//	T17 A listener for confirms costs a timer for each. As T9.
//	T18 A refused declaration closes its channel.
//	    Each has a channel of its own: topology.go, declare.
//	T19 An alarm stops everything of a connection that publishes.
//	    Consuming and publishing are apart: deadletter.go, open.

func bigEvent() surepost.Event {
	e := testEvent("big")
	e.Data = []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	return e
}

// deaf returns a broker that stops reading with the first message.
func deaf(t *testing.T) (b *amqptest.Broker, gate *amqptest.Gate) {
	t.Helper()
	b, gate = startBroker(t, amqptest.Config{ReadBufferBytes: 16 << 10}), amqptest.NewGate()
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil),
		Do: amqptest.Together(amqptest.NeverConfirm(), amqptest.StallReads(gate))})
	return b, gate
}

// fill sends more than the buffers between hold, so that a write hangs. The session may end meanwhile.
func fill(t *testing.T, s *session) {
	t.Helper()
	for tag := range uint64(64) {
		if s.Send(testContext(t), tag, &relay.Entry{Event: bigEvent()}) != nil {
			return
		}
	}
}

// T1. The library's own shutdown would wait until the kernel gives up: it wants a lock that the blocked publish holds.
func TestCloseReturnsThoughThePeerReadsNothing(t *testing.T) {
	b, gate := deaf(t)
	before := runtime.NumGoroutine()
	s := openSession(t, b, PublisherConfig{})
	fill(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	within(t, 50*time.Millisecond+closeGrace+cutGrace, "Close", func() {
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want that outcomes are missing", err)
		}
	})
	wantEnd(t, s, false)
	gate.Open()
	eventually(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}

// T1. So does a write deadline; the broker's heartbeats go on meanwhile.
func TestAPeerThatStopsReadingIsGivenUp(t *testing.T) {
	b, gate := deaf(t)
	defer gate.Open()
	s := openSession(t, b, PublisherConfig{Connection: Connection{WriteTimeout: 100 * time.Millisecond}})
	fill(t, s)
	within(t, 5*time.Second, "the end", func() { wantEnd(t, s, false) })
	wantText(t, s.Err(), "i/o timeout")
}

// T1. The one that deadlocks in the library: a write hangs, and the end is noticed by the reader.
func TestASilentPeerIsGivenUpThoughAWriteHangs(t *testing.T) {
	b, gate := deaf(t)
	defer gate.Open()
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.StallWrites(gate)})
	s := openSession(t, b, PublisherConfig{Connection: Connection{Heartbeat: time.Second}})
	fill(t, s)
	within(t, 4*time.Second, "the end", func() { wantEnd(t, s, false) })
	wantText(t, s.Err(), "i/o timeout")
}

// T1. Neither deadline may be the library's: it extends the read deadline from a goroutine that a write can block.
func TestASilentPeerIsGivenUpAfterTwoHeartbeats(t *testing.T) {
	b, gate := startBroker(t, amqptest.Config{}), amqptest.NewGate()
	defer gate.Open()
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.StallWrites(gate)})
	s := openSession(t, b, PublisherConfig{Connection: Connection{Heartbeat: time.Second}})
	send(t, s, 1, testEvent("e1"))
	within(t, 4*time.Second, "the end", func() { wantEnd(t, s, false) })
	wantText(t, s.Err(), "i/o timeout")
}

// T2.
func TestAnRPCWithoutAnswerCutsTheConnection(t *testing.T) {
	for _, limit := range []string{"RPCTimeout", "context"} {
		b, gate := startBroker(t, amqptest.Config{}), amqptest.NewGate()
		defer gate.Open()
		b.Inject(amqptest.Fault{When: amqptest.Sent("channel.open-ok"), Do: amqptest.StallWrites(gate)})
		cfg, ctx := Connection{URLs: []string{b.URL()}}, testContext(t)
		if limit == "RPCTimeout" {
			cfg.RPCTimeout = 50 * time.Millisecond
		}
		l, err := dial(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if limit == "context" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
		}
		ended := l.NotifyClose(make(chan *amqp091.Error, 1))
		within(t, time.Second, "the call", func() { _, err = l.channel(ctx) })
		wantText(t, err, "open a channel")
		if limit == "RPCTimeout" {
			wantText(t, err, "RPCTimeout (50ms)")
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v doesn't match context.DeadlineExceeded", err)
		}
		within(t, time.Second, "end of the connection", func() { <-ended })
	}
}

// T2. A broker that answers nothing must not hold up the end of the program either.
func TestAConsumerStopsThoughTheBrokerDoesNotAnswer(t *testing.T) {
	for _, method := range []string{"queue.declare-ok", "basic.qos-ok", "basic.consume-ok"} {
		b, gate := startBroker(t, amqptest.Config{}), amqptest.NewGate()
		stalled := observe(b, amqptest.Sent(method))
		b.Inject(amqptest.Fault{When: amqptest.Sent(method), Do: amqptest.StallWrites(gate)})
		c, err := NewConsumer(ConsumerConfig{Connection: Connection{URLs: []string{b.URL()}}, Queue: "work",
			Types: []string{"#"}, Handler: handlerFunc(nil)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- c.Run(ctx) }()
		stalled.await(t, 1)
		cancel()
		within(t, closeGrace+2*cutGrace, "Run without "+method, func() {
			if err := <-result; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		gate.Open()
	}
}

// T3. In the second session each tag is another message's than in the first.
func TestAnAcknowledgementNeverCrossesSessions(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	started := make(chan string, 10)
	release := map[string]chan struct{}{"b/1": make(chan struct{}), "c/1": make(chan struct{})}
	stop := consume(t, b, ConsumerConfig{Handler: handlerFunc(func(_ context.Context, e surepost.Event) (inbox.Result, error) {
		started <- e.ID
		if gate := release[e.ID]; gate != nil {
			<-gate
		}
		return inbox.Handled, nil
	})})
	deliveries := observe(b, amqptest.Sent("basic.deliver"))
	put(t, b, "a", 1) // tag 1
	awaitQueue(t, b, "work", "a/1 is acknowledged", func(q amqptest.QueueState) bool { return q.Ready+q.Unacked == 0 })
	put(t, b, "b", 1) // tag 2, then 1
	put(t, b, "c", 1) // tag 3, then 2
	for range 3 {
		<-started
	}
	b.Drop()
	deliveries.await(t, 3+2)
	put(t, b, "d", 1) // tag 3
	if id := <-started; id != "d/1" {
		t.Errorf("%s was handled again beside its first delivery", id)
	}
	close(release["b/1"]) // with the old tag 2, which is c/1's now
	eventually(t, "b/1 is acknowledged", func() bool { return !slices.Contains(stored(b, "work"), "b/1") })
	eventually(t, "d/1 is acknowledged", func() bool { return !slices.Contains(stored(b, "work"), "d/1") })
	if got := stored(b, "work"); !slices.Equal(got, []string{"c/1"}) {
		t.Errorf("c/1 was never handled, and the broker has %q", got)
	}
	close(release["c/1"])
	awaitQueue(t, b, "work", "all is acknowledged", func(q amqptest.QueueState) bool { return q.Ready+q.Unacked == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// T3. Whoever lost a connection gets a new one, never the old one back.
func TestALostConnectionIsNotDialledAgain(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	l, err := dial(testContext(t), Connection{URLs: []string{b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	if l.IsRecoveryEnabled() {
		t.Error("the library's recovery is on")
	}
	logins := observe(b, amqptest.Received("connection.start-ok"))
	ended := l.NotifyClose(make(chan *amqp091.Error, 1))
	b.Drop()
	within(t, time.Second, "the end", func() { <-ended })
	if !l.IsClosed() || len(logins.all()) > 0 {
		t.Errorf("closed %v, %d logins", l.IsClosed(), len(logins.all()))
	}
}

// T4 and T5. Each of these would end the connection or the channel, and with it what others have in flight.
func TestWhatAMQPCannotCarryIsRefusedAndHarmsNobody(t *testing.T) {
	b := startBroker(t, amqptest.Config{FrameMaxBytes: 8192, MaxMessageBytes: 10_000})
	s := openSession(t, b, PublisherConfig{MaxMessageBytes: 10_000, Routing: Routing{Key: "{source}.{type}.{key}"}})
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
			t.Fatalf("%s: got %s, want %s (%v)", reason, statuses(got), want, s.Err())
		}
		wantText(t, errors.New(got[1].Reason), reason)
		tag += 3
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

// T5. Where the broker's limit is lower than ours, its answer names the remedy and blames a message.
func TestABodyThatTheBrokerFindsTooLargeIsBlamedOnTheMessage(t *testing.T) {
	b := startBroker(t, amqptest.Config{MaxMessageBytes: 1000})
	s := openSession(t, b, PublisherConfig{})
	send(t, s, 1, bigEvent())
	wantEnd(t, s, true)
	wantText(t, s.Err(), "larger than configured max size", "PublisherConfig.MaxMessageBytes")
}

// T6. Later publishes on the dead channel succeed for a while; none of them may be taken for published.
func TestADeletedExchangeEndsTheSessionAsRefused(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	s := openSession(t, b, PublisherConfig{})
	send(t, s, 1, testEvent("e1"))
	if got := statuses(receive(t, s, 1)); got != "1 confirmed" {
		t.Errorf("got %s", got)
	}
	administer(t, b, func(ch *amqp091.Channel) error { return ch.ExchangeDelete("events", false, false) })
	for tag := uint64(2); tag < 100 && s.Send(t.Context(), tag, &relay.Entry{Event: testEvent("lost")}) == nil; tag++ {
	}
	wantEnd(t, s, true)
	wantText(t, s.Err(), "404", "no exchange 'events'", "create it, or use Mode Declare")

	s = openSession(t, b, PublisherConfig{}) // declares it again
	send(t, s, 1, testEvent("e1"))
	if got := statuses(receive(t, s, 1)); got != "1 unroutable" {
		t.Errorf("got %s", got)
	}
}

// T7.
func TestANackIsToldFromAClosedChannel(t *testing.T) {
	for name, end := range map[string]amqptest.Action{
		"connection": amqptest.CloseConnection(320, "CONNECTION_FORCED - stopped by an operator"),
		"channel":    amqptest.CloseChannel(406, "PRECONDITION_FAILED - by the test"),
		"socket":     amqptest.Drop(),
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, amqptest.Config{})
			b.Inject(amqptest.Fault{When: published("nack"), Do: amqptest.Nack()})
			b.Inject(amqptest.Fault{When: published("unanswered"), Do: amqptest.NeverConfirm()})
			b.Inject(amqptest.Fault{When: published("end"), Do: end})
			s := openSession(t, b, PublisherConfig{})
			send(t, s, 1, testEvent("nack"))
			if got := statuses(receive(t, s, 1)); got != "1 rejected" {
				t.Errorf("got %s, want 1 rejected", got)
			}
			send(t, s, 2, testEvent("unanswered"))
			send(t, s, 3, testEvent("end"))
			wantEnd(t, s, name == "channel")
			if name == "connection" {
				wantText(t, s.Err(), "320", "stopped by an operator")
			}
		})
	}
}

// T8. A broker that is merely slow would store it twice.
func TestAMissingConfirmEndsTheSession(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	messages := observe(b, amqptest.Publish(nil))
	b.Inject(amqptest.Fault{When: published("e1"), Do: amqptest.NeverConfirm()})
	s := openSession(t, b, PublisherConfig{ConfirmTimeout: 50 * time.Millisecond})
	for tag := range uint64(3) {
		send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
	}
	if got := statuses(receive(t, s, 1)); got != "0 confirmed" {
		t.Errorf("got %s", got)
	}
	wantEnd(t, s, false)
	wantText(t, s.Err(), "event e1", "ConfirmTimeout (50ms)")
	if n := len(messages.all()); n != 3 {
		t.Errorf("%d messages were published, want 3: nothing may be sent again on the same channel", n)
	}
}

// T9 and T17. The library waits up to 5 s for who listens to confirms and doesn't read them.
func TestSendNeverWaitsForOutcomesToBeRead(t *testing.T) {
	s := openSession(t, startBroker(t, amqptest.Config{}), PublisherConfig{Window: 8})
	within(t, 3*time.Second, "1000 sends without reading an outcome", func() {
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

// T10.
func TestAReturnIsNeverMissed(t *testing.T) {
	for _, every := range []uint64{1, 3} {
		b := startBroker(t, amqptest.Config{})
		b.Inject(amqptest.Fault{When: amqptest.Publish(func(m *amqptest.Message) bool { return m.Number%every == 0 }),
			Do: amqptest.Unroutable()})
		s := openSession(t, b, PublisherConfig{Window: 1024})
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

// T10. The returns of a whole window gather while its head waits for a confirm; there must be room for all of them.
func TestAWindowFullOfReturnsFits(t *testing.T) {
	const window = 200
	b, gate := startBroker(t, amqptest.Config{}), amqptest.NewGate()
	confirms := observe(b, amqptest.Sent("basic.ack"))
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.Unroutable()})
	b.Inject(amqptest.Fault{When: published("e0"), Do: amqptest.ConfirmWhen(gate)})
	s := openSession(t, b, PublisherConfig{Window: window})
	for tag := range uint64(window) {
		send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
	}
	confirms.await(t, window-1)
	gate.Open()
	within(t, 3*time.Second, "all outcomes", func() {
		for _, o := range receive(t, s, window) {
			if o.Status != relay.Unroutable {
				t.Errorf("outcome %d is %s", o.Tag, o.Status)
			}
		}
	})
}

// T10. The moment that matters is between looking at the returns and looking at the confirms: here a return and its
// confirm arrive while settle has begun and waits for the window's lock.
func TestAReturnThatArrivesDuringSettleIsNotMissed(t *testing.T) {
	b, gate := startBroker(t, amqptest.Config{}), amqptest.NewGate()
	b.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.Unroutable()})
	b.Inject(amqptest.Fault{When: amqptest.Sent("basic.return"), Do: amqptest.StallWrites(gate)})
	s := openSession(t, b, PublisherConfig{})
	send(t, s, 1, testEvent("e1"))
	eventually(t, "the event is unconfirmed", func() bool { _, head := s.window.first(); return head != nil })

	s.window.mu.Lock()
	confirm := s.window.at(0).confirm
	s.setBlocked(amqp091.Blocking{}) // wakes collect, which settles
	time.Sleep(20 * time.Millisecond)
	gate.Open()
	<-confirm.Done()
	s.window.mu.Unlock()
	if got := statuses(receive(t, s, 1)); got != "1 unroutable" {
		t.Errorf("got %s", got)
	}
}

// methodsBeside returns which methods a client sends, besides those that are named, on channels on which it sends
// method.
func methodsBeside(all []amqptest.Event, method string, allowed ...string) []string {
	type channel struct {
		conn int
		id   uint16
	}
	chosen := map[channel]bool{}
	for _, e := range all {
		if e.Method == method {
			chosen[channel{e.Conn, e.Channel}] = true
		}
	}
	var beside []string
	for _, e := range all {
		if chosen[channel{e.Conn, e.Channel}] && e.Method != method && !slices.Contains(allowed, e.Method) {
			beside = append(beside, e.Method)
		}
	}
	return beside
}

func incoming(e amqptest.Event) bool { return !e.Outgoing }

// T11. Another call's frames between those of a message are a 505, which ends the connection.
func TestAPublishingChannelCarriesMessagesOnly(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	all := observe(b, incoming)
	s := openSession(t, b, PublisherConfig{Exchanges: []Exchange{{Name: "more"}, {Name: "others"}}})
	for tag := range uint64(20) {
		e := testEvent("e")
		e.Data = []byte(`"` + strings.Repeat("x", 300_000) + `"`) // several frames each
		send(t, s, tag, e)
	}
	if err := s.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	if got := receive(t, s, 20); len(got) != 20 {
		t.Errorf("%d outcomes: %v", len(got), s.Err())
	}
	beside := methodsBeside(all.all(), "basic.publish", "channel.open", "confirm.select")
	if len(beside) > 0 {
		t.Errorf("the publishing channel also carries %q", beside)
	}
}

// T11. Acknowledgements are one frame each and may come from any goroutine; everything else has to go elsewhere.
func TestAConsumingChannelCarriesAcknowledgementsOnly(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	all := observe(b, incoming)
	stop := consume(t, b, ConsumerConfig{Handler: handlerFunc(func(_ context.Context, e surepost.Event) (inbox.Result, error) {
		if e.Key == "bad" {
			return 0, inbox.Permanent(errors.New("no such product"))
		}
		return inbox.Handled, nil
	})})
	for n := range 100 {
		put(t, b, []string{"good", "bad"}[n%2], n)
	}
	awaitQueue(t, b, "work", "all is acknowledged", func(q amqptest.QueueState) bool { return q.Ready+q.Unacked == 0 })
	if n := len(b.Messages("work.dlq")); n != 50 {
		t.Errorf("%d dead letters, want 50", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	beside := methodsBeside(all.all(), "basic.consume", "channel.open", "basic.qos", "basic.ack", "channel.close")
	if len(beside) > 0 {
		t.Errorf("the consuming channel also carries %q", beside)
	}
}

// T12. An "unblocked" that is lost would pause the publisher for ever.
func TestNoAlarmIsMissed(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	s := openSession(t, b, PublisherConfig{})
	for tag := range uint64(200) {
		_, _, changed := s.Blocked()
		b.Block("disk")
		send(t, s, tag, testEvent(fmt.Sprint("e", tag)))
		within(t, 3*time.Second, "the alarm", func() { <-changed })
		_, _, changed = s.Blocked()
		b.Unblock()
		within(t, 3*time.Second, "the end of the alarm", func() { <-changed })
		if got := statuses(receive(t, s, 1)); got != fmt.Sprint(tag, " confirmed") {
			t.Fatalf("got %s %v", got, s.Err())
		}
	}
}

// T12. A connection's exception reaches the channel's listener and its own in no order.
func TestAConnectionsExceptionHeardFromTheChannelFirst(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	for _, connectionClosed := range []bool{true, false} {
		l, err := dial(testContext(t), Connection{URLs: []string{b.URL()}})
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

// T12. A connection that is closed in good order closes the listeners without a value.
func TestAnEndWithoutAReasonIsAnEnd(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	l, err := dial(testContext(t), Connection{URLs: []string{b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close(testContext(t))
	silent := make(chan *amqp091.Error)
	close(silent)
	for name, listeners := range map[string][2]chan *amqp091.Error{"connection": {silent, nil}, "channel": {nil, silent}} {
		s := &session{link: l, dead: make(chan struct{})}
		s.running.Add(1)
		s.watch(listeners[0], listeners[1], nil)
		if s.Err() == nil || errors.Is(s.Err(), relay.ErrRefused) {
			t.Errorf("%s: %v", name, s.Err())
		}
	}
}

// T13. Without a prefetch, or with one that is set too late, the whole queue would come into memory.
func TestThePrefetchBoundsWhatIsDelivered(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	release := make(chan struct{})
	handler := handlerFunc(func(context.Context, surepost.Event) (inbox.Result, error) {
		<-release
		return inbox.Handled, nil
	})
	consume(t, b, ConsumerConfig{Handler: handler, Prefetch: 10})() // declares the queue
	for n := range 200 {
		put(t, b, "k", n)
	}
	most := 0
	limits := make(chan struct{})
	go func() {
		defer close(limits)
		awaitQueue(t, b, "work", "all is acknowledged", func(q amqptest.QueueState) bool {
			most = max(most, q.Unacked)
			if q.Unacked >= 10 {
				select {
				case <-release:
				default:
					close(release)
				}
			}
			return q.Ready+q.Unacked == 0
		})
	}()
	stop := consume(t, b, ConsumerConfig{Handler: handler, Prefetch: 10})
	<-limits
	if most != 10 {
		t.Errorf("up to %d messages were delivered at once, the prefetch is 10", most)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// T13. The broker cancels the consumer of a deleted queue; deliveries just stop.
func TestACancelledConsumerBeginsAgain(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	handled := make(chan string, 10)
	stop := consume(t, b, ConsumerConfig{Handler: handlerFunc(func(_ context.Context, e surepost.Event) (inbox.Result, error) {
		handled <- e.ID
		return inbox.Handled, nil
	})})
	administer(t, b, func(ch *amqp091.Channel) error {
		_, err := ch.QueueDelete("work", false, false, false)
		return err
	})
	awaitQueue(t, b, "work", "a new consumer", func(q amqptest.QueueState) bool { return q.Consumers > 0 })
	put(t, b, "a", 1)
	within(t, 5*time.Second, "the next event", func() { <-handled })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// T13. The library closes the channel of deliveries when the session ends; what is read from it then isn't a message.
func TestTheEndOfASessionIsNoMessage(t *testing.T) {
	before := reconnectBackoff
	reconnectBackoff = Backoff{Min: time.Millisecond, Max: time.Millisecond}
	b := startBroker(t, amqptest.Config{})
	opened := make(chan struct{}, 100)
	var text strings.Builder // the logger's lock guards it
	c, err := NewConsumer(ConsumerConfig{
		Connection: Connection{URLs: []string{b.URL()}}, Queue: "work", Types: []string{"#"},
		Handler: handlerFunc(func(context.Context, surepost.Event) (inbox.Result, error) { return inbox.Handled, nil }),
		Hooks:   ConsumerHooks{OnConnect: func() { opened <- struct{}{} }},
		Logger:  slog.New(slog.NewTextHandler(&text, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()
	for range 50 {
		<-opened
		b.Drop()
	}
	<-opened
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	reconnectBackoff = before
	if said := text.String(); strings.Contains(said, "dead letter") || strings.Contains(said, "dead-letter") {
		t.Errorf("of a queue that never had a message something was dead-lettered:\n%s", said)
	}
}

// T14. The library blanks the password that it logged in with, so that the second login would be refused.
func TestEveryLoginHasItsPassword(t *testing.T) {
	for _, mechanism := range []string{"", "?auth_mechanism=plain", "?auth_mechanism=amqplain"} {
		b := startBroker(t, amqptest.Config{Users: map[string]string{"guest": "secret"}})
		publisher, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{b.URL() + mechanism}}})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			s, err := publisher.Open(testContext(t))
			if err != nil {
				t.Fatalf("login %d %s: %v", n+1, mechanism, err)
			}
			s.Close(testContext(t))
		}
	}
}

// T14.
func TestConnectingSharesNothingWithTheCaller(t *testing.T) {
	base := &tls.Config{}
	first, second := tlsConfig(base, "one"), tlsConfig(base, "two")
	if base.ServerName != "" || first.ServerName != "one" || second.ServerName != "two" {
		t.Errorf("server names: caller's %q, %q, %q", base.ServerName, first.ServerName, second.ServerName)
	}
	if first.MinVersion != tls.VersionTLS12 {
		t.Errorf("the oldest TLS is %x", first.MinVersion)
	}
}

// T14. The library also writes to the properties that it is given: the race detector sees those that are shared.
func TestConnectsAtTheSameTimeShareNothing(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	var dials sync.WaitGroup
	for range 8 {
		dials.Go(func() {
			l, err := dial(testContext(t), Connection{URLs: []string{b.URL()}})
			if err != nil {
				t.Error(err)
				return
			}
			l.close(testContext(t))
		})
	}
	dials.Wait()
}

// T15.
func TestFractionsOfASecondSurviveTheWay(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	s := openSession(t, b, PublisherConfig{})
	want := testEvent("e1")
	want.Time = time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC)
	send(t, s, 1, want)
	receive(t, s, 1)
	m := b.Messages("q")[0]
	if !m.Timestamp.Equal(want.Time.Truncate(time.Second)) {
		t.Errorf("the property is %s", m.Timestamp)
	}
	got, err := EventFromDelivery(amqp091.Delivery{MessageId: m.MessageID, Timestamp: m.Timestamp, Body: m.Body})
	if err != nil || !got.Time.Equal(want.Time) {
		t.Errorf("got %s, want %s (%v)", got.Time, want.Time, err)
	}
}

// T16.
func TestTheWindowIsLimited(t *testing.T) {
	connection := Connection{URLs: []string{"amqp://localhost"}}
	for window, want := range map[int]int{0: 1024, 1: 1, 16384: 16384, -1: 0, 16385: 0} {
		p, err := NewPublisher(PublisherConfig{Connection: connection, Window: window})
		switch {
		case want == 0:
			wantText(t, err, fmt.Sprintf("Window is %d", window), "use 1 to 16384")
		case err != nil || p.Window() != want:
			t.Errorf("Window %d: %v", window, err)
		}
	}
}

// T18.
func TestARefusedDeclarationHarmsNoOther(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	l, err := dial(testContext(t), Connection{URLs: []string{b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close(testContext(t))
	for mode, e := range map[Mode]Exchange{
		Declare: {Name: "events", Kind: "fanout"},
		Verify:  {Name: "missing", Kind: "topic"},
	} {
		var refusal *TopologyError
		if err := e.ensure(testContext(t), l, mode); !errors.As(err, &refusal) {
			t.Errorf("%s: %v isn't a TopologyError", mode, err)
		}
		if err := (Exchange{Name: "events", Kind: "topic"}).ensure(testContext(t), l, mode); err != nil {
			t.Errorf("%s: the next declaration: %v", mode, err)
		}
	}
}

// T19. The broker doesn't read from a connection that has published: acknowledgements go by another one.
func TestAnAlarmDoesNotStopAcknowledgements(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	stop := consume(t, b, ConsumerConfig{Handler: handlerFunc(func(_ context.Context, e surepost.Event) (inbox.Result, error) {
		if e.Key == "bad" {
			return 0, inbox.Permanent(errors.New("no such product"))
		}
		return inbox.Handled, nil
	})})
	told := observe(b, amqptest.Sent("connection.blocked"))
	b.Block("low on memory")
	put(t, b, "bad", 1)
	told.await(t, 1) // the connection of the dead letter
	for n := range 50 {
		put(t, b, "good", n)
	}
	only := func(n int) func(amqptest.QueueState) bool {
		return func(q amqptest.QueueState) bool { return q.Ready+q.Unacked == n }
	}
	awaitQueue(t, b, "work", "acknowledgements during the alarm", only(1))
	b.Unblock()
	awaitQueue(t, b, "work", "the dead letter's original", only(0))
	if err := stop(); err != nil {
		t.Error(err)
	}
}
