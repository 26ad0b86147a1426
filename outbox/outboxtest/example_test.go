package outboxtest_test

import (
	"context"
	"fmt"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/outbox/outboxtest"
)

// Order is what the service under test keeps.
type Order struct {
	ID    string `json:"id"`
	Item  string `json:"item"`
	Total int    `json:"total"`
}

// placeOrder is the code under test: the order and its event share one transaction.
func placeOrder(ctx context.Context, box *outbox.Outbox[*memstore.Tx], tx *memstore.Tx, o Order) error {
	if err := tx.Put(ctx, "order/"+o.ID, o); err != nil {
		return err
	}
	return box.Write(ctx, tx, surepost.Event{Type: "OrderCreated", Key: o.ID, Data: o})
}

func ExampleRequireWritten() {
	t, end := testspy.Standalone() // in a test: its own t
	defer end()
	ctx := t.Context()
	store := memstore.New() // or a store on the service's database
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := store.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx) // the test leaves nothing behind

	if err := placeOrder(ctx, box, tx, Order{"c-42", "tea", 300}); err != nil {
		t.Fatal(err)
	}
	written := outboxtest.RequireWritten(t, ctx, store, tx,
		outboxtest.Event{Type: "OrderCreated", Key: "c-42", Data: outboxtest.Partial{"item": "tea"}})
	outboxtest.RequireNotWritten(t, ctx, store, tx, outboxtest.Event{Type: "OrderRefused"})
	fmt.Println(written[0].Source, len(store.Events()), "committed")
	// Output: order-service 0 committed
}

// A test that fails shows where the nearest event differs, and all that was written.
func ExampleRequireWritten_failure() {
	t, end := testspy.Standalone()
	defer end()
	ctx, store := t.Context(), memstore.New()
	tx, _ := store.Begin(ctx)
	_ = store.Append(ctx, tx, []surepost.Event{
		{ID: "evt_1", Type: "OrderCreated", Key: "c-42", Source: "order-service", Data: []byte(`{"id":"c-42","item":"tea"}`)},
	})
	done := make(chan struct{})
	go func() { // a failure ends the goroutine, as it ends a test
		defer close(done)
		outboxtest.RequireWritten(t, ctx, store, tx,
			outboxtest.Event{Type: "OrderCreated", Key: "c-43", Data: outboxtest.Partial{"item": "salt"}})
	}()
	<-done
	// Output:
	// outboxtest: the transaction didn't write what is wanted:
	//   OrderCreated key="c-43" data with {"item":"salt"}
	//     nearest: #1, but key is "c-42", want "c-43"
	//       and data.item is "tea", want "salt"
	// It wrote:
	//   #1 OrderCreated key="c-42" id="evt_1" source="order-service" data={"id":"c-42","item":"tea"}
}
