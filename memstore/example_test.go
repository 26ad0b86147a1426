package memstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
)

// The code under test takes the transaction as a type parameter, or an interface of its own; its unit test passes one in
// memory.
func Example() {
	ctx := context.Background()
	store := memstore.New()
	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
	if err != nil {
		panic(err)
	}
	place := func(tx *memstore.Tx, id string) error {
		if err := tx.Put(ctx, "order/"+id, "placed"); err != nil {
			return err
		}
		return box.Write(ctx, tx, surepost.Event{Type: "OrderPlaced", Key: id, Data: map[string]string{"orderId": id}})
	}

	err = store.Do(ctx, func(tx *memstore.Tx) error { return place(tx, "7") })
	fmt.Println(err)
	err = store.Do(ctx, func(tx *memstore.Tx) error {
		return errors.Join(place(tx, "8"), errors.New("out of stock"))
	})
	fmt.Println(err)

	fmt.Println(store.Rows())
	for _, event := range store.Events() {
		fmt.Printf("%s %s\n", event.Type, event.Data)
	}
	// Output:
	// <nil>
	// out of stock
	// [order/7]
	// OrderPlaced {"orderId":"7"}
}
