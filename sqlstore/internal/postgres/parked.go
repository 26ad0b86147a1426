package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/surepost/surepost/relay"
)

// ParkedKeys implements relay.Log.
func (l *log) ParkedKeys(ctx context.Context) ([]string, error) {
	keys, err := column1(ctx, l.conn, l.engine.sql.parkedKeys, l.lease.Lane.Destination, int64(l.lease.Lane.Of), int64(l.lease.Lane.Index))
	return keys, l.engine.explain("read the parked keys", err)
}

// Released implements relay.Log.
func (l *log) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	rows, err := l.conn.Query(ctx, l.engine.sql.released, l.lease.Lane.Destination, int64(l.lease.Lane.Of), int64(l.lease.Lane.Index), int64(limit))
	if err != nil {
		return nil, l.engine.explain("read the parked events to retry", err)
	}
	defer rows.Close()
	var entries []relay.Entry
	for rows.Next() {
		var r row
		if err := rows.Scan(r.dest()...); err != nil {
			return nil, err
		}
		entries = append(entries, r.entry())
	}
	return entries, l.engine.explain("read the parked events to retry", rows.Err())
}

// Unpark implements relay.Log.
func (l *log) Unpark(ctx context.Context, published []relay.Entry, again []relay.Parked, keys []string) ([]string, error) {
	var held int64
	_, err := queryRow(ctx, l.conn, l.engine.sql.unpark, []any{
		l.lease.Lane.Destination, int64(l.lease.Lane.Index), l.lease.Epoch,
		textArray(len(published), func(i int) string { return published[i].Event.Key }),
		textArray(len(published), func(i int) string { return strconv.FormatInt(published[i].Seq, 10) }),
		textArray(len(again), func(i int) string { return again[i].Event.Key }),
		textArray(len(again), func(i int) string { return strconv.FormatInt(again[i].Seq, 10) }),
		textArray(len(again), func(i int) string { return strconv.FormatBool(again[i].Behind) }),
		textArray(len(again), func(i int) string { return again[i].Reason }),
		l.lease.Owner, l.server,
	}, &held)
	if err != nil {
		return nil, l.engine.explain("remove published events from the parked ones", err)
	}
	if held == 0 {
		return nil, relay.ErrLeaseLost
	}
	clear, err := column1(ctx, l.conn, l.engine.sql.clearKeys, l.lease.Lane.Destination, textArray(len(keys), func(i int) string { return keys[i] }))
	return clear, l.engine.explain("see which keys have no parked event any more", err)
}

// Parked lists parked events, oldest first.
func (e *Engine) Parked(ctx context.Context, f relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
	var list []relay.ParkedEvent
	err := e.onConn(ctx, func(q Querier) error {
		rows, err := q.Query(ctx, e.sql.parked, append(filterArgs(f), int64(limit))...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r row
			var p relay.ParkedEvent
			if err := rows.Scan(append(append([]any{&p.Destination}, r.dest()...), &p.Behind, &p.Reason, &p.At, &p.Retrying)...); err != nil {
				return err
			}
			p.Entry = r.entry()
			list = append(list, p)
		}
		return rows.Err()
	})
	return list, e.explain("list parked events", err)
}

func filterArgs(f relay.ParkedFilter) []any {
	destination := f.Destination
	if destination == "" {
		destination = relay.DefaultDestination
	}
	return []any{destination, f.Key, f.Type, textArray(len(f.IDs), func(i int) string { return f.IDs[i] }), f.Reason}
}

// onConn runs work on a connection of its own.
func (e *Engine) onConn(ctx context.Context, work func(Querier) error) error {
	conn, err := e.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return work(conn)
}

// column1 returns a result of one text column.
func column1(ctx context.Context, q Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, fmt.Errorf("sqlstore: %w", err)
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
