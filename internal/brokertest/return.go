package brokertest

import (
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// count returns the delivery count of a quorum queue's message, which is absent for 0.
func count(d amqp091.Delivery) int64 {
	n, _ := d.Headers["x-delivery-count"].(int64)
	return n
}

// hasLimit says whether a quorum queue without x-delivery-limit has a limit nevertheless.
func (c *client) hasLimit() bool { return c.version >= 4_000 }

var returning = map[string]func(*client){
	"a classic queue takes messages back to where they were": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 5)
		o := c.other()
		got := c.want(o.consume("q", nil), "1", "2", "3", "4", "5")
		c.check(o.ch.Cancel(got[0].ConsumerTag, false))
		c.check(got[3].Nack(false, true))
		c.check(got[1].Reject(true))
		c.wantReady("q", 2)
		for _, d := range c.wantIDs("q", "2", "4") {
			if !d.Redelivered {
				c.Errorf("%s isn't marked as redelivered", d.MessageId)
			}
		}
		c.check(o.ch.Close())
		c.wantReady("q", 3)
		c.wantIDs("q", "1", "3", "5")
	},

	"a quorum queue with a limit takes messages back to the front, in the order of their return": func(c *client) {
		c.queue("q", quorum(table{"x-delivery-limit": int64(10)}))
		c.publishTo("q", 5)
		c.check(c.ch.Qos(3, 0, false))
		got := c.want(c.consume("q", nil), "1", "2", "3")
		c.check(c.ch.Cancel(got[0].ConsumerTag, false))
		c.check(got[1].Nack(false, true))
		c.check(got[0].Nack(false, true))
		c.wantReady("q", 4)
		c.wantIDs("q", "2", "1", "4", "5")
	},

	"a quorum queue without a limit takes messages back to the end before 4.3 only": func(c *client) {
		args := quorum(nil)
		if c.hasLimit() {
			args["x-delivery-limit"] = int64(-1)
		}
		c.queue("q", args)
		for name, giveBack := range map[string]func(amqp091.Delivery) error{
			"nack":   func(d amqp091.Delivery) error { return d.Nack(false, true) },
			"reject": func(d amqp091.Delivery) error { return d.Reject(true) },
		} {
			q := "q." + name
			c.channel()
			c.queue(q, args)
			c.publishTo(q, 3)
			c.check(c.ch.Qos(1, 0, false))
			d := c.consume(q, nil)
			c.check(giveBack(c.want(d, "1")[0]))
			order := []string{"2", "3", "1"}
			if c.version >= 4_003 {
				order = []string{"1", "2", "3"}
			}
			for _, id := range order {
				m := c.next(d)
				if m.MessageId != id {
					c.Errorf("%s: got %s, want %s", name, m.MessageId, id)
				}
				c.check(m.Ack(false))
			}
		}
	},

	"the end of a channel returns messages to the front": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 4)
		o := c.other()
		c.check(o.ch.Qos(2, 0, false))
		o.want(o.consume(q, nil), "1", "2")
		c.check(o.ch.Close())
		c.wantReady(q, 4)
		c.wantIDs(q, "1", "2", "3", "4")
	}),

	"the end of a connection returns messages to the front": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 4)
		o := c.other()
		c.check(o.ch.Qos(2, 0, false))
		o.want(o.consume(q, nil), "1", "2")
		c.check(o.conn.Close())
		c.wantReady(q, 4)
		c.wantIDs(q, "1", "2", "3", "4")
	}),

	"recover returns all": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 2)
		d := c.consume("q", nil)
		c.want(d, "1", "2")
		//lint:ignore SA1019 the broker must know what old clients send
		c.check(c.ch.Recover(true))
		c.redelivery(d)
		c.redelivery(d)
	},

	"a returned message comes again, marked": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 1)
		d := c.consume(q, nil)
		first := c.next(d)
		if first.Redelivered {
			c.Error("marked as redelivered at first")
		}
		c.check(first.Nack(false, true))
		c.check(c.redelivery(d).Reject(true))
		c.redelivery(d)
	}),

	"a quorum queue counts rejects": func(c *client) {
		c.queue("q", quorum(nil))
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for i := range 4 {
			m := c.next(d)
			if _, there := m.Headers["x-delivery-count"]; there != (i > 0) || count(m) != int64(i) {
				c.Errorf("delivery %d has headers %v", i, m.Headers)
			}
			c.check(m.Reject(true))
		}
	},

	"a quorum queue counts nacks before 4.3 only": func(c *client) {
		c.queue("q", quorum(nil))
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for i := range 4 {
			m := c.next(d)
			want, acquired := int64(i), any(nil)
			if c.version >= 4_003 {
				want = 0
				if i > 0 {
					acquired = int64(i)
				}
			}
			if count(m) != want || m.Headers["x-acquired-count"] != acquired {
				c.Errorf("delivery %d has headers %v", i, m.Headers)
			}
			c.check(m.Nack(false, true))
		}
	},

	"a quorum queue counts the ends of channels and connections": func(c *client) {
		c.queue("q", quorum(nil))
		c.publishTo("q", 1)
		for i := range 4 {
			o := c.other()
			if m := o.next(o.consume("q", nil)); count(m) != int64(i) {
				c.Errorf("delivery %d has headers %v", i, m.Headers)
			}
			if i%2 == 0 {
				c.check(o.ch.Close())
			} else {
				c.check(o.conn.Close())
			}
		}
	},

	"a classic queue counts nothing": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		c.check(c.next(d).Reject(true))
		if m := c.next(d); len(m.Headers) > 0 {
			c.Errorf("headers %v", m.Headers)
		}
	},

	"the delivery limit dead-letters": func(c *client) {
		c.queue("dead", nil)
		c.queue("q", quorum(table{"x-delivery-limit": int64(2),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("dead")}))
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for range 3 { // the first and two more
			c.check(c.want(d, "1")[0].Reject(true))
		}
		got := c.wantIDsEventually("dead", "1")[0]
		if reason := firstDeath(got)["reason"]; reason != "delivery_limit" {
			c.Errorf("died of %v", reason)
		}
		c.wantNothing(d)
	},

	"the delivery limit is 20 by default since 4.0": func(c *client) {
		if !c.hasLimit() {
			return
		}
		c.queue("q", quorum(nil))
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for i := range 21 {
			m := c.next(d)
			if count(m) != int64(i) {
				c.Fatalf("delivery %d has headers %v", i, m.Headers)
			}
			c.check(m.Reject(true))
		}
		c.wantNothing(d) // dropped: there is no dead-letter exchange
		c.wantReady("q", 0)
	},

	"a message outlives many rejects without a limit": func(c *client) {
		args := quorum(nil)
		if c.hasLimit() {
			args["x-delivery-limit"] = int64(-1)
		}
		c.queue("q", args)
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for i := range 30 {
			m := c.next(d)
			if count(m) != int64(i) {
				c.Fatalf("delivery %d has headers %v", i, m.Headers)
			}
			c.check(m.Reject(true))
		}
		c.next(d)
	},
}

// wantIDsEventually is wantIDs for what comes by itself.
func (c *client) wantIDsEventually(queue string, ids ...string) []amqp091.Delivery {
	c.Helper()
	c.wantReady(queue, len(ids))
	return c.wantIDs(queue, ids...)
}

// deaths returns the header x-death.
func deaths(d amqp091.Delivery) []table {
	list, _ := d.Headers["x-death"].([]any)
	var out []table
	for _, item := range list {
		t, ok := item.(table)
		if !ok {
			panic(fmt.Sprintf("x-death has a %T", item))
		}
		out = append(out, t)
	}
	return out
}

func firstDeath(d amqp091.Delivery) table {
	if all := deaths(d); len(all) > 0 {
		return all[0]
	}
	return nil
}
