package brokertest

import (
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// refusal is a request that the broker refuses.
type refusal struct {
	given func(c *client) // what is there before
	when  func(c *client) error
	code  int
	text  func(c *client) string // what the text contains
	hard  bool                   // ends the connection
}

// refusals are the errors that RabbitMQ words; clients show them to people, and take them apart.
func refusals() map[string]func(*client) {
	group := map[string]func(*client){}
	for name, r := range map[string]refusal{
		"a missing queue is not found": {
			when: func(c *client) error { return c.passive("q") },
			code: 404, text: func(c *client) string { return "NOT_FOUND - no " + c.queueText("q") },
		},
		"a missing exchange is not found": {
			when: func(c *client) error {
				return c.ch.ExchangeDeclarePassive(c.name("x"), "topic", true, false, false, false, nil)
			},
			code: 404, text: func(c *client) string { return "NOT_FOUND - no " + c.exchangeText("x") },
		},
		"publishing to a missing exchange closes the channel": {
			when: func(c *client) error {
				c.check(c.ch.Publish(c.name("x"), "", false, false, message("1")))
				return await(c, "close", c.closed)
			},
			code: 404, text: func(c *client) string { return "NOT_FOUND - no " + c.exchangeText("x") },
		},
		"binding a missing queue": {
			given: func(c *client) { c.exchange("x", "topic", nil) },
			when:  func(c *client) error { return c.ch.QueueBind(c.name("q"), "", c.name("x"), false, nil) },
			code:  404, text: func(c *client) string { return "NOT_FOUND - no " + c.queueText("q") },
		},
		"binding to a missing exchange": {
			given: func(c *client) { c.queue("q", nil) },
			when:  func(c *client) error { return c.ch.QueueBind(c.name("q"), "", c.name("x"), false, nil) },
			code:  404, text: func(c *client) string { return "NOT_FOUND - no " + c.exchangeText("x") },
		},
		"consuming a missing queue": {
			when: func(c *client) error {
				_, err := c.ch.Consume(c.name("q"), "", false, false, false, false, nil)
				return err
			},
			code: 404, text: func(c *client) string { return "NOT_FOUND - no " + c.queueText("q") },
		},
		"another queue argument is inequivalent": {
			given: func(c *client) { c.queue("q", nil) },
			when:  func(c *client) error { return c.declare("q", table{"x-message-ttl": int64(5)}) },
			code:  406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for " + c.queueText("q") +
					": received the value '5' of type 'long' but current is none"
			},
		},
		"a missing queue argument is inequivalent": {
			given: func(c *client) { c.queue("q", table{"x-dead-letter-exchange": "dead"}) },
			when:  func(c *client) error { return c.declare("q", nil) },
			code:  406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for " + c.queueText("q") +
					": received none but current is the value 'dead' of type 'longstr'"
			},
		},
		"a queue of another durability is inequivalent": {
			given: func(c *client) { c.queue("q", nil) },
			when: func(c *client) error {
				_, err := c.ch.QueueDeclare(c.name("q"), false, false, false, false, nil)
				return err
			},
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'durable' for " + c.queueText("q") +
					": received 'false' but current is 'true'"
			},
		},
		"a queue of another type is inequivalent": {
			given: func(c *client) { c.queue("q", table{"x-queue-type": "classic"}) },
			when:  func(c *client) error { return c.declare("q", table{"x-queue-type": "quorum"}) },
			code:  406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for " + c.queueText("q") +
					": received 'quorum' but current is 'classic'"
			},
		},
		"a delivery limit of another value is inequivalent": {
			given: func(c *client) { c.queue("q", quorum(table{"x-delivery-limit": int64(5)})) },
			when:  func(c *client) error { return c.declare("q", quorum(table{"x-delivery-limit": int64(6)})) },
			code:  406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for " + c.queueText("q") +
					": received '6' but current is '5'"
			},
		},
		"an exchange of another type is inequivalent": {
			given: func(c *client) { c.exchange("x", "topic", nil) },
			when: func(c *client) error {
				return c.ch.ExchangeDeclare(c.name("x"), "fanout", false, false, false, false, nil)
			},
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'type' for " + c.exchangeText("x") +
					": received 'fanout' but current is 'topic'"
			},
		},
		"an exchange of another durability is inequivalent": {
			given: func(c *client) { c.exchange("x", "topic", nil) },
			when: func(c *client) error {
				return c.ch.ExchangeDeclare(c.name("x"), "topic", true, false, false, false, nil)
			},
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'durable' for " + c.exchangeText("x") +
					": received 'true' but current is 'false'"
			},
		},
		"an alternate exchange of another name is inequivalent": {
			given: func(c *client) { c.exchange("x", "topic", nil) },
			when: func(c *client) error {
				return c.ch.ExchangeDeclare(c.name("x"), "topic", false, false, false, false, table{"alternate-exchange": "a"})
			},
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for " + c.exchangeText("x") +
					": received the value 'a' of type 'longstr' but current is none"
			},
		},
		"a queue argument of the wrong type": {
			when: func(c *client) error { return c.declare("q", table{"x-message-ttl": "soon"}) },
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for " + c.queueText("q")
			},
		},
		"a negative queue argument": {
			when: func(c *client) error { return c.declare("q", table{"x-max-length": int64(-1)}) },
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - invalid arg 'x-max-length' for " + c.queueText("q") + ": {value_negative,-1}"
			},
		},
		"a quorum queue that isn't durable": {
			when: func(c *client) error {
				_, err := c.ch.QueueDeclare(c.name("q"), false, false, false, false, quorum(nil))
				return err
			},
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - invalid property 'non-durable' for " + c.queueText("q")
			},
		},
		"a quorum queue that is exclusive": {
			when: func(c *client) error {
				_, err := c.ch.QueueDeclare(c.name("q"), true, false, true, false, quorum(nil))
				return err
			},
			code: 406, text: func(c *client) string {
				return "PRECONDITION_FAILED - invalid property 'exclusive-owner' for " + c.queueText("q")
			},
		},
		"a queue name that is reserved": {
			when: func(c *client) error {
				_, err := c.ch.QueueDeclare("amq.mine", true, false, false, false, nil)
				return err
			},
			code: 403, text: func(*client) string {
				return "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
			},
		},
		"an exchange name that is reserved": {
			when: func(c *client) error {
				return c.ch.ExchangeDeclare("amq.mine", "topic", true, false, false, false, nil)
			},
			code: 403, text: func(*client) string {
				return "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'"
			},
		},
		"binding to the default exchange": {
			given: func(c *client) { c.queue("q", nil) },
			when:  func(c *client) error { return c.ch.QueueBind(c.name("q"), "k", "", false, nil) },
			code:  403, text: func(*client) string {
				return "ACCESS_REFUSED - operation not permitted on the default exchange"
			},
		},
		"publishing to an internal exchange": {
			given: func(c *client) {
				c.check(c.ch.ExchangeDeclare(c.name("x"), "topic", false, false, true, false, nil))
				c.Cleanup(func() { c.other().ch.ExchangeDelete(c.name("x"), false, false) })
			},
			when: func(c *client) error {
				c.check(c.ch.Publish(c.name("x"), "", false, false, message("1")))
				return await(c, "close", c.closed)
			},
			code: 403, text: func(c *client) string {
				return "ACCESS_REFUSED - cannot publish to internal " + c.exchangeText("x")
			},
		},
		"another user's id": {
			given: func(c *client) { c.queue("q", nil) },
			when: func(c *client) error {
				c.check(c.ch.Publish("", c.name("q"), false, false, amqp091.Publishing{UserId: "someone"}))
				return await(c, "close", c.closed)
			},
			code: 406, text: func(*client) string {
				return "PRECONDITION_FAILED - user_id property set to 'someone' but authenticated user was '"
			},
		},
		"an expiration that is no number": {
			given: func(c *client) { c.queue("q", nil) },
			when: func(c *client) error {
				c.check(c.ch.Publish("", c.name("q"), false, false, amqp091.Publishing{Expiration: "soon"}))
				return await(c, "close", c.closed)
			},
			code: 406, text: func(*client) string { return "PRECONDITION_FAILED - invalid expiration 'soon'" },
		},
		"an unknown delivery tag": {
			when: func(c *client) error {
				c.check(c.ch.Ack(7, false))
				return await(c, "close", c.closed)
			},
			code: 406, text: func(*client) string { return "PRECONDITION_FAILED - unknown delivery tag 7" },
		},
		"a delivery tag that was used": {
			given: func(c *client) { c.queue("q", nil); c.publish("q", "1") },
			when: func(c *client) error {
				d := c.next(c.consume("q", nil))
				c.check(d.Ack(false))
				c.check(d.Ack(false))
				return await(c, "close", c.closed)
			},
			code: 406, text: func(*client) string { return "PRECONDITION_FAILED - unknown delivery tag 1" },
		},
		"deleting a queue in use": {
			given: func(c *client) { c.queue("q", nil); c.consume("q", nil) },
			when: func(c *client) error {
				_, err := c.ch.QueueDelete(c.name("q"), true, false, false)
				return err
			},
			code: 406, text: func(c *client) string { return "PRECONDITION_FAILED - " + c.queueText("q") + " in use" },
		},
		"deleting a queue that isn't empty": {
			given: func(c *client) { c.queue("q", nil); c.publish("q", "1") },
			when: func(c *client) error {
				_, err := c.ch.QueueDelete(c.name("q"), false, true, false)
				return err
			},
			code: 406, text: func(c *client) string { return "PRECONDITION_FAILED - " + c.queueText("q") + " not empty" },
		},
		"deleting an exchange in use": {
			given: func(c *client) { c.exchange("x", "topic", nil); c.queue("q", nil); c.bind("q", "#", "x", nil) },
			when:  func(c *client) error { return c.ch.ExchangeDelete(c.name("x"), true, false) },
			code:  406, text: func(c *client) string { return "PRECONDITION_FAILED - " + c.exchangeText("x") + " in use" },
		},
		"a queue that is exclusive to another connection": {
			given: func(c *client) {
				_, err := c.other().ch.QueueDeclare(c.name("q"), false, true, true, false, nil)
				c.check(err)
			},
			when: func(c *client) error { return c.passive("q") },
			code: 405, text: func(c *client) string {
				return "RESOURCE_LOCKED - cannot obtain exclusive access to locked " + c.queueText("q")
			},
		},
		"consuming a queue that a consumer has for itself": {
			given: func(c *client) {
				c.queue("q", nil)
				_, err := c.other().ch.Consume(c.name("q"), "", false, true, false, false, nil)
				c.check(err)
			},
			when: func(c *client) error {
				_, err := c.ch.Consume(c.name("q"), "", false, false, false, false, nil)
				return err
			},
			code: 403, text: func(c *client) string { return "ACCESS_REFUSED - " + c.queueText("q") + " in exclusive use" },
		},
		"basic get from a quorum queue with a single active consumer": {
			given: func(c *client) { c.queue("q", quorum(table{"x-single-active-consumer": true})) },
			when: func(c *client) error {
				_, _, err := c.ch.Get(c.name("q"), false)
				return err
			},
			code: 405, text: func(c *client) string {
				kind := "quorum"
				if c.version >= 4_000 {
					kind = `<<"quorum">>`
				}
				return "RESOURCE_LOCKED - cannot obtain access to locked " + c.queueText("q") +
					". basic.get operations are not supported by " + kind + " queues with single active consumer"
			},
		},
		"immediate publishing is not implemented": {
			given: func(c *client) { c.queue("q", nil) },
			when: func(c *client) error {
				c.check(c.ch.Publish("", c.name("q"), false, true, message("1")))
				return await(c, "close", c.ended)
			},
			hard: true, code: 540, text: func(*client) string { return "NOT_IMPLEMENTED - immediate=true" },
		},
		"a consumer tag in use": {
			given: func(c *client) {
				c.queue("q", nil)
				_, err := c.ch.Consume(c.name("q"), "tag", false, false, false, false, nil)
				c.check(err)
			},
			when: func(c *client) error {
				_, err := c.ch.Consume(c.name("q"), "tag", false, false, false, false, nil)
				if err == nil {
					return await(c, "close", c.ended)
				}
				return err
			},
			hard: true, code: 530, text: func(*client) string {
				return "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"
			},
		},
		"a prefetch size": {
			when: func(c *client) error { return c.ch.Qos(1, 1000, false) },
			hard: true, code: 540, text: func(*client) string { return "NOT_IMPLEMENTED - prefetch_size!=0 (1000)" },
		},
		"recover without requeue": {
			//lint:ignore SA1019 the broker must know what old clients send
			when: func(c *client) error { return c.ch.Recover(false) },
			hard: true, code: 540, text: func(*client) string { return "NOT_IMPLEMENTED - requeue=false" },
		},
	} {
		group[name] = func(c *client) {
			if r.given != nil {
				r.given(c)
			}
			wantError(c, r.when(c), r.code, r.text(c))
			if !r.hard {
				c.wantAlive()
			} else {
				await(c, "end of the connection", c.conn.NotifyClose(make(chan *amqp091.Error, 1)))
			}
		}
	}
	return group
}

// wantAlive proves that the connection has survived the refusal on its channel.
func (c *client) wantAlive() {
	c.Helper()
	c.channel()
	c.check(c.ch.Confirm(false))
}

func (c *client) passive(name string) error {
	_, err := c.ch.QueueDeclarePassive(c.name(name), true, false, false, false, nil)
	return err
}

func (c *client) declare(name string, args table) error {
	_, err := c.ch.QueueDeclare(c.name(name), true, false, false, false, args)
	return err
}

// quorum returns arguments for a quorum queue.
func quorum(more table) table {
	t := table{"x-queue-type": "quorum"}
	for k, v := range more {
		t[k] = v
	}
	return t
}
