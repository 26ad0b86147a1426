package brokertest

import (
	"fmt"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// publishTo publishes numbered messages.
func (c *client) publishTo(queue string, n int) (ids []string) {
	c.Helper()
	for i := range n {
		ids = append(ids, fmt.Sprint(i+1))
	}
	c.publish(queue, ids...)
	return ids
}

// bothTypes runs a test with a classic and a quorum queue.
func bothTypes(test func(c *client, kind string, args func(table) table)) func(*client) {
	return func(c *client) {
		for _, kind := range []string{"classic", "quorum"} {
			c.channel() // and leave the other one alone
			test(c, kind, func(more table) table {
				t := quorum(more)
				t["x-queue-type"] = kind
				return t
			})
		}
	}
}

var queues = map[string]func(*client){
	"a queue is first in first out": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.wantIDs(q, c.publishTo(q, 20)...)
	}),

	"the broker names queues, and an empty name is the last one": func(c *client) {
		q, err := c.ch.QueueDeclare("", false, true, true, false, nil)
		c.check(err)
		if !strings.HasPrefix(q.Name, "amq.gen-") {
			c.Errorf("named %q", q.Name)
		}
		if !c.send("", q.Name, message("1")) {
			c.Error("refused")
		}
		if d, ok, err := c.ch.Get("", true); err != nil || !ok || d.MessageId != "1" {
			c.Errorf("got %q (%v)", d.MessageId, err)
		}
		wantError(c, c.passiveNameless(), 404, "NOT_FOUND - no queue '' in vhost '"+c.vhost+"'")
	},

	"a declaration counts messages and consumers": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 3)
		c.check(c.ch.Qos(1, 0, false))
		c.next(c.consume("q", nil))
		q, err := c.ch.QueueDeclarePassive(c.name("q"), true, false, false, false, nil)
		c.check(err)
		if q.Messages != 2 || q.Consumers != 1 {
			c.Errorf("%+v", q)
		}
	},

	"the queue type classic is the default": func(c *client) {
		c.queue("q", nil)
		c.check(c.declare("q", table{"x-queue-type": "classic"}))
		c.queue("r", table{"x-queue-type": "classic"})
		c.check(c.declare("r", nil))
	},

	"an exclusive queue goes with its connection": func(c *client) {
		o := c.other()
		_, err := o.ch.QueueDeclare(c.name("q"), false, false, true, false, nil)
		c.check(err)
		c.check(o.conn.Close())
		c.eventually("the queue is deleted", func() bool {
			c.channel()
			err := c.passive("q")
			e, ok := err.(*amqp091.Error)
			return ok && e.Code == 404
		})
	},

	"an auto-delete queue goes with its last consumer": func(c *client) {
		_, err := c.ch.QueueDeclare(c.name("q"), true, true, false, false, nil)
		c.check(err)
		_, err = c.ch.Consume(c.name("q"), "tag", false, false, false, false, nil)
		c.check(err)
		c.check(c.ch.Cancel("tag", false))
		c.eventually("the queue is deleted", func() bool {
			defer c.channel()
			return c.passive("q") != nil
		})
	},

	"purge drops what is ready": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 3)
		c.wantReady(q, 3)
		n, err := c.ch.QueuePurge(c.name(q), false)
		c.check(err)
		if n != 3 {
			c.Errorf("%d purged, want 3", n)
		}
		c.wantIDs(q)
	}),

	"delete counts messages and drops bindings": func(c *client) {
		c.exchange("x", "fanout", nil)
		c.queue("q", nil)
		c.bind("q", "", "x", nil)
		c.publishTo("q", 3)
		n, err := c.ch.QueueDelete(c.name("q"), false, false, false)
		c.check(err)
		if n != 3 {
			c.Errorf("%d deleted, want 3", n)
		}
		c.queue("q", nil)
		c.wantRouted(c.routed("x", "", nil, "q"), "returned")
	},

	"a full queue drops its oldest messages": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(table{"x-max-length": int64(2)}))
		c.publishTo(q, 5)
		c.wantReady(q, 2)
		c.wantIDs(q, "4", "5")
	}),

	"a queue that is full by bytes drops its oldest messages": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(table{"x-max-length-bytes": int64(25_000)}))
		for i := range 5 {
			c.send("", c.name(q), amqp091.Publishing{MessageId: fmt.Sprint(i), Body: make([]byte, 10_000)})
		}
		c.wantReady(q, 2)
		c.wantIDs(q, "3", "4")
	}),

	"a full queue nacks if it is to": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(table{"x-max-length": int64(2), "x-overflow": "reject-publish"}))
		var acks, nacks int
		for i := range 20 {
			if c.send("", c.name(q), message(fmt.Sprint(i))) {
				acks++
			} else {
				nacks++
			}
		}
		// A quorum queue notices late that it is full.
		if acks < 2 || nacks == 0 || q == "classic" && acks != 2 {
			c.Errorf("%s: %d acks, %d nacks", q, acks, nacks)
		}
		if got := len(c.get(q, acks)); got != acks {
			c.Errorf("%s: %d messages, %d acks", q, got, acks)
		}
		c.eventually("it takes messages again", func() bool { return c.send("", c.name(q), message("again")) })
	}),

	"messages expire": bothTypes(func(c *client, q string, args func(table) table) {
		if q == "quorum" && c.version < 3_010 {
			return
		}
		c.queue(q, args(table{"x-message-ttl": int64(50)}))
		c.publishTo(q, 3)
		c.wantReady(q, 0)
		own := q + ".own"
		c.queue(own, args(nil))
		c.send("", c.name(own), amqp091.Publishing{Expiration: "50"})
		c.wantReady(own, 0)
	}),

	"a message expires when it is next": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.send("", c.name(q), amqp091.Publishing{MessageId: "lasts"})
		c.send("", c.name(q), amqp091.Publishing{MessageId: "brief", Expiration: "20"})
		time.Sleep(quiet)
		c.wantReady(q, 2)
		c.wantIDs(q, "lasts")
	}),

	"a message without time to live waits for nobody": func(c *client) {
		c.queue("q", nil)
		c.send("", c.name("q"), amqp091.Publishing{Expiration: "0"})
		c.wantReady("q", 0)
		d := c.consume("q", nil)
		c.send("", c.name("q"), amqp091.Publishing{MessageId: "1", Expiration: "0"})
		c.want(d, "1")
	},

	"an unused queue expires": func(c *client) {
		c.queue("q", table{"x-expires": int64(100)})
		time.Sleep(5 * quiet)
		wantError(c, c.passive("q"), 404, "NOT_FOUND")
	},

	"a queue is told apart from its dead-letter key without exchange": func(c *client) {
		err := c.declare("q", table{"x-dead-letter-routing-key": "k"})
		wantError(c, err, 406, "PRECONDITION_FAILED - ")
	},

	"properties arrive as they were sent": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		sent := amqp091.Publishing{
			Headers: table{"string": "s", "int64": int64(1), "int32": int32(-2), "bool": true, "nil": nil, "double": 1.5,
				"bytes": []byte("b"), "time": time.Unix(1700000000, 0), "array": []any{"a", int64(1), table{"x": "y"}},
				"table": table{"inner": table{"deep": int64(3)}}, "decimal": amqp091.Decimal{Scale: 2, Value: 123},
				"int16": int16(7), "int8": int8(-1), "byte": byte(200), "uint16": uint16(65535), "uint32": uint32(1 << 31),
				"float32": float32(0.5)},
			ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: 2, Priority: 3, CorrelationId: "c",
			ReplyTo: "r", MessageId: "m", Timestamp: time.Unix(1700000001, 0), Type: "t", AppId: "a",
			Body: []byte("the body"),
		}
		c.send("", c.name(q), sent)
		got := c.get(q, 1)[0]
		for name, want := range sent.Headers {
			if fmt.Sprint(got.Headers[name]) != fmt.Sprint(want) {
				c.Errorf("%s: header %s is %#v, want %#v", q, name, got.Headers[name], want)
			}
		}
		if zero, ok := got.Headers["x-delivery-count"]; ok && zero == int64(0) && c.version < 4_000 {
			delete(got.Headers, "x-delivery-count") // basic.get from a quorum queue has it
		}
		if len(got.Headers) != len(sent.Headers) {
			c.Errorf("%s: headers %v", q, got.Headers)
		}
		if got.ContentType != sent.ContentType || got.ContentEncoding != sent.ContentEncoding || got.DeliveryMode != 2 ||
			got.Priority != 3 || got.CorrelationId != "c" || got.ReplyTo != "r" || got.MessageId != "m" ||
			!got.Timestamp.Equal(sent.Timestamp) || got.Type != "t" || got.AppId != "a" || string(got.Body) != "the body" ||
			got.RoutingKey != c.name(q) || got.Exchange != "" || got.Redelivered {
			c.Errorf("%s: got %+v", q, got)
		}
	}),
}

func (c *client) passiveNameless() error {
	_, err := c.ch.QueueDeclarePassive("", false, true, true, false, nil)
	return err
}

// eventually waits for something of which AMQP doesn't tell.
func (c *client) eventually(what string, ok func() bool) {
	c.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.Fatalf("%s: not within %s", what, limit)
		}
	}
}
