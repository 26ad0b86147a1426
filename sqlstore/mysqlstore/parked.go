package mysqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strconv"
	"time"

	"github.com/surepost/surepost/relay"
)

// park stores a copy of each event that is still in the log. Those that aren't were parked by a transaction whose
// outcome was unknown.
func (l *log) park(ctx context.Context, tx *sql.Tx, parked []relay.Parked) error {
	if len(parked) == 0 {
		return nil
	}
	there := map[int64]bool{}
	for chunk := range slices.Chunk(parked, removeAtOnce) {
		seqs, ids := make([]int64, len(chunk)), make([]string, len(chunk))
		for i, p := range chunk {
			seqs[i], ids[i] = p.Seq, p.Event.ID
		}
		found, err := column[int64](tx.QueryContext(ctx, l.store.sql.stillThere+numbers(seqs)+" AND id IN "+texts(ids)))
		if err != nil {
			return err
		}
		for _, seq := range found {
			there[seq] = true
		}
	}
	now := timestamp(time.Now())
	var rows [][]any
	var sizes []int
	var ids []string
	for _, p := range parked {
		if !there[p.Seq] {
			continue
		}
		event, err := eventRow(&p.Event)
		if err != nil {
			return err
		}
		row := append([]any{[]byte(l.lease.Lane.Destination), p.Seq, p.Behind, []byte(p.Reason), now}, event...)
		rows, sizes, ids = append(rows, row), append(sizes, rowBytes(row)), append(ids, p.Event.ID)
	}
	insert := func(rows [][]any) error {
		_, err := tx.ExecContext(ctx, l.store.sql.park+placeholders(len(rows), len(rows[0])), slices.Concat(rows...)...)
		return err
	}
	return l.store.inChunks(ctx, tx, rows, sizes, insert, func(i int) string { return ids[i] })
}

// ParkedKeys implements relay.Log.
func (l *log) ParkedKeys(ctx context.Context) (keys []string, err error) {
	err = own(ctx, l.conn, func(tx *sql.Tx) error {
		keys, err = column[string](tx.QueryContext(ctx, l.store.sql.parkedKeys, []byte(l.lease.Lane.Destination)))
		return err
	})
	return keys, explain("read the parked keys", err)
}

// released is a parked event that may be published again.
type released struct {
	n     int64
	entry relay.Entry
}

// Released implements relay.Log.
func (l *log) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	var list []released
	err := snapshot(ctx, l.conn, func(tx *sql.Tx) error {
		keys, err := column[string](tx.QueryContext(ctx, l.store.sql.heads+strconv.Itoa(limit), []byte(l.lease.Lane.Destination)))
		if err != nil {
			return err
		}
		if list, err = l.free(ctx, tx, l.store.sql.keyless, limit); err != nil {
			return err
		}
		const perKey = 100 // so that one key with many doesn't keep others waiting
		for _, key := range keys {
			if len(list) >= limit {
				break
			}
			of, err := l.free(ctx, tx, l.store.sql.keyed, min(perKey, limit-len(list)), []byte(key))
			if err != nil {
				return err
			}
			list = append(list, of...)
		}
		return nil
	})
	if err != nil {
		return nil, explain("read the parked events to retry", err)
	}
	slices.SortFunc(list, func(a, b released) int { return cmp.Compare(a.n, b.n) })
	entries := make([]relay.Entry, len(list))
	for i := range list {
		entries[i] = list[i].entry
	}
	return entries, nil
}

// free returns the parked events before the first one that stays.
func (l *log) free(ctx context.Context, tx *sql.Tx, statement string, limit int, args ...any) ([]released, error) {
	rows, err := tx.QueryContext(ctx, statement+strconv.Itoa(limit), append([]any{[]byte(l.lease.Lane.Destination)}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []released
	for rows.Next() {
		var r row
		var is released
		var goes bool
		if err := rows.Scan(append([]any{&is.n, &goes}, r.dest()...)...); err != nil {
			return nil, err
		}
		if !goes {
			break
		}
		is.entry = r.entry()
		list = append(list, is)
	}
	return list, rows.Err()
}

// Unpark implements relay.Log.
func (l *log) Unpark(
	ctx context.Context, published []relay.Entry, again []relay.Parked, keys []string,
) (clear []string, err error) {
	err = l.guarded(ctx, 0, func(tx *sql.Tx) error {
		destination := []byte(l.lease.Lane.Destination)
		for chunk := range slices.Chunk(published, removeAtOnce) {
			seqs, ids := make([]int64, len(chunk)), make([]string, len(chunk))
			for i, e := range chunk {
				seqs[i], ids[i] = e.Seq, e.Event.ID
			}
			if _, err := tx.ExecContext(ctx, l.store.sql.unparked+numbers(seqs)+" AND id IN "+texts(ids), destination); err != nil {
				return err
			}
		}
		for _, p := range again {
			if _, err := tx.ExecContext(ctx, l.store.sql.again, p.Behind, []byte(p.Reason), destination, p.Seq, []byte(p.Event.ID)); err != nil {
				return err
			}
		}
		clear = nil
		for chunk := range slices.Chunk(keys, removeAtOnce) {
			parked, err := column[string](tx.QueryContext(ctx, l.store.sql.keysParked+texts(chunk), destination))
			if err != nil {
				return err
			}
			for _, key := range chunk {
				if !slices.Contains(parked, key) {
					clear = append(clear, key)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, explain("remove published events from the parked ones", err)
	}
	return clear, nil
}

// Parked lists parked events, oldest first, at most limit.
func (s *Store) Parked(ctx context.Context, filter relay.ParkedFilter, limit int) (list []relay.ParkedEvent, err error) {
	where, args := parkedWhere(filter)
	err = s.own(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, s.sql.parked+where+" ORDER BY n LIMIT "+strconv.Itoa(limit), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r row
			var p relay.ParkedEvent
			var at string
			if err := rows.Scan(append([]any{&p.Destination, &p.Behind, &p.Reason, &at, &p.Retrying}, r.dest()...)...); err != nil {
				return err
			}
			p.At, p.Entry = readTimestamp(at), r.entry()
			list = append(list, p)
		}
		return rows.Err()
	})
	return list, explain("list parked events", err)
}

// parkedWhere selects parked events. An empty field selects all.
func parkedWhere(f relay.ParkedFilter) (where string, args []any) {
	where, args = "destination = ?", []any{[]byte(cmp.Or(f.Destination, relay.DefaultDestination))}
	if f.Key != "" {
		where, args = where+" AND `key` = ?", append(args, []byte(f.Key))
	}
	if f.Type != "" {
		where, args = where+" AND type = ?", append(args, []byte(f.Type))
	}
	if len(f.IDs) > 0 {
		where += " AND id IN " + texts(f.IDs)
	}
	if f.Reason != "" {
		where, args = where+" AND LOCATE(?, reason) > 0", append(args, []byte(f.Reason))
	}
	return where, args
}
