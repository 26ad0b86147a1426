// Package pgxstore keeps Surepost's outbox, relay and inbox in PostgreSQL through pgx: the transaction of producers
// and handlers is a [pgx.Tx].
//
// It promises what outbox.Store, inbox.Store and relay.Store ask for. Every statement stands by itself, so that
// pgbouncer in transaction mode works; the relay's own two connections are made beside the pool, so that a busy
// service can't starve it.
package pgxstore
