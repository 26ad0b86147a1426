// Package pgxstore keeps Surepost's outbox, relay and inbox in PostgreSQL through pgx: the transaction of producers
// and handlers is a [pgx.Tx].
//
// It promises what outbox.Store, inbox.Store and relay.Store ask for. Every statement stands by itself, so that
// pgbouncer in transaction mode works; the relay's own two connections are made beside the pool, so that a busy
// service can't starve it.
//
// Behind a pooler in transaction mode, add default_query_exec_mode=exec to the URL (cache_describe and simple_protocol are
// as good), or have pgbouncer 1.21 or newer follow prepared statements (max_prepared_statements, on by default from 1.24).
// Store.Check finds what can't work.
package pgxstore
