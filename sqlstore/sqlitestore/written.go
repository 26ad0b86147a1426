package sqlitestore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/surepost/surepost"
)

var errNoOtherConnection = errors.New("sqlitestore: what a transaction has written is told from what others have by a second connection, and the " +
	"database handle has none to spare: raise SetMaxOpenConns to 2 or more in the test, or write through outboxtest.Record")

// Written returns the events that tx itself has written and not rolled back, in the order of writing: what a test asserts
// before the commit (outboxtest.RequireWritten). It needs a second connection, for a moment.
//
// A file has one writer at a time. So once tx has written, what others have committed doesn't change before its end: its own
// events are those above the last number that a connection beside it sees.
func (s *Store) Written(ctx context.Context, tx *sql.Tx) (events []surepost.Event, err error) {
	if s.db == nil {
		return nil, errNoDB
	}
	if pool := s.db.Stats(); pool.MaxOpenConnections > 0 && pool.InUse >= pool.MaxOpenConnections {
		return nil, errNoOtherConnection
	}
	var committed int64
	last := s.config.expand(`SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '${outbox}'), 0)`)
	if err := s.db.QueryRowContext(ctx, last).Scan(&committed); err != nil {
		return nil, explain("read what others have committed", err)
	}
	// Plan: SEARCH of the outbox by rowid.
	rows, err := tx.QueryContext(ctx, s.config.expand(`SELECT `+entryColumns+` FROM ${outbox} WHERE seq > ? ORDER BY seq`), committed)
	if err != nil {
		return nil, explain("read what the transaction has written", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(r.dest()...); err != nil {
			return nil, explain("read what the transaction has written", err)
		}
		events = append(events, r.entry().Event)
	}
	return events, explain("read what the transaction has written", rows.Err())
}
