package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
)

var wal = benchmark{
	name: "wal",
	compares: "WAL bytes and dead tuples per event over its life in the database: written through the outbox and " +
		"published by the " +
		"relay, against a hand-written outbox whose rows are inserted, fetched with FOR UPDATE SKIP LOCKED a " +
		"thousand at a time " +
		"and deleted after publishing.",
	defaults: options{events: 10_000, rounds: 3},
	smoke:    options{events: 200, rounds: 1},
	run:      runWAL,
}

const (
	deletedTable = `CREATE TABLE deleted_outbox (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         uuid        NOT NULL,
    key        text        NOT NULL,
    type       text        NOT NULL,
    payload    json        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)`
	insertDeleted = "INSERT INTO deleted_outbox (id, key, type, payload) SELECT * FROM unnest($1::uuid[], " +
		"$2::text[], $3::text[], $4::json[])"
	fetchDeleted  = "SELECT seq FROM deleted_outbox ORDER BY seq LIMIT 1000 FOR UPDATE SKIP LOCKED"
	deleteDeleted = "DELETE FROM deleted_outbox WHERE seq = ANY ($1)"
)

// volume is WAL in bytes per event.
type volume struct{ write, publish, images, vacuum float64 }

// total leaves out the vacuum: it is the hand-written outbox's way to get rid of what was published, as retention is
// the log's, and neither is due at once.
func (v volume) total() float64 { return v.write + v.publish }

func runWAL(ctx context.Context, l *lab) ([]result, error) {
	if err := l.exec(ctx, deletedTable); err != nil {
		return nil, err
	}
	if err := l.declare(drainQueue, nil); err != nil {
		return nil, err
	}
	defer l.discard(drainQueue)
	// Full-page images are told apart where the server has the extension (contrib, PostgreSQL 15 and newer).
	_, err := l.pool.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_walinspect")
	inspect := err == nil

	ending, err := l.endOfTransaction(ctx)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, perTransaction := range []int{1, 100} {
		volumes := map[string][]volume{}
		life := func(name, table string, write, publish func(ctx context.Context) error) side {
			return side{name, func(ctx context.Context) (float64, error) {
				v, err := l.volume(ctx, inspect, table, write, publish)
				v.write -= ending / float64(perTransaction)
				volumes[name] = append(volumes[name], v)
				return v.total(), err
			}}
		}
		s, err := alternate(ctx, l.rounds,
			life("outbox", "surepost_outbox",
				func(ctx context.Context) error { return l.writeInTransactionsOf(ctx, perTransaction) },
				func(ctx context.Context) error {
					r, err := l.employ(ctx, job{Worker: "relay", Postgres: l.url, Events: l.events})
					return errors.Join(err, l.empty(drainQueue, r.Published))
				}),
			life("deleted", "deleted_outbox",
				func(ctx context.Context) error { return l.insertInTransactionsOf(ctx, perTransaction) }, l.fetchAndDelete))
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(newOrder(0))
		if err != nil {
			return nil, err
		}
		settings := s.settings("outbox", "deleted")
		maps.Copy(settings, map[string]any{
			"events": l.events, "events_per_transaction": perTransaction, "data_bytes": len(data),
			"outbox_parts": parts(volumes["outbox"], inspect), "deleted_parts": parts(volumes["deleted"], inspect),
			"end_of_transaction": rounded(ending),
			"not_counted": "the end of the business transaction, which is written anyway; how either gets rid of what was published: vacuuming the hand-written table, the " +
				"log's retention",
			"before": "a checkpoint before writing and none until the events are published and gone; " +
				"full_page_writes on, no compression",
		})
		name := fmt.Sprintf("wal/%d", perTransaction)
		r := newCost(name, "bytes/event", s.median("outbox"), s.median("deleted"), settings)
		results = append(results, r.atMost(float64(len(data))*1.1+300))
	}
	dead, err := l.deadTuples(ctx)
	if err != nil {
		return nil, err
	}
	return append(results, dead), nil
}

// parts are a side's medians, in bytes per event.
func parts(all []volume, inspect bool) map[string]float64 {
	column := func(of func(volume) float64) float64 {
		var values []float64
		for _, v := range all {
			values = append(values, of(v))
		}
		return rounded(median(values))
	}
	p := map[string]float64{
		"write": column(func(v volume) float64 { return v.write }), "publish": column(func(v volume) float64 { return v.publish }),
		"vacuum_not_counted": column(func(v volume) float64 { return v.vacuum }),
	}
	if inspect {
		p["of_it_full_page_images"] = column(func(v volume) float64 { return v.images })
	}
	return p
}

// volume measures the WAL of the events' life.
func (l *lab) volume(
	ctx context.Context, inspect bool, table string, write, publish func(context.Context) error,
) (v volume, err error) {
	vacuum := func(ctx context.Context) error { return l.exec(ctx, "VACUUM "+table) }
	if err := l.exec(ctx, "CHECKPOINT"); err != nil {
		return v, err
	}
	for _, part := range []struct {
		bytes *float64
		work  func(ctx context.Context) error
	}{{&v.write, write}, {&v.publish, publish}, {&v.vacuum, vacuum}} {
		var from, to string
		if err := l.pool.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&from); err != nil {
			return v, err
		}
		if err := part.work(ctx); err != nil {
			return v, err
		}
		var bytes, images int64
		if err := l.pool.QueryRow(ctx, "SELECT lsn::text, lsn - $1::pg_lsn FROM pg_current_wal_insert_lsn() AS "+
			"lsn", from).Scan(&to, &bytes); err != nil {
			return v, err
		}
		*part.bytes = float64(bytes) / float64(l.events)
		if !inspect || part.bytes == &v.vacuum {
			continue
		}
		// A synchronous commit flushes what is to be inspected; a checkpoint would do away with it.
		if err := l.exec(ctx, "SELECT pg_logical_emit_message(true, 'bench', '')"); err != nil {
			return v, err
		}
		if err := l.pool.QueryRow(ctx, "SELECT coalesce(sum(fpi_size), 0)::bigint FROM "+
			"pg_get_wal_stats($1::pg_lsn, $2::pg_lsn)", from, to).Scan(&images); err != nil {
			return v, err
		}
		v.images += float64(images) / float64(l.events)
	}
	return v, nil
}

// endOfTransaction measures what the end of a transaction that writes nothing takes, in bytes.
func (l *lab) endOfTransaction(ctx context.Context) (float64, error) {
	const n = 1000
	var from string
	if err := l.pool.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&from); err != nil {
		return 0, err
	}
	for range n {
		if err := l.exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
			return 0, err
		}
	}
	var bytes int64
	err := l.pool.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", from).Scan(&bytes)
	return float64(bytes) / n, err
}

func (l *lab) writeInTransactionsOf(ctx context.Context, n int) error {
	for at := 0; at < l.events; at += n {
		page := make([]surepost.Event, min(n, l.events-at))
		for i := range page {
			page[i] = newEvent(at + i)
		}
		if err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error { return l.box.Write(ctx, tx, page...) }); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) insertInTransactionsOf(ctx context.Context, n int) error {
	for at := 0; at < l.events; at += n {
		rows, err := newHandWritten(at, min(n, l.events-at))
		if err != nil {
			return err
		}
		if _, err := l.pool.Exec(ctx, insertDeleted, rows.ids, rows.keys, rows.types, rows.payloads); err != nil {
			return err
		}
	}
	return nil
}

// fetchAndDelete is the hand-written relay, without its broker.
func (l *lab) fetchAndDelete(ctx context.Context) error {
	for {
		none := false
		err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, fetchDeleted)
			if err != nil {
				return err
			}
			seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if none = len(seqs) == 0; err != nil || none {
				return err
			}
			_, err = tx.Exec(ctx, deleteDeleted, seqs)
			return err
		})
		if err != nil || none {
			return err
		}
	}
}

// deadTuples counts the updates and deletes of all rounds: each leaves a dead tuple, vacuumed or not.
func (l *lab) deadTuples(ctx context.Context) (result, error) {
	all := int64(2 * l.rounds * l.events) // of either side
	counts := map[string]struct{ inserted, dead int64 }{}
	deadline := time.Now().Add(15 * time.Second) // sessions hand in their statistics up to a second late
	for counts["surepost_outbox"].inserted < all || counts["deleted_outbox"].dead < all {
		if time.Now().After(deadline) {
			return result{}, fmt.Errorf("the statistics don't know of all %d events: %v", all, counts)
		}
		rows, err := l.pool.Query(ctx, `SELECT regexp_replace(relname, '^surepost_outbox_[0-3]$', 'surepost_outbox') AS name, sum(n_tup_ins)::bigint,
    sum(n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables GROUP BY name`)
		if err != nil {
			return result{}, err
		}
		var table string
		var inserted, dead int64
		if _, err := pgx.ForEachRow(rows, []any{&table, &inserted, &dead}, func() error {
			counts[table] = struct{ inserted, dead int64 }{inserted, dead}
			return nil
		}); err != nil {
			return result{}, err
		}
		select {
		case <-ctx.Done():
			return result{}, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if counts["surepost_checkpoint"].inserted == 0 {
		return result{}, errors.New("the relay stored no checkpoint: nothing was measured")
	}
	elsewhere := map[string]int64{}
	for table, c := range counts {
		if table != "surepost_outbox" && table != "deleted_outbox" && c.dead > 0 {
			elsewhere[table] = c.dead
		}
	}
	figure := float64(counts["surepost_outbox"].dead) / float64(all)
	reference := float64(counts["deleted_outbox"].dead) / float64(all)
	r := result{
		Case: "wal/dead-tuples", Unit: "dead tuples/event",
		Figure: figure, Reference: reference, Ratio: reference / max(figure, 1/float64(all)),
		Settings: map[string]any{
			"what":                                 "rows updated or deleted in the table of events (pg_stat_user_tables), over all rounds",
			"events":                               all,
			"ratio_is":                             "reference / figure, where 0 counts as a single dead tuple in all",
			"surepost_dead_tuples_in_other_tables": elsewhere,
		},
	}
	return r.atMost(0), nil
}
