// Package outbox writes events inside the caller's database transaction. The events exist if, and only if, the
// transaction commits; a relay publishes them afterwards.
//
// What it promises: an invalid event is an error here, in the business transaction, and never later; a write is one
// statement, takes no lock that another transaction could wait for, and fires no trigger and no NOTIFY. What it
// doesn't do: open, commit or roll back transactions, or talk to a broker.
package outbox
