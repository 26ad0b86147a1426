package amqptest_test

import (
	"fmt"
	"log"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp/amqptest"
)

// The broker stores the second message and is cut off before it can say so. The publisher can't know, publishes
// again, and the queue has two of them: what an inbox is for.
func Example() {
	broker, err := amqptest.Start(amqptest.Config{Version: "4.2.0"})
	if err != nil {
		log.Fatal(err)
	}
	defer broker.Close()
	broker.Inject(amqptest.Fault{When: amqptest.Publish(nil), Skip: 1, Times: 1, Do: amqptest.Drop(), After: true})

	connect := func() *amqp091.Channel {
		conn, err := amqp091.Dial(broker.URL())
		if err != nil {
			log.Fatal(err)
		}
		ch, err := conn.Channel()
		if err != nil {
			log.Fatal(err)
		}
		if _, err := ch.QueueDeclare("orders", true, false, false, false, nil); err != nil {
			log.Fatal(err)
		}
		if err := ch.Confirm(false); err != nil {
			log.Fatal(err)
		}
		return ch
	}
	ch := connect()
	for _, id := range []string{"first", "second"} {
		m := amqp091.Publishing{MessageId: id, DeliveryMode: amqp091.Persistent}
		for acked := false; !acked; {
			confirm, err := ch.PublishWithDeferredConfirm("", "orders", true, false, m)
			if err != nil {
				log.Fatal(err)
			}
			if acked = confirm.Wait(); !acked {
				fmt.Println(id, "is in doubt")
				ch = connect()
			}
		}
	}
	for _, m := range broker.Messages("orders") {
		fmt.Println(m.MessageID)
	}
	// Output:
	// second is in doubt
	// first
	// second
	// second
}
