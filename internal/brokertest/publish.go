package brokertest

import (
	"bytes"
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

var publishing = map[string]func(*client){
	"each message is confirmed with its number": func(c *client) {
		c.queue("q", nil)
		c.check(c.ch.Confirm(false))
		var all []*amqp091.DeferredConfirmation
		for i := range 500 {
			d, err := c.ch.PublishWithDeferredConfirm("", c.name("q"), true, false, message(fmt.Sprint(i)))
			c.check(err)
			all = append(all, d)
		}
		for i, d := range all {
			await(c, "confirm", d.Done())
			if !d.Acked() || d.DeliveryTag != uint64(i+1) {
				c.Fatalf("message %d: tag %d, acked %v", i+1, d.DeliveryTag, d.Acked())
			}
		}
		c.wantReady("q", 500)
	},

	"an unroutable message is returned before its ack": func(c *client) {
		m := message("1")
		m.Headers = table{"h": "v"}
		if !c.send("", c.name("nowhere"), m) {
			c.Error("refused")
		}
		select {
		case r := <-c.returns:
			if r.ReplyCode != 312 || r.ReplyText != "NO_ROUTE" || r.Exchange != "" || r.RoutingKey != c.name("nowhere") ||
				r.MessageId != "1" || r.Headers["h"] != "v" || !bytes.Equal(r.Body, m.Body) {
				c.Errorf("returned %+v", r)
			}
		default:
			c.Error("acked before it was returned")
		}
	},

	"an unroutable message that isn't mandatory is acked": func(c *client) {
		c.check(c.ch.Confirm(false))
		d, err := c.ch.PublishWithDeferredConfirm("", c.name("nowhere"), false, false, message("1"))
		c.check(err)
		await(c, "confirm", d.Done())
		if !d.Acked() || len(c.returns) > 0 {
			c.Errorf("acked %v, %d returned", d.Acked(), len(c.returns))
		}
	},

	"bodies of any size arrive": func(c *client) {
		c.queue("q", nil)
		for _, size := range []int{0, 1, 4096, 131064, 131065, 300_000, 1 << 20} {
			body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			c.send("", c.name("q"), amqp091.Publishing{Body: body})
			if got := c.get("q", 1)[0].Body; !bytes.Equal(got, body) {
				c.Errorf("%d bytes came as %d", size, len(got))
			}
		}
	},

	"a body beyond the limit closes the channel": func(c *client) {
		if c.version < 4_000 {
			return // 128 MiB
		}
		c.queue("q", nil)
		const size = 16<<20 + 1
		c.check(c.ch.Confirm(false))
		c.check(c.ch.Publish("", c.name("q"), false, false, amqp091.Publishing{Body: make([]byte, size)}))
		c.wantClosed(c.closed, 406, fmt.Sprintf("PRECONDITION_FAILED - message size %d is larger than configured max size %d",
			size, 16<<20))
		c.wantAlive()
	},

	"what was published before an error is stored, what comes after isn't": func(c *client) {
		c.queue("q", nil)
		c.check(c.ch.Confirm(false))
		for _, exchange := range []string{"", c.name("missing"), ""} {
			if err := c.ch.Publish(exchange, c.name("q"), false, false, message("m")); err != nil {
				break // the close was faster
			}
		}
		c.wantClosed(c.closed, 404, "NOT_FOUND")
		c.channel()
		c.wantIDs("q", "m")
	},
}
