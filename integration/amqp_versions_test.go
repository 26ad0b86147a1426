package integration

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// brokerVersion returns the broker's major and minor version.
func brokerVersion(t *testing.T, conn *amqp091.Connection) (version [2]int) {
	t.Helper()
	text, _ := conn.Properties["version"].(string)
	for i, part := range strings.SplitN(text, ".", 3)[:2] {
		n, err := strconv.Atoi(part)
		if err != nil {
			t.Fatalf("the broker calls its version %q", text)
		}
		version[i] = n
	}
	return version
}

// since reports whether a broker is of this version or a later one.
func since(version [2]int, major, minor int) bool {
	return slices.Compare(version[:], []int{major, minor}) >= 0
}

// TestWhatCountsAsADelivery: ConsumerConfig.DeliveryLimit rests on these rules, which are the broker's own and differ
// between its versions.
func TestWhatCountsAsADelivery(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	mq := newQueueUnderTest(t, server)
	version := brokerVersion(t, mq.conn)
	for _, c := range []struct {
		way      string
		giveBack func(socket net.Conn, conn *amqp091.Connection, ch *amqp091.Channel, d amqp091.Delivery) error
		counts   bool
	}{
		{"basic.reject", func(_ net.Conn, _ *amqp091.Connection, _ *amqp091.Channel, d amqp091.Delivery) error {
			return d.Reject(true)
		}, true},
		{"basic.nack", func(_ net.Conn, _ *amqp091.Connection, _ *amqp091.Channel, d amqp091.Delivery) error {
			return d.Nack(false, true)
		}, !since(version, 4, 3)},
		{"channel.close", func(_ net.Conn, _ *amqp091.Connection, ch *amqp091.Channel, _ amqp091.Delivery) error {
			return ch.Close()
		}, true},
		{"connection.close", func(_ net.Conn, conn *amqp091.Connection, _ *amqp091.Channel, _ amqp091.Delivery) error {
			return conn.Close()
		}, true},
		{"crash", func(socket net.Conn, _ *amqp091.Connection, _ *amqp091.Channel, _ amqp091.Delivery) error {
			return socket.Close()
		}, true},
	} {
		args := amqp091.Table{"x-queue-type": "quorum", "x-delivery-limit": 5}
		if _, err := mq.channel.QueueDeclare(c.way, true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
		mq.publishRaw("", c.way, amqp091.Publishing{DeliveryMode: amqp091.Persistent}).Wait()
		socket, conn, ch, d := takeOne(t, server.URL(), c.way)
		if d.Redelivered || d.Headers["x-delivery-count"] != nil {
			t.Errorf("%s: a first delivery has %v", c.way, d.Headers)
		}
		if err := c.giveBack(socket, conn, ch, d); err != nil {
			t.Fatal(err)
		}
		_, _, _, d = takeOne(t, server.URL(), c.way)
		count, _ := d.Headers["x-delivery-count"].(int64)
		if want := map[bool]int64{true: 1}[c.counts]; count != want || !d.Redelivered {
			t.Errorf("%s on %v: x-delivery-count %d, want %d; redelivered %v", c.way, version, count, want, d.Redelivered)
		}
		if got := d.Headers["x-acquired-count"]; (got == int64(1)) != since(version, 4, 3) {
			t.Errorf("%s on %v: x-acquired-count %v", c.way, version, got)
		}
	}
}

// takeOne takes one message over a connection of its own and lets no other come.
func takeOne(t *testing.T, url, queue string) (socket net.Conn, conn *amqp091.Connection, ch *amqp091.Channel, d amqp091.Delivery) {
	t.Helper()
	conn, err := amqp091.DialConfig(url, amqp091.Config{Dial: func(network, address string) (_ net.Conn, err error) {
		socket, err = amqp091.DefaultDial(10*time.Second)(network, address)
		return socket, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if ch, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(1, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "taker", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	d = await(t, deliveries)
	if err := ch.Cancel("taker", false); err != nil {
		t.Fatal(err)
	}
	return socket, conn, ch, d
}

// TestConsumerOutlivesTheConsumerTimeout: a handler holds a message for longer than the broker waits. The broker takes
// the channel away, since 4.3 the consumer only; either way the reason is told, and everything is handled in order.
func TestConsumerOutlivesTheConsumerTimeout(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ(harness.Private(), harness.Setting("consumer_timeout", "1000"))).RabbitMQ) // ms
	lost := make(chan error, 10)
	held, again := make(chan error, 1), make(chan int64, 1)
	l := newOrderLedger(t, func(_ context.Context, e surepost.Event) error {
		if e.ID == "key0/1" { // once: whoever handles it again finds that it was handled
			select {
			case err := <-lost:
				held <- err
			case <-time.After(2 * time.Minute): // up to 4.2 the broker looks once a minute
				return errors.New("the broker is patient")
			}
		}
		return nil
	})
	stop := mq.consume(amqp.ConsumerConfig{Handler: l, MaxAttempts: 1, Hooks: amqp.ConsumerHooks{
		OnDisconnect: func(d amqp.Disconnect) { lost <- d.Err },
		OnHandled: func(h amqp.HandledMessage) {
			if h.Event.ID == "key0/1" && h.Result == inbox.Duplicate {
				again <- h.Deliveries
			}
		}}})
	mq.publish(4, 10)
	var err error
	select {
	case err = <-held:
	case <-time.After(2 * time.Minute):
		t.Fatal("the broker took nothing away")
	}
	l.await(40)
	deliveries := await(t, again)
	stop()
	if since(brokerVersion(t, mq.conn), 4, 3) {
		wantWords(t, err, "cancelled the consumer", consumedQueue, "consumer_timeout")
	} else {
		wantWords(t, err, "channel was lost", "406", "acknowledgement", "timed out", "1000 ms")
	}
	if deliveries != 1 {
		t.Errorf("%d deliveries before, want 1", deliveries)
	}
	mq.wantMessages(consumedQueue, 0)
	mq.wantMessages(consumedQueue+".dlq", 0)
}

// TestAMQPTheBrokersLimitOnMessages: a message of 20 MiB is refused before it is sent, or taken where both sides allow
// it; where only we do, the broker's refusal says which limit to change. It allows 16 MiB since 4.0, before 128 MiB.
func TestAMQPTheBrokersLimitOnMessages(t *testing.T) {
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	conn, err := amqp091.Dial(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bindQueue(t, amqpChannel(t, server.URL()), "q", nil)
	large := func(n int) surepost.Event {
		e := publishedEvent(n)
		e.Data = []byte(`"` + strings.Repeat("x", 20<<20) + `"`)
		return e
	}
	s := openPublisher(t, publisherConfig(server.URL()))
	got := publish(t, s, 0, 1, large)
	wantOutcomes(t, got, 0, 1, relay.Refused)
	wantWords(t, errors.New(got[0].Reason), "16777216", "MaxMessageBytes", "max_message_size")
	wantOutcomes(t, publish(t, s, 1, 10, publishedEvent), 1, 10, relay.Confirmed)

	cfg := publisherConfig(server.URL())
	cfg.MaxMessageBytes = 100 << 20
	s = openPublisher(t, cfg)
	got = publish(t, s, 0, 1, large)
	if !since(brokerVersion(t, conn), 4, 0) {
		wantOutcomes(t, got, 0, 1, relay.Confirmed)
		return
	}
	if err := s.Err(); len(got) != 0 || !errors.Is(err, relay.ErrRefused) {
		t.Fatalf("outcomes %v, the session ended with %v", got, err)
	}
	wantWords(t, s.Err(), "16777216", "lower PublisherConfig.MaxMessageBytes")
}
