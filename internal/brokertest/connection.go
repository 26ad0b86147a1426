package brokertest

import (
	"errors"
	"net"
	"net/url"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

var connections = map[string]func(*client){
	"the broker says what it can do": func(c *client) {
		can, _ := c.conn.Properties["capabilities"].(table)
		for _, name := range []string{"publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked",
			"authentication_failure_close", "exchange_exchange_bindings", "consumer_priorities", "per_consumer_qos"} {
			if can[name] != true {
				c.Errorf("capability %s is %v", name, can[name])
			}
		}
		if c.conn.Config.FrameSize != 131072 || c.conn.Config.ChannelMax != 2047 {
			c.Errorf("frame_max %d, channel_max %d", c.conn.Config.FrameSize, c.conn.Config.ChannelMax)
		}
	},

	"a wrong password is refused": func(c *client) {
		u, err := url.Parse(c.URL)
		c.check(err)
		u.User = url.UserPassword(u.User.Username(), "wrong")
		_, err = amqp091.Dial(u.String())
		var e *amqp091.Error
		if !errors.Is(err, amqp091.ErrCredentials) && (!errors.As(err, &e) || e.Code != 403) {
			c.Errorf("dialled with %v", err)
		}
	},

	"a virtual host that isn't there is refused": func(c *client) {
		u, err := url.Parse(c.URL)
		c.check(err)
		u.Path = "/nowhere-" + c.name("")
		_, err = amqp091.Dial(u.String())
		var e *amqp091.Error
		if !errors.As(err, &e) || e.Code != 530 && !errors.Is(err, amqp091.ErrVhost) {
			c.Errorf("dialled with %v", err)
		}
	},

	"AMQPLAIN is accepted": func(c *client) {
		u, err := url.Parse(c.URL)
		c.check(err)
		password, _ := u.User.Password()
		conn, err := amqp091.DialConfig(c.URL, amqp091.Config{
			SASL: []amqp091.Authentication{&amqp091.AMQPlainAuth{Username: u.User.Username(), Password: password}}})
		c.check(err)
		c.check(conn.Close())
	},

	"another protocol is answered with the one that is spoken": func(c *client) {
		u, err := url.Parse(c.URL)
		c.check(err)
		conn, err := net.Dial("tcp", u.Host)
		c.check(err)
		defer conn.Close()
		_, err = conn.Write([]byte("AMQP\x00\x00\x08\x00"))
		c.check(err)
		answer := make([]byte, 8)
		c.check(conn.SetReadDeadline(time.Now().Add(limit)))
		if _, err := conn.Read(answer); err != nil || string(answer[:4]) != "AMQP" {
			c.Errorf("answered %q (%v)", answer, err)
		}
		_, err = conn.Read(answer) // EOF or a reset
		if timeout := net.Error(nil); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			c.Errorf("not closed, but %v", err)
		}
	},

	"a channel that was closed may be opened again": func(c *client) {
		for range 3 {
			c.check(c.ch.Close())
			c.channel()
		}
		c.wantAlive()
	},

	"heartbeats keep an idle connection open": func(c *client) {
		conn, err := amqp091.DialConfig(c.URL, amqp091.Config{Heartbeat: time.Second})
		c.check(err)
		defer conn.Close()
		ended := conn.NotifyClose(make(chan *amqp091.Error, 1))
		select {
		case err := <-ended:
			c.Errorf("ended with %v", err)
		case <-time.After(2500 * time.Millisecond):
		}
	},
}

// disturbing tests concern the whole broker, and run alone.
var disturbing = map[string]func(*client){
	"operators close connections with 320": func(c *client) {
		if c.CloseConnections == nil {
			return
		}
		c.CloseConnections(c)
		c.wantClosed(c.ended, 320, "CONNECTION_FORCED - ")
		c.dial() // they may come again at once
	},

	"durable entities and persistent messages outlive a restart": func(c *client) {
		if c.Restart == nil {
			return
		}
		c.queue("classic", nil)
		c.queue("quorum", quorum(nil))
		_, err := c.ch.QueueDeclare(c.name("exclusive"), true, false, true, false, nil)
		c.check(err)
		c.publish("classic", "1")
		c.send("", c.name("classic"), amqp091.Publishing{MessageId: "transient"})
		c.publish("quorum", "1", "2")
		c.Restart(c)
		await(c, "end", c.ended)
		c.dial()
		c.wantIDs("classic", "1")
		c.wantReady("quorum", 2)
		c.wantIDs("quorum", "1", "2")
		if err := c.passive("exclusive"); err == nil {
			c.Error("the exclusive queue is still there")
		}
	},

	"who publishes while the broker is blocked is told and not read": func(c *client) {
		if c.Block == nil {
			return
		}
		c.queue("q", nil)
		other := c.other()
		told := c.conn.NotifyBlocked(make(chan amqp091.Blocking, 4))
		c.publish("q", "1")
		c.Block(c)
		defer c.Unblock(c)
		select {
		case b := <-told:
			c.Errorf("told %+v before it publishes", b)
		case <-time.After(quiet):
		}
		first, err := c.ch.PublishWithDeferredConfirm("", c.name("q"), false, false, message("2"))
		c.check(err)
		if b := await(c, "connection.blocked", told); !b.Active || b.Reason == "" {
			c.Errorf("told %+v", b)
		}
		second, err := c.ch.PublishWithDeferredConfirm("", c.name("q"), false, false, message("3"))
		c.check(err)
		time.Sleep(quiet)
		select {
		case <-first.Done():
			c.Error("confirmed while blocked")
		case <-second.Done():
			c.Error("confirmed while blocked")
		default:
		}
		other.wantReady("q", 1) // others go on
		c.Unblock(c)
		if b := await(c, "connection.unblocked", told); b.Active {
			c.Errorf("told %+v", b)
		}
		await(c, "confirm", second.Done())
		c.wantIDs("q", "1", "2", "3")
	},
}
