package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/surepost/surepost/relay"
)

// ParkedKeys implements relay.Log.
func (l *log) ParkedKeys(ctx context.Context) ([]string, error) {
	destination := l.lease.Lane.Destination
	keys, err := column(ctx, l.store.db, l.store.sql.parkedKeys, destination, destination)
	return keys, explain("read the parked keys", err)
}

// Released implements relay.Log.
func (l *log) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	d := l.lease.Lane.Destination
	rows, err := l.store.db.QueryContext(ctx, l.store.sql.released, d, d, d, d, d, int64(limit))
	if err != nil {
		return nil, explain("read the parked events to retry", err)
	}
	defer rows.Close()
	var entries []relay.Entry
	for rows.Next() {
		var r row
		if err := rows.Scan(r.dest()...); err != nil {
			return nil, explain("read the parked events to retry", err)
		}
		entries = append(entries, r.entry())
	}
	return entries, explain("read the parked events to retry", rows.Err())
}

// Unpark implements relay.Log.
func (l *log) Unpark(
	ctx context.Context, published []relay.Entry, again []relay.Parked, keys []string,
) (clear []string, err error) {
	s, lease := l.store, l.lease
	destination := lease.Lane.Destination
	err = s.transact(ctx, func(tx *sql.Tx) error {
		held, err := exec(ctx, tx, s.sql.held, destination, int64(lease.Lane.Index), lease.Epoch, lease.Owner)
		if err != nil {
			return explain("remove published events from the parked ones", err)
		}
		if held == 0 {
			return relay.ErrLeaseLost
		}
		for i := range published {
			if _, err := tx.ExecContext(ctx, s.sql.unpark, destination, published[i].Event.Key, published[i].Seq); err != nil {
				return explain("remove published events from the parked ones", err)
			}
		}
		now := micros(time.Now())
		for i := range again {
			p := &again[i]
			_, err := tx.ExecContext(ctx, s.sql.parkAnew, integer(p.Behind), p.Reason, now, destination, p.Event.Key, p.Seq)
			if err != nil {
				return explain("park an event again", err)
			}
		}
		clear = nil
		for _, key := range keys {
			var parked bool
			if err := tx.QueryRowContext(ctx, s.sql.hasParked, destination, key).Scan(&parked); err != nil {
				return explain("see which keys have no parked event any more", err)
			}
			if !parked {
				clear = append(clear, key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return clear, nil
}

// Parked lists parked events, oldest first, at most limit.
func (s *Store) Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error) {
	if s.db == nil {
		return nil, errNoDB
	}
	args, err := filterArgs(filter)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, s.sql.parked, append(args, int64(limit))...)
	if err != nil {
		return nil, explain("list parked events", err)
	}
	defer rows.Close()
	var list []relay.ParkedEvent
	for rows.Next() {
		var r row
		var p relay.ParkedEvent
		var at int64
		if err := rows.Scan(append(r.dest(), &p.Destination, &p.Behind, &p.Reason, &at, &p.Retrying)...); err != nil {
			return nil, explain("list parked events", err)
		}
		p.Entry, p.At = r.entry(), timeOf(at)
		list = append(list, p)
	}
	return list, explain("list parked events", rows.Err())
}

// filterArgs returns the parameters of parkedFilter.
func filterArgs(f relay.ParkedFilter) ([]any, error) {
	destination := f.Destination
	if destination == "" {
		destination = relay.DefaultDestination
	}
	ids := []byte("[]")
	if len(f.IDs) > 0 {
		var err error
		if ids, err = json.Marshal(f.IDs); err != nil {
			return nil, err
		}
	}
	return []any{destination, f.Key, f.Key, f.Type, f.Type, string(ids), string(ids), f.Reason}, nil
}
