// Package brokertest is the conformance suite for brokers that speak AMQP 0-9-1 as RabbitMQ does. It runs against
// package amqptest and against real RabbitMQ, with the ordinary client, so that the one can't drift from the other:
// what a real broker does is right.
package brokertest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Target is a broker under test. The suite uses names of its own in one virtual host, and may run several times.
type Target struct {
	// URL is the virtual host's address, with a user who may do anything there.
	URL string

	// ConsumerTimeout is how long a delivery may wait for its acknowledgement, if that is short enough for a test,
	// some seconds at most. Default 0: what depends on it isn't tested.
	ConsumerTimeout time.Duration

	// Block and Unblock raise and clear an alarm. nil: what depends on them isn't tested.
	Block, Unblock func(testing.TB)

	// CloseConnections closes all connections from the broker's side, with 320. nil: not tested.
	CloseConnections func(testing.TB)

	// Restart ends and starts the broker, which keeps what is durable. nil: not tested.
	Restart func(testing.TB)
}

// Run tests a broker. Each promise is a subtest of its name.
func Run(t *testing.T, target Target) {
	version := versionOf(t, target)
	t.Logf("RabbitMQ %s", version)
	for _, group := range []map[string]func(*client){
		disturbing, connections, refusals(), exchanges, queues, publishing, consuming, returning, deadLetters,
	} {
		for _, name := range slices.Sorted(maps.Keys(group)) {
			_, alone := disturbing[name]
			t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
				if !alone {
					t.Parallel()
				}
				group[name](connect(t, target, version))
			})
		}
	}
}

// version is a version of RabbitMQ: 4003 is 4.3.
type version int

func (v version) String() string { return fmt.Sprintf("%d.%d", v/1000, v%1000) }

func versionOf(t *testing.T, target Target) version {
	conn, err := amqp091.Dial(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := regexp.MustCompile(`^(\d+)\.(\d+)`).FindStringSubmatch(fmt.Sprint(conn.Properties["version"]))
	if m == nil {
		t.Fatalf("the broker's version is %v", conn.Properties["version"])
	}
	major, _ := strconv.Atoi(m[1]) // digits, as matched
	minor, _ := strconv.Atoi(m[2])
	return version(major*1000 + minor)
}

// client is a connection with a channel, for one subtest.
type client struct {
	*testing.T
	Target
	version version
	vhost   string
	prefix  string // of names
	conn    *amqp091.Connection
	ended   chan *amqp091.Error
	ch      *amqp091.Channel
	closed  chan *amqp091.Error // of ch
	returns chan amqp091.Return // of ch
}

func connect(t *testing.T, target Target, v version) *client {
	t.Helper()
	u, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{T: t, Target: target, version: v, prefix: strings.ToLower(rand.Text()[:8]) + "."}
	if c.vhost = strings.TrimPrefix(u.Path, "/"); c.vhost == "" {
		c.vhost = "/"
	}
	c.dial()
	return c
}

// limit is how long anything may take.
const limit = 10 * time.Second

func (c *client) dial() {
	c.Helper()
	conn, err := amqp091.Dial(c.URL)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { conn.Close() })
	c.conn, c.ended = conn, conn.NotifyClose(make(chan *amqp091.Error, 1))
	c.channel()
}

// channel replaces the client's channel.
func (c *client) channel() *amqp091.Channel {
	c.Helper()
	ch, err := c.conn.Channel()
	if err != nil {
		c.Fatal(err)
	}
	c.ch = ch
	c.closed = ch.NotifyClose(make(chan *amqp091.Error, 1))
	c.returns = ch.NotifyReturn(make(chan amqp091.Return, 100))
	return ch
}

// other returns another connection to the same names.
func (c *client) other() *client {
	c.Helper()
	o := *c
	o.dial()
	return &o
}

// name returns a name that no other subtest uses.
func (c *client) name(s string) string { return c.prefix + s }

// queueText is how RabbitMQ names a queue in its error texts.
func (c *client) queueText(name string) string {
	return fmt.Sprintf("queue '%s' in vhost '%s'", c.name(name), c.vhost)
}

func (c *client) exchangeText(name string) string {
	return fmt.Sprintf("exchange '%s' in vhost '%s'", c.name(name), c.vhost)
}

// check fails the test with an error.
func (c *client) check(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

type table = amqp091.Table

// queue declares a queue that is durable, and deletes it after the test.
func (c *client) queue(name string, args table) string {
	c.Helper()
	_, err := c.ch.QueueDeclare(c.name(name), true, false, false, false, args)
	c.check(err)
	c.deleteLater(name)
	return c.name(name)
}

func (c *client) deleteLater(name string) {
	c.Cleanup(func() {
		conn, err := amqp091.Dial(c.URL)
		if err != nil {
			return // the next run uses other names
		}
		defer conn.Close()
		if ch, err := conn.Channel(); err == nil {
			_, _ = ch.QueueDelete(c.name(name), false, false, false)
		}
	})
}

// exchange declares an exchange that goes with the test.
func (c *client) exchange(name, kind string, args table) string {
	c.Helper()
	c.check(c.ch.ExchangeDeclare(c.name(name), kind, false, false, false, false, args))
	c.Cleanup(func() {
		conn, err := amqp091.Dial(c.URL)
		if err != nil {
			return
		}
		defer conn.Close()
		if ch, err := conn.Channel(); err == nil {
			_ = ch.ExchangeDelete(c.name(name), false, false)
		}
	})
	return c.name(name)
}

func (c *client) bind(queue, key, exchange string, args table) {
	c.Helper()
	c.check(c.ch.QueueBind(c.name(queue), key, c.name(exchange), false, args))
}

// message returns a persistent message with an id.
func message(id string) amqp091.Publishing {
	return amqp091.Publishing{MessageId: id, DeliveryMode: amqp091.Persistent, Body: []byte("body of " + id)}
}

// publish publishes messages to a queue and waits for the confirms.
func (c *client) publish(queue string, ids ...string) {
	c.Helper()
	for _, id := range ids {
		c.send("", c.name(queue), message(id))
	}
}

// send publishes one message on a channel in confirm mode, and returns whether it was acked.
func (c *client) send(exchange, key string, m amqp091.Publishing) bool {
	c.Helper()
	c.check(c.ch.Confirm(false))
	d, err := c.ch.PublishWithDeferredConfirm(exchange, key, true, false, m)
	c.check(err)
	await(c, "confirm", d.Done())
	return d.Acked()
}

func await[T any](c *client, what string, from <-chan T) T {
	c.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(limit):
		c.Fatalf("no %s within %s", what, limit)
		panic("unreachable")
	}
}

// consume starts a consumer.
func (c *client) consume(queue string, args table) <-chan amqp091.Delivery {
	c.Helper()
	d, err := c.ch.Consume(c.name(queue), "", false, false, false, false, args)
	c.check(err)
	return d
}

// next returns the next delivery.
func (c *client) next(from <-chan amqp091.Delivery) amqp091.Delivery {
	c.Helper()
	select {
	case d, ok := <-from:
		if !ok {
			c.Fatal("the consumer has ended")
		}
		return d
	case <-time.After(limit):
		c.Fatalf("no delivery within %s", limit)
		panic("unreachable")
	}
}

// want receives messages with these ids, in this order.
func (c *client) want(from <-chan amqp091.Delivery, ids ...string) []amqp091.Delivery {
	c.Helper()
	var out []amqp091.Delivery
	for _, id := range ids {
		d := c.next(from)
		if d.MessageId != id {
			c.Fatalf("got %q, want %q", d.MessageId, id)
		}
		out = append(out, d)
	}
	return out
}

// quiet is how long nothing may come before a test believes that nothing will.
const quiet = 100 * time.Millisecond

func (c *client) wantNothing(from <-chan amqp091.Delivery) {
	c.Helper()
	select {
	case d, ok := <-from:
		c.Fatalf("got %q (%v), want nothing", d.MessageId, ok)
	case <-time.After(quiet):
	}
}

// get takes messages from a queue until it has n, and acknowledges them.
func (c *client) get(queue string, n int) []amqp091.Delivery {
	c.Helper()
	var out []amqp091.Delivery
	for deadline := time.Now().Add(limit); len(out) < n; {
		d, ok, err := c.ch.Get(c.name(queue), true)
		c.check(err)
		if ok {
			out = append(out, d)
		} else if time.Now().After(deadline) {
			c.Fatalf("%s has %d messages, want %d", queue, len(out), n)
		} else {
			time.Sleep(time.Millisecond) // AMQP has no way to wait with basic.get
		}
	}
	return out
}

// wantIDs takes all messages from a queue, and compares their ids.
func (c *client) wantIDs(queue string, ids ...string) []amqp091.Delivery {
	c.Helper()
	out := c.get(queue, len(ids))
	for i, d := range out {
		if d.MessageId != ids[i] {
			c.Errorf("%s: message %d is %q, want %q", queue, i, d.MessageId, ids[i])
		}
	}
	if d, ok, err := c.ch.Get(c.name(queue), true); ok || err != nil {
		c.Errorf("%s: one more message, %q (%v)", queue, d.MessageId, err)
	}
	return out
}

// wantReady waits until a queue has n ready messages.
func (c *client) wantReady(queue string, n int) {
	c.Helper()
	got := -1
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		q, err := c.ch.QueueDeclarePassive(c.name(queue), true, false, false, false, nil)
		c.check(err)
		if got = q.Messages; got == n {
			return
		}
	}
	c.Fatalf("%s has %d messages, want %d", queue, got, n)
}

// wantClosed waits for the end of the channel, or of the connection, with a code and a text.
func (c *client) wantClosed(by <-chan *amqp091.Error, code int, text string) {
	c.Helper()
	wantError(c, await(c, "close", by), code, text)
}

func wantError(c *client, err error, code int, text string) {
	c.Helper()
	var e *amqp091.Error
	if !errors.As(err, &e) || e == nil {
		c.Fatalf("error %v, want %d %s", err, code, text)
	}
	if e.Code != code || !strings.Contains(e.Reason, text) {
		c.Errorf("got  %d %s\nwant %d %s", e.Code, e.Reason, code, text)
	}
}
