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
	seen, err := s.seqs(ctx, tx)
	if err != nil {
		return nil, explain("read what the transaction has written", err)
	}
	if len(seen) == 0 {
		return nil, nil
	}
	there := map[sql.IsolationLevel]map[int64]bool{}
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelReadUncommitted} {
		err := transact(ctx, s.db, level, func(other *sql.Tx) error {
			seqs, err := s.seqs(ctx, other)
			there[level] = make(map[int64]bool, len(seqs))
			for _, seq := range seqs {
				there[level][seq] = true
			}
			return err
		})
		if err != nil {
			return nil, explain("read what others have committed", err)
		}
	}
	var own []int64
	for _, seq := range seen {
		if !there[sql.LevelReadCommitted][seq] && there[sql.LevelReadUncommitted][seq] {
			own = append(own, seq)
		}
	}
	if len(own) == 0 {
		return nil, nil
	}
	written, err := entries(tx.QueryContext(ctx, s.sql.rows+numbers(own)+" ORDER BY seq"))
	if err != nil {
		return nil, explain("read what the transaction has written", err)
	}
	for _, entry := range written {
		events = append(events, entry.Event)
	}
	return events, nil
}

// seqs returns the numbers of all rows that q sees.
func (s *Store) seqs(ctx context.Context, q querier) (seqs []int64, err error) {
	rows, err := q.QueryContext(ctx, s.config.expand("SELECT seq FROM ${outbox} ORDER BY seq"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		seqs = append(seqs, seq)
	}
	return seqs, rows.Err()
}
