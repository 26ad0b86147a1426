// Package outboxtest asserts in a test which events a transaction has written, before it commits:
//
//	tx := …                                  // of the test's own, rolled back at its end
//	err := service.PlaceOrder(ctx, tx, order)
//	outboxtest.RequireWritten(t, ctx, store, tx,
//		outboxtest.Event{Type: "OrderCreated", Key: "c-42", Data: Order{ID: 7, Item: "tea"}})
//
// It sees what the transaction itself has written and nothing else: not what others wrote, or an earlier test left
// behind; nor what a savepoint took back. A failure shows what was written instead, and where the nearest event differs.
package outboxtest
