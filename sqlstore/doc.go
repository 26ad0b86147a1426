// Package sqlstore keeps Surepost's outbox, relay and inbox in a database through database/sql: the transaction of
// producers and handlers is a *sql.Tx, which also serves gorm, sqlx, bun, ent and sqlc. PostgreSQL is supported, with
// any driver.
//
// Services that use pgx take its sibling pgxstore.
//
// Behind pgbouncer in transaction mode a driver must send a statement with its arguments in one message: add
// binary_parameters=yes to lib/pq's URL, default_query_exec_mode=exec to that of pgx/stdlib (or have pgbouncer 1.21 or newer
// follow pgx's prepared statements). lib/pq without it may run somebody else's statement there. Store.Check finds it.
package sqlstore
