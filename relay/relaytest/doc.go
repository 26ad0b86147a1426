// Package relaytest is for tests of services that publish: a broker in memory that fails on demand ([Publisher]), and a
// relay that takes one step at a time ([Relay]). Neither needs a server.
//
//	r := relaytest.New(t, store)          // the test's own store; memstore.New() where the database doesn't matter
//	r.PublishNext()                       // the first event is published, and that is stored
//	r.FailAfter()                         // the second arrives, and the connection is lost before the confirm
//	r.PublishAndCrash()                   // so it comes again, and the relay dies before it has stored that
//	r.Drain()                             // the next relay takes over and publishes the rest
//	r.Published()                         // 1 2 2 2 3 …: what a consumer has to live with
//
// What runs is relay.Relay itself, with its leases, checkpoints and parked events; only the broker waits for the test at
// each event, and the store's answers stop at a crash.
package relaytest
