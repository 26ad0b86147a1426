package amqp_test

import (
	"context"
	"fmt"
	"log"

	"github.com/surepost/surepost/amqp"
)

// The handler is repaired: the events that failed for that reason go back, in each key's order.
func ExampleRedrive() {
	rabbit := amqp.Connection{URLs: []string{"amqp://guest:guest@localhost:5672/"}}
	failed := amqp.DeadLetterFilter{
		Types: []string{"OrderCreated"}, Reasons: []amqp.DeadLetterReason{amqp.AttemptsSpent},
	}

	letters, err := amqp.DeadLetters(context.Background(), amqp.DeadLettersConfig{
		Connection: rabbit, Queue: "billing.orders", Select: failed, Limit: 10,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range letters {
		fmt.Println(l.At, l.ID, l.Key, l.Error)
	}

	report, err := amqp.Redrive(context.Background(), amqp.RedriveConfig{
		Connection: rabbit, Queue: "billing.orders", Select: failed,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Moved, "moved", report.Held, "held behind others of their key", report.Notes)
}
