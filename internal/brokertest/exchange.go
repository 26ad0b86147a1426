package brokertest

import (
	"slices"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// routed publishes a message with a key and headers, and returns which queues got it.
func (c *client) routed(exchange, key string, headers table, queues ...string) string {
	c.Helper()
	if !c.send(c.name(exchange), key, amqp091.Publishing{Headers: headers}) {
		c.Fatal("refused")
	}
	var got []string
	for _, q := range queues {
		_, ok, err := c.ch.Get(c.name(q), true)
		c.check(err)
		if ok {
			got = append(got, q)
		}
	}
	for done := false; !done; {
		select {
		case <-c.returns:
			got = append(got, "returned")
		default:
			done = true
		}
	}
	return strings.Join(got, " ")
}

func (c *client) wantRouted(got, want string) {
	c.Helper()
	if got != want {
		c.Errorf("routed to %q, want %q", got, want)
	}
}

var exchanges = map[string]func(*client){
	"the default exchange routes to the queue of the key": func(c *client) {
		c.queue("a", nil)
		c.publish("a", "1")
		c.wantIDs("a", "1")
	},

	"a direct exchange compares keys": func(c *client) {
		c.exchange("x", "direct", nil)
		c.queue("a", nil)
		c.queue("b", nil)
		c.bind("a", "k", "x", nil)
		c.bind("b", "k", "x", nil)
		c.bind("b", "l", "x", nil)
		c.wantRouted(c.routed("x", "k", nil, "a", "b"), "a b")
		c.wantRouted(c.routed("x", "l", nil, "a", "b"), "b")
		c.wantRouted(c.routed("x", "m", nil, "a", "b"), "returned")
	},

	"a fanout exchange ignores keys": func(c *client) {
		c.exchange("x", "fanout", nil)
		c.queue("a", nil)
		c.queue("b", nil)
		c.bind("a", "k", "x", nil)
		c.bind("b", "", "x", nil)
		c.wantRouted(c.routed("x", "whatever", nil, "a", "b"), "a b")
	},

	"a topic exchange compares words": func(c *client) {
		c.exchange("x", "topic", nil)
		for pattern, keys := range map[string][]string{
			"a.*.c":   {"a.b.c", "a..c"},
			"a.#":     {"a", "a.b", "a.b.c", "a..c", "a.b.d.c"},
			"#.c":     {"a.b.c", "c", "b.c", "a..c", "a.b.d.c"},
			"#":       {"a", "a.b", "a.b.c", "c", "b.c", "", "a..c", "a.b.d.c", "x"},
			"*":       {"a", "c", "x", ""},
			"a.#.#.c": {"a.b.c", "a..c", "a.b.d.c"},
			"*.#":     {"a", "a.b", "a.b.c", "c", "b.c", "a..c", "a.b.d.c", "x", ""},
		} {
			c.queue(pattern, nil)
			c.bind(pattern, pattern, "x", nil)
			for _, key := range []string{"a", "a.b", "a.b.c", "c", "b.c", "", "a..c", "a.b.d.c", "x"} {
				got := c.routed("x", key, nil, pattern)
				// RabbitMQ splits the empty key into no words, so "*" and "*.#" don't match it.
				want := slices.Contains(keys, key) && !(key == "" && strings.HasPrefix(pattern, "*"))
				if (got == pattern) != want {
					c.Errorf("%q matches %q: %v, want %v", pattern, key, got == pattern, want)
				}
			}
			_, err := c.ch.QueueDelete(c.name(pattern), false, false, false)
			c.check(err)
		}
	},

	"a headers exchange compares all or any": func(c *client) {
		c.exchange("x", "headers", nil)
		for _, q := range []string{"all", "any", "there", "default", "withx"} {
			c.queue(q, nil)
		}
		c.bind("all", "", "x", table{"x-match": "all", "a": "1", "b": int64(2)})
		c.bind("any", "", "x", table{"x-match": "any", "a": "1", "b": int64(2)})
		c.bind("there", "", "x", table{"a": nil})
		c.bind("default", "", "x", table{"a": "1", "x-ignored": "?"})
		c.bind("withx", "", "x", table{"x-match": "all-with-x", "x-kind": "1"})
		queues := []string{"all", "any", "there", "default", "withx"}
		c.wantRouted(c.routed("x", "", table{"a": "1", "b": int64(2)}, queues...), "all any there default")
		c.wantRouted(c.routed("x", "", table{"a": "1"}, queues...), "any there default")
		c.wantRouted(c.routed("x", "", table{"a": "other"}, queues...), "there")
		c.wantRouted(c.routed("x", "", table{"b": int64(2)}, queues...), "any")
		c.wantRouted(c.routed("x", "", nil, queues...), "returned")
		if c.version >= 3_011 {
			c.wantRouted(c.routed("x", "", table{"x-kind": "1"}, queues...), "withx")
		}
	},

	"exchanges lead to exchanges": func(c *client) {
		c.exchange("x", "topic", nil)
		c.exchange("y", "fanout", nil)
		c.queue("a", nil)
		c.bind("a", "", "y", nil)
		c.bind("a", "#", "x", nil) // two ways, one message
		c.check(c.ch.ExchangeBind(c.name("y"), "k.*", c.name("x"), false, nil))
		c.check(c.ch.ExchangeBind(c.name("x"), "", c.name("y"), false, nil)) // a circle
		c.wantRouted(c.routed("x", "k.l", nil, "a", "a"), "a")
		c.check(c.ch.QueueUnbind(c.name("a"), "#", c.name("x"), nil))
		c.wantRouted(c.routed("x", "k.l", nil, "a", "a"), "a")
		c.check(c.ch.ExchangeUnbind(c.name("y"), "k.*", c.name("x"), false, nil))
		c.wantRouted(c.routed("x", "k.l", nil, "a"), "returned")
	},

	"an alternate exchange takes what has no way": func(c *client) {
		c.exchange("rest", "fanout", nil)
		c.exchange("x", "direct", table{"alternate-exchange": c.name("rest")})
		c.queue("a", nil)
		c.queue("rest", nil)
		c.bind("a", "k", "x", nil)
		c.bind("rest", "", "rest", nil)
		c.wantRouted(c.routed("x", "k", nil, "a", "rest"), "a")
		c.wantRouted(c.routed("x", "other", nil, "a", "rest"), "rest")
	},

	"a missing alternate exchange is no obstacle": func(c *client) {
		c.exchange("x", "direct", table{"alternate-exchange": c.name("nowhere")})
		c.wantRouted(c.routed("x", "k", nil), "returned")
	},

	"a binding made twice delivers once": func(c *client) {
		c.exchange("x", "direct", nil)
		c.queue("a", nil)
		c.bind("a", "k", "x", nil)
		c.bind("a", "k", "x", nil)
		c.wantRouted(c.routed("x", "k", nil, "a", "a"), "a")
	},

	"an auto-delete exchange goes with its last binding": func(c *client) {
		c.check(c.ch.ExchangeDeclare(c.name("x"), "direct", false, true, false, false, nil))
		c.queue("a", nil)
		c.bind("a", "k", "x", nil)
		c.check(c.ch.QueueUnbind(c.name("a"), "k", c.name("x"), nil))
		err := c.ch.ExchangeDeclarePassive(c.name("x"), "direct", false, true, false, false, nil)
		wantError(c, err, 404, "NOT_FOUND")
	},

	"a passive declaration compares nothing": func(c *client) {
		c.exchange("x", "direct", nil)
		c.check(c.ch.ExchangeDeclarePassive(c.name("x"), "topic", true, true, true, false, table{"alternate-exchange": "a"}))
		c.queue("q", nil)
		_, err := c.ch.QueueDeclarePassive(c.name("q"), false, true, false, false, table{"x-max-length": int64(1)})
		c.check(err)
	},

	"deleting what isn't there succeeds": func(c *client) {
		c.check(c.ch.ExchangeDelete(c.name("x"), false, false))
		n, err := c.ch.QueueDelete(c.name("q"), false, false, false)
		c.check(err)
		if n != 0 {
			c.Errorf("%d messages deleted", n)
		}
	},

	"an unknown exchange type is refused": func(c *client) {
		err := c.ch.ExchangeDeclare(c.name("x"), "x-nonsense", false, false, false, false, nil)
		if c.version >= 3_013 {
			wantError(c, err, 406, "PRECONDITION_FAILED - unknown exchange type 'x-nonsense'")
			c.wantAlive()
			return
		}
		wantError(c, err, 503, "COMMAND_INVALID - unknown exchange type 'x-nonsense'")
		await(c, "end", c.ended)
	},

	"a deleted exchange leads nowhere": func(c *client) {
		c.exchange("x", "direct", nil)
		c.exchange("y", "fanout", nil)
		c.queue("a", nil)
		c.bind("a", "", "y", nil)
		c.check(c.ch.ExchangeBind(c.name("y"), "k", c.name("x"), false, nil))
		c.check(c.ch.ExchangeDelete(c.name("y"), false, false))
		c.wantRouted(c.routed("x", "k", nil, "a"), "returned")
	},
}
