package amqp

import (
	"context"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/diagnosis"
)

// alarmPatience is how long the broker may take to return a message, or to say that it takes none.
const alarmPatience = 5 * time.Second

// alarm sees whether the broker takes messages. During a resource alarm it tells only connections that begin to publish
// (RabbitMQ, "Blocked Connection Notifications"), and reads nothing more from them: so there is a connection for it, and a
// message that no queue gets. Any answer to it, be it a refusal, means that messages are taken.
func (d *visit) alarm(ctx context.Context) {
	l, err := dial(ctx, d.config.Connection)
	if err != nil {
		d.unknown("alarm", "", err)
		return
	}
	answers := false
	defer func() {
		if answers {
			hangUp(ctx, l)
		}
		l.raw.Close() // a broker that is blocked answers no good-bye
	}()
	blocked := l.NotifyBlocked(make(chan amqp091.Blocking, 1))
	ch, err := l.channel(ctx)
	if err != nil {
		d.unknown("alarm", "", err)
		return
	}
	returned, closed := ch.NotifyReturn(make(chan amqp091.Return, 1)), ch.NotifyClose(make(chan *amqp091.Error, 1))
	ctx, cancel := context.WithTimeout(ctx, alarmPatience)
	defer cancel()
	err = l.do(ctx, "publish a message that comes back", func() error {
		return ch.PublishWithContext(ctx, "", "surepost-doctor-"+surepost.NewID(), true, false, amqp091.Publishing{})
	})
	if err != nil {
		d.unknown("alarm", "", err)
		return
	}
	select {
	case b := <-blocked:
		d.add("broker-blocked", diagnosis.Critical, l.node.redacted, "it takes no messages: "+b.Reason+". Events wait in the database, and are published when the alarm is over",
			"see which alarm it is (rabbitmq-diagnostics alarms), free memory or disk, or drain the queues that fill it")
	case <-returned:
		answers = true
		d.good("alarm", l.node.redacted, "it takes messages")
	case refused := <-closed:
		answers = true
		if refused == nil || refused.Code != amqp091.AccessRefused {
			d.unknown("alarm", l.node.redacted, fmt.Errorf("the message wasn't taken: %v", refused))
			return
		}
		d.good("alarm", l.node.redacted, "it takes messages, though none of this user's for the default exchange")
	case <-ctx.Done():
		d.add("broker-stuck", diagnosis.Critical, l.node.redacted, fmt.Sprintf("it neither took a message within %v nor said that it takes none", alarmPatience),
			"see rabbitmq-diagnostics alarms and check_running, and RabbitMQ's log")
	}
}
