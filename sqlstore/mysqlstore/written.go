package mysqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/surepost/surepost"
)

var errNoOtherConnection = errors.New("mysqlstore: what a transaction has written is told from what others have by a second connection, and the " +
	"database handle has none to spare: raise SetMaxOpenConns in the test, or write through outboxtest.Record")

// Written returns the events that tx itself has written and not rolled back, in the order of writing: what a test asserts
// before the commit (outboxtest.RequireWritten). It needs a second connection, for a moment, and takes no lock.
//
// Its own are the rows that it sees, that a connection beside it doesn't see committed, and that are there nevertheless. The
// order of the three reads matters: a row of another transaction that tx sees was committed before the second, which sees it
// unless it was deleted (by a relay), and then the third doesn't.
func (s *Store) Written(ctx context.Context, tx *sql.Tx) (events []surepost.Event, err error) {
	if s.db == nil {
		return nil, ErrNoPool
	}
	if pool := s.db.Stats(); pool.MaxOpenConnections > 0 && pool.InUse >= pool.MaxOpenConnections {
		return nil, errNoOtherConnection
	}
	logged, err := s.ownRows(ctx, tx, "SELECT seq FROM ${outbox} ORDER BY seq")
	if err != nil {
		return nil, err
	}
	const doing = "read what the transaction has written"
	if len(logged) > 0 {
		written, err := entries(tx.QueryContext(ctx, s.sql.rows+numbers(logged)+" ORDER BY seq"))
		if err != nil {
			return nil, explain(doing, err)
		}
		for _, entry := range written {
			events = append(events, entry.Event)
		}
	}
	scheduled, err := s.ownRows(ctx, tx, "SELECT n FROM ${scheduled} ORDER BY n")
	if err != nil || len(scheduled) == 0 {
		return events, err
	}
	written, err := delayedRows(tx.QueryContext(ctx, s.sql.writtenDelayed+numbers(scheduled)+" ORDER BY n"))
	for i := range written {
		events = append(events, written[i].event())
	}
	return events, explain(doing, err)
}

// ownRows returns which of the numbers that the query returns are the transaction's own.
func (s *Store) ownRows(ctx context.Context, tx *sql.Tx, query string) (own []int64, err error) {
	query = s.config.expand(query)
	seen, err := column[int64](tx.QueryContext(ctx, query))
	if err != nil || len(seen) == 0 {
		return nil, explain("read what the transaction has written", err)
	}
	there := map[sql.IsolationLevel]map[int64]bool{}
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelReadUncommitted} {
		err := transact(ctx, s.db, level, func(other *sql.Tx) error {
			numbers, err := column[int64](other.QueryContext(ctx, query))
			there[level] = make(map[int64]bool, len(numbers))
			for _, n := range numbers {
				there[level][n] = true
			}
			return err
		})
		if err != nil {
			return nil, explain("read what others have committed", err)
		}
	}
	for _, n := range seen {
		if !there[sql.LevelReadCommitted][n] && there[sql.LevelReadUncommitted][n] {
			own = append(own, n)
		}
	}
	return own, nil
}
