package brokertest

import (
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

var consuming = map[string]func(*client){
	"prefetch limits what is unacknowledged": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 5)
		c.check(c.ch.Qos(2, 0, false))
		d := c.consume(q, nil)
		got := c.want(d, "1", "2")
		c.wantNothing(d)
		c.check(got[0].Ack(false))
		c.want(d, "3")
		c.wantNothing(d)
	}),

	"prefetch is each consumer's own": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 5)
		c.check(c.ch.Qos(1, 0, false))
		one, two := c.consume("q", nil), c.consume("q", nil)
		c.next(one)
		c.next(two)
		c.wantNothing(one)
		c.wantNothing(two)
	},

	"global prefetch is shared by a channel's consumers": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 5)
		c.check(c.ch.Qos(1, 0, true))
		one, two := c.consume("q", nil), c.consume("q", nil)
		c.want(one, "1")
		if c.version >= 4_003 {
			c.want(two, "2") // taken for a limit of each
			return
		}
		c.wantNothing(two)
	},

	"global prefetch is refused by quorum queues": func(c *client) {
		c.queue("q", quorum(nil))
		c.check(c.ch.Qos(10, 0, true))
		_, err := c.ch.Consume(c.name("q"), "", false, false, false, false, nil)
		if c.version >= 4_003 {
			c.check(err)
			return
		}
		wantError(c, err, 540, "NOT_IMPLEMENTED - "+c.queueText("q")+" does not support global qos")
	},

	"consumers take turns": func(c *client) {
		c.queue("q", nil)
		c.check(c.ch.Qos(10, 0, false))
		one, two := c.consume("q", nil), c.consume("q", nil)
		c.publishTo("q", 6)
		for range 3 {
			c.next(one)
			c.next(two)
		}
	},

	"a consumer of higher priority comes first": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.check(c.ch.Qos(2, 0, false))
		low := c.consume(q, table{"x-priority": int64(1)})
		high := c.consume(q, table{"x-priority": int64(5)})
		c.publishTo(q, 3)
		c.want(high, "1", "2")
		c.want(low, "3")
	}),

	"only one consumer is active, and the next one takes over": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(table{"x-single-active-consumer": true}))
		first, second := c.other(), c.other()
		one := first.consume(q, nil)
		two := second.consume(q, nil)
		c.publishTo(q, 3)
		got := first.want(one, "1", "2", "3")
		c.wantNothing(two)
		c.check(got[0].Ack(false))
		first.wantReady(q, 0) // the ack has arrived
		c.check(first.ch.Close())
		for _, d := range second.want(two, "2", "3") {
			if !d.Redelivered {
				c.Errorf("%s: %s isn't marked as redelivered", q, d.MessageId)
			}
		}
	}),

	"messages without acknowledgement are gone when they are sent": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 3)
		o := c.other()
		d, err := o.ch.Consume(c.name(q), "", true, false, false, false, nil)
		c.check(err)
		c.want(d, "1", "2", "3")
		c.check(o.conn.Close())
		c.wantIDs(q)
	}),

	"an ack of multiple covers all before it": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 5)
		o := c.other()
		got := c.want(o.consume("q", nil), "1", "2", "3", "4", "5")
		c.check(got[2].Ack(true))
		c.check(o.ch.Close())
		c.wantIDs("q", "4", "5")
	},

	"an ack of multiple 0 covers all": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 3)
		o := c.other()
		c.want(o.consume("q", nil), "1", "2", "3")
		c.check(o.ch.Ack(0, true))
		c.check(o.ch.Close())
		c.wantIDs("q")
	},

	"cancelling leaves what is unacknowledged with the channel": func(c *client) {
		c.queue("q", nil)
		c.publishTo("q", 3)
		c.check(c.ch.Qos(2, 0, false))
		d, err := c.ch.Consume(c.name("q"), "tag", false, false, false, false, nil)
		c.check(err)
		got := c.want(d, "1", "2")
		c.check(c.ch.Cancel("tag", false))
		c.check(got[0].Ack(false))
		c.wantReady("q", 1)
		c.check(got[1].Nack(false, true))
		c.wantReady("q", 2)
	},

	"deleting a queue cancels its consumers, and the channel lives": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		cancelled := c.ch.NotifyCancel(make(chan string, 1))
		d, err := c.ch.Consume(c.name(q), "tag", false, false, false, false, nil)
		c.check(err)
		_, err = c.other().ch.QueueDelete(c.name(q), false, false, false)
		c.check(err)
		if tag := await(c, "basic.cancel", cancelled); tag != "tag" {
			c.Errorf("%s: cancelled %q", q, tag)
		}
		if _, ok := <-d; ok {
			c.Error("a delivery from a queue that isn't there")
		}
		c.check(c.ch.Confirm(false))
	}),

	"basic get counts what is left": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(nil))
		c.publishTo(q, 3)
		d, ok, err := c.ch.Get(c.name(q), false)
		c.check(err)
		if !ok || d.MessageCount != 2 || d.Redelivered || d.RoutingKey != c.name(q) {
			c.Errorf("%s: got %+v", q, d)
		}
		c.check(d.Nack(false, true))
		c.wantReady(q, 3)
	}),

	"what isn't acknowledged in time comes back": func(c *client) {
		if c.ConsumerTimeout == 0 {
			return
		}
		for _, kind := range []string{"classic", "quorum"} {
			c.dial()
			c.queue(kind, table{"x-queue-type": kind})
			c.publishTo(kind, 1)
			cancelled := c.ch.NotifyCancel(make(chan string, 1))
			deliveries := c.consume(kind, nil)
			c.want(deliveries, "1")
			if c.version >= 4_003 && kind == "quorum" {
				await(c, "basic.cancel", cancelled)
			} else {
				c.wantClosed(c.closed, 406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out.")
			}
			c.channel()
			c.wantReady(kind, 1)
			if d := c.get(kind, 1)[0]; !d.Redelivered {
				c.Errorf("%s: not marked as redelivered", kind)
			}
		}
	},

	"what isn't acknowledged in time cancels its consumer since 4.3": func(c *client) {
		if c.version < 4_003 {
			return // the channel looks for it once a minute
		}
		timeout := table{"x-consumer-timeout": int64(1000)}
		for name, args := range map[string]struct{ queue, consumer table }{"queue": {timeout, nil}, "consumer": {nil, timeout}} {
			q := "by " + name
			c.channel()
			c.queue(q, quorum(args.queue))
			c.publishTo(q, 2)
			c.check(c.ch.Qos(1, 0, false))
			cancelled := c.ch.NotifyCancel(make(chan string, 1))
			late := c.want(c.consume(q, args.consumer), "1")[0]
			if tag := await(c, "basic.cancel", cancelled); tag != late.ConsumerTag {
				c.Errorf("cancelled %q", tag)
			}
			holder := c.ch
			c.channel()
			if name == "queue" {
				c.check(late.Ack(false)) // has no effect, and is no error
				c.check(holder.Confirm(false))
			}
			c.wantReady(q, 2)
			for _, m := range c.get(q, 2) { // in no certain order
				if m.Redelivered != (m.MessageId == "1") || count(m) != 0 {
					c.Errorf("%s: %s has redelivered %v, headers %v", name, m.MessageId, m.Redelivered, m.Headers)
				}
			}
			c.check(holder.Close()) // holds nothing
			time.Sleep(quiet)
			c.wantIDs(q)
		}
	},

	"a slow consumer doesn't keep others from their messages": func(c *client) {
		c.queue("q", nil)
		c.check(c.ch.Qos(1, 0, false))
		slow, fast := c.consume("q", nil), c.consume("q", nil)
		c.publishTo("q", 5)
		c.next(slow)
		for range 4 {
			c.check(c.next(fast).Ack(false))
		}
	},

	"a channel's end doesn't disturb another": func(c *client) {
		c.queue("q", nil)
		kept := c.ch
		d, err := kept.Consume(c.name("q"), "", false, false, false, false, nil)
		c.check(err)
		c.channel()
		if err := c.passive("missing"); err == nil {
			c.Error("a missing queue was found")
		}
		c.channel()
		c.publishTo("q", 1)
		c.want(d, "1")
	},
}

// redelivery waits until a delivery comes back, and returns it.
func (c *client) redelivery(from <-chan amqp091.Delivery) amqp091.Delivery {
	c.Helper()
	d := c.next(from)
	if !d.Redelivered {
		c.Errorf("%q isn't marked as redelivered", d.MessageId)
	}
	return d
}
