// Package sqlitestore keeps Surepost's outbox, relay and inbox in an SQLite file, through database/sql and any driver:
// the transaction of producers and handlers is a *sql.Tx. It is for services of one machine: all processes that use the
// file must run on it, since SQLite's locks, its WAL and the leases' clock don't reach further.
//
//	db, err := sql.Open("sqlite", "file:orders.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
//	store := sqlitestore.New(db)
//
// is for modernc.org/sqlite; with github.com/mattn/go-sqlite3 it is
// "file:orders.db?_journal_mode=WAL&_busy_timeout=5000&_txlock=immediate". Store.Check demands a write-ahead log, so that
// the relay and the writers don't block each other, and a busy_timeout, so that writers wait for each other.
// _txlock=immediate is for the application's own transactions: one that reads first and writes later fails at the
// write (SQLITE_BUSY_SNAPSHOT) if another one has written in between, unless it takes the write lock at its beginning.
//
// What a commit is worth is PRAGMA synchronous. FULL, SQLite's default, survives a power cut. With NORMAL a power cut may
// take back the last commits, after their events have been published; a crash of the process takes back nothing. OFF can
// destroy the file, and is refused by Store.Check.
//
// How long a transaction may take: whoever writes holds the file's only write lock, and handlers run one at a time. While
// a transaction holds it for longer than the relay's LeaseTTL, the relay pauses. Let busy_timeout be shorter than that
// and than HandlerTimeout: with mattn/go-sqlite3 a wait for the lock doesn't end with its context. SQLite's waiting isn't
// fair: a process whose relay, writers and handlers share a file does best with SetMaxOpenConns(1), where database/sql
// queues them.
package sqlitestore
