// Package mysqlstore keeps Surepost's outbox, relay and inbox in MySQL (8.0.13 or newer) or MariaDB (10.6 or newer),
// through database/sql: the transaction of producers and handlers is a *sql.Tx, which also serves gorm, sqlx, bun, ent
// and sqlc. It is made for go-sql-driver/mysql, which it doesn't import, and works with every setting of its DSN:
// parseTime, loc, interpolateParams and clientFoundRows as you like; interpolateParams=true saves a round trip a
// statement.
//
// Write events by Append, or by INSERT … VALUES: an INSERT … SELECT draws numbers long before its rows are there.
//
// Rows of the outbox are deleted once their events are confirmed by the broker, because neither server has snapshot
// functions that a cursor could be made of. So a log has one destination, and nothing to replay. What is promised is
// the same as for PostgreSQL: see log.go for the argument, and Config.MultiPrimary for clusters that are written to on
// several nodes.
//
// A transaction's isolation level is the caller's. All four work for producers and handlers, and the store's own
// transactions set theirs. With innodb_flush_log_at_trx_commit other than 1, a commit that was published may be lost in
// a crash.
//
// Texts are stored as bytes (VARBINARY, LONGBLOB), so that they compare byte by byte and come back as they were. The
// command line shows them as text with mysql --skip-binary-as-hex.
package mysqlstore
