// Package inbox handles events so that their effects happen exactly once: it records the event's id and runs the
// handler in one database transaction. It knows no broker.
//
// What it promises: for as long as the dedupe record is kept, the handler's database work and the events that it
// writes with the same transaction happen once per (consumer, event id), however often and however concurrently the
// event is delivered. What it doesn't: make effects outside the transaction (mail, HTTP) happen once. Let another
// event's handler do those, idempotently.
package inbox
