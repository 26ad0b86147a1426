// Package memstore keeps Surepost's outbox, relay and inbox in memory, with real transactions: for unit tests and
// demos that have no server. The transaction of producers and handlers is a [*Tx], which also holds the test's own
// rows, so that they share the events' fate:
//
//	store := memstore.New()
//	box, err := outbox.New(store, outbox.Config{Source: "order-service"})
//	err = store.Do(ctx, func(tx *memstore.Tx) error {
//		if err := tx.Put(ctx, "order/7", order); err != nil {
//			return err
//		}
//		return box.Write(ctx, tx, surepost.Event{Type: "OrderCreated", Key: "7", Data: order})
//	})
//	store.Events() // what was committed
//
// What it promises: all that a store on a database does, as the same conformance suite shows (sqlstore/storetest).
// Any number of transactions may be open at once and commit in any order; they see what others have committed, wait
// for each other's locks and find deadlocks. Its clock is time.Now, so that it fits in a testing/synctest bubble. What
// it doesn't promise: to survive its process, or to be small: what is written stays in memory until Retain, which a relay
// calls, or PruneInbox removes it.
package memstore
