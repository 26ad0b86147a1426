// Package inboxtest delivers an event to an inbox in all the ways in which a broker may, and demands that its effect
// happens once:
//
//	inboxtest.Deliver(t, in, surepost.Event{Type: "OrderCreated", Key: "7", Data: order},
//		inboxtest.Effect("reservations", func() int { return count(t, "SELECT count(*) FROM reservation") }),
//		inboxtest.Writes(outboxtest.Event{Type: "StockReserved", Key: "7"}))
//
// It finds the handlers that work in every other test and not in production: one that does work beside its transaction,
// that remembers in memory what was rolled back, that fails when it runs a second time, or whose events fall out of the
// flow. It works with every store, memstore and the real ones.
package inboxtest
