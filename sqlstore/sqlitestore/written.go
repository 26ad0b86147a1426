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
	var logged, scheduled int64
	last := s.config.expand(`SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '${outbox}'), 0),
       coalesce((SELECT seq FROM sqlite_sequence WHERE name = '${scheduled}'), 0)`)
	if err := s.db.QueryRowContext(ctx, last).Scan(&logged, &scheduled); err != nil {
		return nil, explain("read what others have committed", err)
	}
	// Plan: SEARCH of the outbox, and of the schedule, by rowid.
	rows, err := tx.QueryContext(ctx, s.config.expand(`SELECT * FROM (SELECT `+entryColumns+`, NULL FROM ${outbox} WHERE seq > ? ORDER BY seq)
UNION ALL
SELECT * FROM (SELECT `+scheduledColumns+`, not_before FROM ${scheduled} WHERE n > ? ORDER BY n)`), logged, scheduled)
	if err != nil {
		return nil, explain("read what the transaction has written", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		var due sql.NullInt64 // of a delayed event
		if err := rows.Scan(append(r.dest(), &due)...); err != nil {
			return nil, explain("read what the transaction has written", err)
		}
		event := r.entry().Event
		if due.Valid {
			event.NotBefore = timeOf(due.Int64)
		}
		events = append(events, event)
	}
	return events, explain("read what the transaction has written", rows.Err())
}
