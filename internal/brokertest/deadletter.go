package brokertest

import (
	"fmt"
	"slices"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// letters declares queue "dead", and returns arguments for queues whose dead letters go there.
func (c *client) letters(more table) table {
	c.Helper()
	c.queue("dead", nil)
	args := table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("dead")}
	for k, v := range more {
		args[k] = v
	}
	return args
}

// wantDeath compares one entry of x-death.
func (c *client) wantDeath(got table, reason, queue, exchange, key string, count int64) {
	c.Helper()
	at, isTime := got["time"].(time.Time)
	keys, _ := got["routing-keys"].([]any)
	if got["reason"] != reason || got["queue"] != c.name(queue) || got["exchange"] != exchange || got["count"] != count ||
		!slices.Equal(keys, []any{key}) || !isTime || time.Since(at) > time.Minute {
		c.Errorf("x-death %v, want %s from %s, exchange %q, key %q, count %d", got, reason, queue, exchange, key, count)
	}
}

var deadLetters = map[string]func(*client){
	"a rejected message is a dead letter with its history": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(c.letters(nil)))
		m := message("1")
		m.Headers = table{"own": "kept"}
		c.send("", c.name(q), m)
		c.check(c.next(c.consume(q, nil)).Reject(false))
		d := c.wantIDsEventually("dead", "1")[0]
		c.wantDeath(firstDeath(d), "rejected", q, "", c.name(q), 1)
		want := table{"x-first-death-reason": "rejected", "x-first-death-queue": c.name(q), "x-first-death-exchange": "",
			"own": "kept"}
		for name, want := range want {
			if d.Headers[name] != want {
				c.Errorf("%s: header %s is %v, want %v", q, name, d.Headers[name], want)
			}
		}
		if last := d.Headers["x-last-death-reason"]; (last == "rejected") != (c.version >= 3_013) {
			c.Errorf("%s: x-last-death-reason is %v", q, last)
		}
		if len(deaths(d)) != 1 || string(d.Body) != string(m.Body) || d.Redelivered != (c.version >= 4_003) || count(d) != 0 ||
			d.RoutingKey != c.name("dead") {
			c.Errorf("%s: %d deaths, body %q, redelivered %v, delivery count %d, key %q",
				q, len(deaths(d)), d.Body, d.Redelivered, count(d), d.RoutingKey)
		}
	}),

	"nack of multiple dead-letters all": func(c *client) {
		c.queue("q", c.letters(nil))
		c.publishTo("q", 3)
		got := c.want(c.consume("q", nil), "1", "2", "3")
		c.check(got[2].Nack(true, false))
		c.wantIDsEventually("dead", "1", "2", "3")
	},

	"an expired message is a dead letter that doesn't expire": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(c.letters(nil)))
		c.send("", c.name(q), amqp091.Publishing{MessageId: "1", Expiration: "20"})
		d := c.wantIDsEventually("dead", "1")[0]
		c.wantDeath(firstDeath(d), "expired", q, "", c.name(q), 1)
		if firstDeath(d)["original-expiration"] != "20" || d.Expiration != "" || d.Redelivered {
			c.Errorf("%s: expiration %q, redelivered %v, x-death %v", q, d.Expiration, d.Redelivered, firstDeath(d))
		}
	}),

	"what a full queue drops is a dead letter": bothTypes(func(c *client, q string, args func(table) table) {
		c.queue(q, args(c.letters(table{"x-max-length": int64(1)})))
		c.publishTo(q, 2)
		d := c.wantIDsEventually("dead", "1")[0]
		c.wantDeath(firstDeath(d), "maxlen", q, "", c.name(q), 1)
	}),

	"without a key a dead letter keeps its own": func(c *client) {
		c.exchange("dlx", "direct", nil)
		c.exchange("x", "direct", nil)
		c.queue("q", table{"x-dead-letter-exchange": c.name("dlx")})
		c.queue("dead", nil)
		c.bind("q", "k", "x", nil)
		c.bind("dead", "k", "dlx", nil)
		c.send(c.name("x"), "k", message("1"))
		c.check(c.next(c.consume("q", nil)).Reject(false))
		d := c.wantIDsEventually("dead", "1")[0]
		c.wantDeath(firstDeath(d), "rejected", "q", c.name("x"), "k", 1)
		if d.Exchange != c.name("dlx") || d.RoutingKey != "k" {
			c.Errorf("came by %q, %q", d.Exchange, d.RoutingKey)
		}
	},

	"without an exchange a rejected message is dropped": func(c *client) {
		c.queue("q", table{"x-dead-letter-exchange": c.name("missing")})
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		c.check(c.next(d).Reject(false))
		c.wantNothing(d)
		c.wantReady("q", 0)
	},

	"a retry queue brings messages back, and the history counts": func(c *client) {
		c.queue("retry", table{"x-message-ttl": int64(20),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("q")})
		c.queue("q", table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("retry")})
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for range 3 {
			c.check(c.want(d, "1")[0].Reject(false))
		}
		got := c.want(d, "1")[0]
		all := deaths(got)
		if len(all) != 2 {
			c.Fatalf("x-death %v", all)
		}
		c.wantDeath(all[0], "expired", "retry", "", c.name("retry"), 3)
		c.wantDeath(all[1], "rejected", "q", "", c.name("q"), 3)
		if got.Headers["x-first-death-reason"] != "rejected" || got.Headers["x-first-death-queue"] != c.name("q") {
			c.Errorf("headers %v", got.Headers)
		}
	},

	"a message that expires in a circle is dropped": func(c *client) {
		c.queue("a", table{"x-message-ttl": int64(20),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("b")})
		c.queue("b", table{"x-message-ttl": int64(20),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("a")})
		c.publishTo("a", 1)
		time.Sleep(3 * quiet)
		c.wantReady("a", 0)
		c.wantReady("b", 0)
	},

	"a queue that dead-letters to itself drops what expires": func(c *client) {
		c.queue("q", table{"x-message-ttl": int64(20),
			"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("q")})
		c.publishTo("q", 1)
		time.Sleep(2 * quiet)
		c.wantReady("q", 0)
	},

	"a queue that dead-letters to itself keeps what is rejected": func(c *client) {
		c.queue("q", table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("q")})
		c.publishTo("q", 1)
		d := c.consume("q", nil)
		for i := range 3 {
			m := c.want(d, "1")[0]
			if i > 0 {
				c.wantDeath(firstDeath(m), "rejected", "q", "", c.name("q"), int64(i))
			}
			c.check(m.Reject(false))
		}
	},

	"a history that a client publishes counts before 4.0 only": func(c *client) {
		c.queue("q", c.letters(nil))
		m := message("1")
		m.Headers = table{"x-death": []any{table{"reason": "rejected", "queue": c.name("q"), "exchange": "", "count": int64(7),
			"time": time.Now(), "routing-keys": []any{c.name("q")}}}}
		c.send("", c.name("q"), m)
		c.check(c.next(c.consume("q", nil)).Reject(false))
		d := c.wantIDsEventually("dead", "1")[0]
		want := int64(8)
		if c.version >= 4_000 {
			want = 1
		}
		if got := firstDeath(d)["count"]; got != want {
			c.Errorf("count %v, want %d: %v", got, want, fmt.Sprint(d.Headers["x-death"]))
		}
	},
}
