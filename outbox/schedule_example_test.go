package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
)

// A delayed event waits in the schedule until it is due, and then a relay publishes it within a second.
func ExampleOutbox_Write_delayed() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	store := memstore.New() // or a store on the service's database
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		log.Fatal(err)
	}
	due := time.Now().Add(50 * time.Millisecond)
	err = store.Do(ctx, func(tx *memstore.Tx) error {
		return box.Write(ctx, tx,
			surepost.Event{Type: "PaymentOverdue", Key: "order-7", NotBefore: due},
			surepost.Event{Type: "OrderCreated", Key: "order-7"})
	})
	if err != nil {
		log.Fatal(err)
	}

	publisher := relaytest.NewPublisher() // or an amqp.Publisher
	r, err := relay.New(store, publisher, relay.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	published, err := publisher.Await(ctx, 2)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range published {
		fmt.Println(e.Type)
	}
	fmt.Println("early:", time.Now().Before(due))
	stop()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	// Output:
	// OrderCreated
	// PaymentOverdue
	// early: false
}

// The order is paid: its reminder is taken back in the transaction that notes the payment.
func ExampleOutbox_Cancel() {
	ctx := context.Background()
	store := memstore.New() // or a store on the service's database
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		log.Fatal(err)
	}
	create := func(tx *memstore.Tx) error {
		return errors.Join(
			tx.Put(ctx, "order/7", "unpaid"),
			box.Write(ctx, tx,
				surepost.Event{Type: "OrderCreated", Key: "order-7"},
				surepost.Event{ID: "overdue-order-7", Type: "PaymentOverdue", Key: "order-7", NotBefore: time.Now().AddDate(0, 0, 7)}))
	}
	pay := func(tx *memstore.Tx) error {
		cancelled, err := box.Cancel(ctx, tx, "overdue-order-7")
		fmt.Println("reminders taken back:", cancelled) // 0: it has been sent already
		return errors.Join(err, tx.Put(ctx, "order/7", "paid"), box.Write(ctx, tx, surepost.Event{Type: "OrderPaid", Key: "order-7"}))
	}
	if err := errors.Join(store.Do(ctx, create), store.Do(ctx, pay)); err != nil {
		log.Fatal(err)
	}
	for _, e := range store.Events() {
		fmt.Println(e.Type)
	}
	// Output:
	// reminders taken back: 1
	// OrderCreated
	// OrderPaid
}
