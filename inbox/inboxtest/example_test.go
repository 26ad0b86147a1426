package inboxtest_test

import (
	"context"
	"fmt"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/inbox/inboxtest"
	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/outbox/outboxtest"
)

func ExampleDeliver() {
	t, end := testspy.Standalone() // in a test: its own t
	defer end()
	store := memstore.New() // or a store on the service's database
	box, err := outbox.New(store, outbox.Config{Source: "inventory"})
	if err != nil {
		t.Fatal(err)
	}
	in, err := inbox.New(store, inbox.Config{Consumer: "inventory"})
	if err != nil {
		t.Fatal(err)
	}
	type order struct{ Item string }
	inbox.On(in, "OrderCreated", func(ctx context.Context, tx *memstore.Tx, e surepost.Event, o order) error {
		if err := tx.Put(ctx, "reservation/"+e.Key, o.Item); err != nil {
			return err
		}
		return box.Write(ctx, tx, surepost.Event{Type: "StockReserved", Key: e.Key})
	})

	inboxtest.Deliver(t, in, surepost.Event{Type: "OrderCreated", Key: "7", Data: order{"tea"}},
		inboxtest.Effect("reservations", func() int { return len(store.Rows()) }),
		inboxtest.Writes(outboxtest.Event{Type: "StockReserved", Key: "7"}))
	fmt.Println(store.Rows(), len(store.Events()), "event")
	// Output: [reservation/7] 1 event
}
