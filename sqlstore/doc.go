// Package sqlstore keeps Surepost's outbox, relay and inbox in a database through database/sql: the transaction of
// producers and handlers is a *sql.Tx, which also serves gorm, sqlx, bun, ent and sqlc. PostgreSQL is supported, with
// any driver.
//
// Services that use pgx take its sibling pgxstore.
package sqlstore
