package amqptest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp/amqptest"
)

// client is one connection with one channel in confirm mode and a durable queue "q".
type client struct {
	t       testing.TB
	broker  *amqptest.Broker
	conn    *amqp091.Connection
	ch      *amqp091.Channel
	ended   chan *amqp091.Error // of the connection
	closed  chan *amqp091.Error // of the channel
	returns chan amqp091.Return
	blocked chan amqp091.Blocking
}

func connect(t testing.TB, b *amqptest.Broker) *client {
	t.Helper()
	conn, err := amqp091.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	return open(t, b, conn)
}

func open(t testing.TB, b *amqptest.Broker, conn *amqp091.Connection) *client {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	c := &client{t: t, broker: b, conn: conn,
		ended:   conn.NotifyClose(make(chan *amqp091.Error, 1)),
		blocked: conn.NotifyBlocked(make(chan amqp091.Blocking, 4))}
	c.ch = must(conn.Channel())(t)
	c.closed = c.ch.NotifyClose(make(chan *amqp091.Error, 1))
	c.returns = c.ch.NotifyReturn(make(chan amqp091.Return, 1000))
	if err := c.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	must(c.ch.QueueDeclare("q", true, false, false, false, nil))(t)
	return c
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (c *client) publish(id string) *amqp091.DeferredConfirmation {
	c.t.Helper()
	return must(c.ch.PublishWithDeferredConfirm("", "q", true, false,
		amqp091.Publishing{MessageId: id, DeliveryMode: amqp091.Persistent, Body: []byte(id)}))(c.t)
}

func await[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s within 10 s", what)
		panic("unreachable")
	}
}

// outcome waits for a confirm.
func (c *client) outcome(d *amqp091.DeferredConfirmation) (acked bool) {
	c.t.Helper()
	await(c.t, "confirm", d.Done())
	return d.Acked()
}

func (c *client) wantStored(ids ...string) {
	c.t.Helper()
	var got []string
	for _, m := range c.broker.Messages("q") {
		got = append(got, m.MessageID)
	}
	if len(got) != len(ids) {
		c.t.Fatalf("stored %q, want %q", got, ids)
	}
	for i := range ids {
		if got[i] != ids[i] {
			c.t.Fatalf("stored %q, want %q", got, ids)
		}
	}
}

func byID(id string) func(amqptest.Event) bool {
	return amqptest.Publish(func(m *amqptest.Message) bool { return m.MessageID == id })
}

func TestConnectionEndsBeforeOrAfterTheEffect(t *testing.T) {
	for name, test := range map[string]struct {
		do     amqptest.Action
		after  bool
		stored []string
		code   int
	}{
		"close before": {amqptest.CloseConnection(320, "CONNECTION_FORCED - test"), false, []string{"1"}, 320},
		"close after":  {amqptest.CloseConnection(320, "CONNECTION_FORCED - test"), true, []string{"1", "2"}, 320},
		"drop before":  {amqptest.Drop(), false, []string{"1"}, 501},
		"drop after":   {amqptest.Drop(), true, []string{"1", "2"}, 501},
		"reset before": {amqptest.Reset(), false, []string{"1"}, 501},
		"reset after":  {amqptest.Reset(), true, []string{"1", "2"}, 501},
		"cut after":    {amqptest.CutFrame(), true, []string{"1", "2"}, 501},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, start(t, amqptest.Config{}))
			c.broker.Inject(amqptest.Fault{When: byID("2"), Do: test.do, After: test.after})
			if !c.outcome(c.publish("1")) {
				t.Fatal("1 was refused")
			}
			if c.outcome(c.publish("2")) {
				t.Error("2 was confirmed")
			}
			if err := await(t, "end", c.ended); err == nil || err.Code != test.code {
				t.Errorf("the connection ended with %v, want %d", err, test.code)
			}
			c.wantStored(test.stored...)
		})
	}
}

func TestChannelEndsBeforeOrAfterTheEffect(t *testing.T) {
	for name, test := range map[string]struct {
		after  bool
		stored []string
	}{"before": {false, nil}, "after": {true, []string{"1"}}} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, start(t, amqptest.Config{}))
			c.broker.Inject(amqptest.Fault{When: amqptest.Publish(nil), After: test.after,
				Do: amqptest.CloseChannel(406, "PRECONDITION_FAILED - test")})
			if c.outcome(c.publish("1")) {
				t.Error("1 was confirmed")
			}
			if err := await(t, "end", c.closed); err == nil || err.Code != 406 {
				t.Errorf("the channel ended with %v, want 406", err)
			}
			must(c.conn.Channel())(t) // the connection lives
			c.wantStored(test.stored...)
		})
	}
}

func TestMethodTakesEffectOrNotWhenItsAnswerIsLost(t *testing.T) {
	for _, after := range []bool{false, true} {
		c := connect(t, start(t, amqptest.Config{}))
		c.broker.Inject(amqptest.Fault{When: amqptest.Received("queue.declare"), Do: amqptest.Drop(), After: after})
		if _, err := c.ch.QueueDeclare("other", true, false, false, false, nil); err == nil {
			t.Error("declared without an answer")
		}
		if _, there := c.broker.Queue("other"); there != after {
			t.Errorf("after %v: the queue is there: %v", after, there)
		}
	}
}

func TestNackOfTheKthPublish(t *testing.T) {
	c := connect(t, start(t, amqptest.Config{}))
	c.broker.Inject(amqptest.Fault{When: amqptest.Publish(nil), Skip: 1, Times: 1, Do: amqptest.Nack()})
	c.broker.Inject(amqptest.Fault{When: byID("4"), Do: amqptest.NackStored()})
	for i, id := range []string{"1", "2", "3", "4"} {
		if got := c.outcome(c.publish(id)); got != (i%2 == 0) {
			t.Errorf("%s: acked = %v", id, got)
		}
	}
	c.wantStored("1", "3", "4")
}

func TestConfirmsWaitForTheirGate(t *testing.T) {
	c := connect(t, start(t, amqptest.Config{}))
	gate := amqptest.NewGate()
	c.broker.Inject(amqptest.Fault{When: byID("late"), Do: amqptest.ConfirmWhen(gate)})
	c.broker.Inject(amqptest.Fault{When: byID("slow"), Do: amqptest.ConfirmAfter(time.Millisecond)})
	c.broker.Inject(amqptest.Fault{When: byID("lost"), Do: amqptest.NeverConfirm()})
	late, slow, lost, now := c.publish("late"), c.publish("slow"), c.publish("lost"), c.publish("now")
	if !c.outcome(now) || !c.outcome(slow) {
		t.Error("refused")
	}
	select {
	case <-late.Done():
		t.Error("confirmed before the gate is open")
	default:
	}
	gate.Open()
	if !c.outcome(late) {
		t.Error("refused")
	}
	select {
	case <-lost.Done():
		t.Error("confirmed")
	default:
	}
	c.wantStored("late", "slow", "lost", "now")
}

func TestUnroutableIsReturnedBeforeItsAck(t *testing.T) {
	c := connect(t, start(t, amqptest.Config{}))
	c.broker.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.Unroutable(), Times: 1})
	if !c.outcome(c.publish("1")) {
		t.Error("refused")
	}
	select {
	case r := <-c.returns:
		if r.MessageId != "1" || r.ReplyCode != 312 || string(r.Body) != "1" {
			t.Errorf("returned %+v", r)
		}
	default:
		t.Error("not returned before the ack")
	}
	c.wantStored()
}

func TestHalfAFrameEndsTheConnection(t *testing.T) {
	c := connect(t, start(t, amqptest.Config{}))
	c.broker.Inject(amqptest.Fault{When: amqptest.Sent("basic.deliver"), Do: amqptest.CutFrame(), Times: 1})
	deliveries := must(c.ch.Consume("q", "", false, false, false, false, nil))(t)
	c.publish("1")
	if _, ok := <-deliveries; ok {
		t.Error("delivered")
	}
	if err := await(t, "end", c.ended); err == nil {
		t.Error("the connection ended without an error")
	}
	c.wantStored("1")
	if !c.broker.Messages("q")[0].Redelivered {
		t.Error("not marked as redelivered")
	}
}

// A consumer's whole prefetch is its own before the first of it is sent, as in RabbitMQ.
func TestALostConsumerHadItsWholePrefetch(t *testing.T) {
	c := connect(t, start(t, amqptest.Config{}))
	for _, id := range []string{"1", "2", "3", "4"} {
		c.outcome(c.publish(id))
	}
	c.broker.Inject(amqptest.Fault{When: amqptest.Sent("basic.deliver"), Do: amqptest.CutFrame(), Times: 1})
	if err := c.ch.Qos(3, 0, false); err != nil {
		t.Fatal(err)
	}
	_, _ = c.ch.Consume("q", "", false, false, false, false, nil) // what it answers is cut too, now and then
	await(t, "end", c.ended)
	c.wantStored("1", "2", "3", "4")
	for i, m := range c.broker.Messages("q") {
		if had := i < 3; m.Redelivered != had {
			t.Errorf("message %d: redelivered is %t", i+1, m.Redelivered)
		}
	}
}

func TestStalledBrokerBlocksWrites(t *testing.T) {
	b := start(t, amqptest.Config{PipeOnly: true})
	c := open(t, b, must(amqp091.DialConfig(b.URL(), amqp091.Config{Dial: b.Dial}))(t))
	gate := amqptest.NewGate()
	c.broker.Inject(amqptest.Fault{When: byID("1"), Do: amqptest.StallReads(gate)})
	published := make(chan struct{})
	go func() {
		defer close(published)
		c.publish("1")
		// The broker's own buffer of 32 KiB takes one of these at most.
		for range 3 {
			c.ch.Publish("", "q", false, false, amqp091.Publishing{Body: make([]byte, 30_000)})
		}
	}()
	select {
	case <-published:
		t.Error("written to a broker that doesn't read")
	case <-time.After(50 * time.Millisecond):
	}
	gate.Open()
	await(t, "return from the write", published)
}

func TestStalledWritesComeLater(t *testing.T) {
	c := connect(t, start(t, amqptest.Config{}))
	gate := amqptest.NewGate()
	c.broker.Inject(amqptest.Fault{When: amqptest.Sent("basic.ack"), Do: amqptest.StallWrites(gate), Times: 1})
	d := c.publish("1")
	select {
	case <-d.Done():
		t.Error("confirmed through a stalled connection")
	case <-time.After(50 * time.Millisecond):
	}
	c.wantStored("1")
	gate.Open()
	if !c.outcome(d) {
		t.Error("refused")
	}
}

func TestRefusedLogin(t *testing.T) {
	b := start(t, amqptest.Config{})
	b.Inject(amqptest.Fault{When: amqptest.Received("connection.start-ok"), Do: amqptest.RefuseLogin(), Times: 1})
	if _, err := amqp091.Dial(b.URL()); !errors.Is(err, amqp091.ErrCredentials) {
		var e *amqp091.Error
		if !errors.As(err, &e) || e.Code != 403 {
			t.Errorf("dialled with %v, want 403", err)
		}
	}
	connect(t, b) // only once
}

// TestConfirmsOutOfOrderAndMultiple: whatever the order, each message gets exactly its own outcome.
func TestConfirmsOutOfOrderAndMultiple(t *testing.T) {
	for name, how := range map[string]amqptest.Confirms{
		"one by one":            {},
		"shuffled":              {Gather: 10, Shuffle: true, Seed: 1},
		"multiple":              {Gather: 10, Multiple: true},
		"shuffled and multiple": {Gather: 7, Shuffle: true, Multiple: true, Seed: 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, start(t, amqptest.Config{Confirms: how}))
			nacked := amqptest.Sometimes(3, 0.1, amqptest.Publish(nil))
			want := map[string]bool{}
			var wire []amqptest.Event // confirms
			c.broker.Inject(amqptest.Fault{When: nacked, Do: amqptest.Nack()})
			stopWatching := c.broker.Inject(amqptest.Fault{When: func(e amqptest.Event) bool {
				switch {
				case e.Method == "basic.publish":
					want[e.Message.MessageID] = !nacked(e)
				case e.Outgoing && (e.Method == "basic.ack" || e.Method == "basic.nack"):
					wire = append(wire, e)
				}
				return false
			}})
			confirms := map[string]*amqp091.DeferredConfirmation{}
			for i := range 500 {
				confirms[fmt.Sprint(i)] = c.publish(fmt.Sprint(i))
			}
			for _, d := range confirms {
				c.outcome(d)
			}
			stopWatching()
			acks := 0
			for id, d := range confirms {
				acked := c.outcome(d)
				if acked {
					acks++
				}
				if acked != want[id] {
					t.Errorf("%s: acked = %v, want %v", id, acked, want[id])
				}
			}
			if n := len(c.broker.Messages("q")); n != acks || acks == 500 {
				t.Errorf("%d acks, %d stored", acks, n)
			}
			disorder, multiple := 0, 0
			for i, e := range wire {
				if i > 0 && e.Tag < wire[i-1].Tag {
					disorder++
				}
				if e.Multiple {
					multiple++
				}
			}
			if (disorder > 0) != how.Shuffle && !how.Multiple || (multiple > 0) != how.Multiple {
				t.Errorf("%d out of order, %d multiple", disorder, multiple)
			}
			if how.Multiple && len(wire) >= 500 {
				t.Errorf("%d confirms for 500 messages", len(wire))
			}
		})
	}
}

func TestCrashLosesWhatWasNotConfirmed(t *testing.T) {
	for name, test := range map[string]struct {
		crash  func(*amqptest.Broker)
		stored []string
	}{
		"kill":  {(*amqptest.Broker).Kill, []string{"sure", "unsure"}},
		"crash": {(*amqptest.Broker).Crash, []string{"sure"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, start(t, amqptest.Config{}))
			if !c.outcome(c.publish("sure")) {
				t.Fatal("refused")
			}
			if err := c.ch.Publish("", "q", false, false, amqp091.Publishing{MessageId: "transient"}); err != nil {
				t.Fatal(err)
			}
			c.broker.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.NeverConfirm()})
			c.publish("unsure")
			must(c.ch.QueueDeclare("transient", false, false, false, false, nil))(t)
			test.crash(c.broker)
			await(t, "end", c.ended)
			if _, err := amqp091.Dial(c.broker.URL()); err == nil {
				t.Error("connected to a broker that is down")
			}
			c.wantStored(test.stored...)
			if _, there := c.broker.Queue("transient"); there {
				t.Error("the transient queue is still there")
			}
			c.broker.Start()
			connect(t, c.broker)
		})
	}
}

func TestBlockedPublishersAreToldAndNotRead(t *testing.T) {
	b := start(t, amqptest.Config{})
	publisher, other := connect(t, b), connect(t, b)
	if !publisher.outcome(publisher.publish("1")) {
		t.Fatal("refused")
	}
	b.Block("low on memory")
	d := publisher.publish("2")
	if got := await(t, "connection.blocked", publisher.blocked); !got.Active || got.Reason != "low on memory" {
		t.Errorf("told %+v", got)
	}
	must(other.ch.QueueDeclarePassive("q", true, false, false, false, nil))(t) // others aren't concerned
	select {
	case <-other.blocked:
		t.Error("told, though it doesn't publish")
	case <-d.Done():
		t.Error("confirmed by a blocked broker")
	case <-time.After(20 * time.Millisecond):
	}
	b.Unblock()
	if got := await(t, "connection.unblocked", publisher.blocked); got.Active {
		t.Errorf("told %+v", got)
	}
	if !publisher.outcome(d) {
		t.Error("refused")
	}
}

func TestHeartbeatsGoOnWhileBlocked(t *testing.T) {
	b := start(t, amqptest.Config{Heartbeat: time.Second})
	c := connect(t, b)
	b.Block("low on memory")
	c.publish("1")
	select {
	case err := <-c.ended: // the client gives up after 1.5 s of silence, the broker after 2 s
		t.Errorf("the connection ended: %v", err)
	case <-time.After(2500 * time.Millisecond):
	}
	b.Unblock()
	connect(t, b)
}

func TestSilentClientIsCutAfterTwoHeartbeats(t *testing.T) {
	b := start(t, amqptest.Config{Heartbeat: time.Second})
	var raw net.Conn
	c := must(amqp091.DialConfig(b.URL(), amqp091.Config{Dial: func(network, addr string) (net.Conn, error) {
		conn, err := net.Dial(network, addr)
		raw = conn
		return &mute{Conn: conn}, err
	}}))(t)
	raw.(*net.TCPConn).SetLinger(0)
	_ = c
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.AwaitConnections(ctx, 0); err != nil {
		t.Error(err)
	}
}

// mute swallows heartbeats.
type mute struct{ net.Conn }

func (m *mute) Write(p []byte) (int, error) {
	if p[0] == 8 {
		return len(p), nil
	}
	return m.Conn.Write(p)
}
