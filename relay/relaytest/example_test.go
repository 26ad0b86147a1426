package relaytest_test

import (
	"context"
	"fmt"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
)

// place commits three events.
func place(ctx context.Context, store *memstore.Store) error {
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		return err
	}
	return store.Do(ctx, func(tx *memstore.Tx) error {
		return box.Write(ctx, tx,
			surepost.Event{Type: "OrderCreated", Key: "7"},
			surepost.Event{Type: "OrderPaid", Key: "7"},
			surepost.Event{Type: "OrderShipped", Key: "7"})
	})
}

func ExampleRelay() {
	t, end := testspy.Standalone() // in a test: its own t
	defer end()
	store := memstore.New() // or a store on the service's database
	if err := place(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	r := relaytest.New(t, store)
	fmt.Println("published:            ", r.PublishNext().Type)
	fmt.Println("lost before it arrived:", r.FailBefore().Type)
	fmt.Println("lost after it arrived: ", r.FailAfter().Type)
	fmt.Println("crashed after it:      ", r.PublishAndCrash().Type)
	r.Drain()
	for _, e := range r.Published() {
		fmt.Println(e.Type)
	}
	// Output:
	// published:             OrderCreated
	// lost before it arrived: OrderPaid
	// lost after it arrived:  OrderPaid
	// crashed after it:       OrderPaid
	// OrderCreated
	// OrderPaid
	// OrderPaid
	// OrderPaid
	// OrderShipped
}

// Without steps: the relay runs as it does in production, against a broker that fails on demand.
func ExamplePublisher() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, broker := memstore.New(), relaytest.NewPublisher()
	if err := place(ctx, store); err != nil {
		fmt.Println(err)
	}
	broker.Next(relaytest.Reject) // the first attempt; the others are taken
	r, err := relay.New(store, broker, relay.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	go r.Run(ctx)
	events, err := broker.Await(ctx, 3)
	for _, e := range events {
		fmt.Println(e.Type)
	}
	fmt.Println(err)
	// Output:
	// OrderCreated
	// OrderPaid
	// OrderShipped
	// <nil>
}
