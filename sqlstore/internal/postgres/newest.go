package postgres

import (
	"context"
	"slices"
	"strconv"

	"github.com/surepost/surepost/relay"
)

// The arguments of a window from the log's end, before those of the filter: $1 the number before which it ends, $2 the
// snapshot.
//
// Such a window ends at the last row that is there, so that a gap in the numbers costs one probe. Plan: InitPlans (an index probe of
// outbox_seq), Index Scan Backward of outbox_seq between two numbers.
const newestArgs = 2

// newestStatement returns the statement that reads a window's newest events: a row with the window's first number, then the events
// that the filter's conditions select.
func (c Config) newestStatement(conditions string, limit int) string {
	return c.expand(`WITH w AS MATERIALIZED (
    SELECT greatest(coalesce((SELECT seq FROM ${outbox} WHERE seq < $1::bigint ORDER BY seq DESC LIMIT 1), 0) - ` + windowRows + ` + 1, 0) AS first,
           $2::text::pg_snapshot AS snap
)
SELECT 0 AS arm, first AS seq, NULL::timestamptz AS time, '' AS id, '' AS type, '' AS version,
       '' AS source, '' AS key, '' AS correlation_id, '' AS causation_id, '' AS category, '' AS headers, '' AS data
FROM w
UNION ALL (
SELECT 1, ` + logColumns + ` FROM ${outbox} WHERE seq < $1::bigint AND seq >= (SELECT first FROM w) AND pg_visible_in_snapshot(tx, (SELECT snap FROM w))` +
		conditions + ` ORDER BY seq DESC LIMIT ` + strconv.Itoa(limit) + `)`)
}

// Newest returns the newest events of the log that the filter selects, the newest first, at most limit.
func (e *Engine) Newest(ctx context.Context, f relay.EventFilter, limit int) ([]relay.Entry, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	conditions, args := where(f, newestArgs)
	var list []relay.Entry
	err := e.onConn(ctx, func(q Querier) error {
		m, err := e.now(ctx, q)
		if err != nil {
			return err
		}
		for before := m.drawn + 1; before > 0 && len(list) < limit; {
			const most = 1000 // in a page
			n := min(limit-len(list), most)
			found, first, err := readNewest(ctx, q, e.config.newestStatement(conditions, n), append([]any{before, m.snap.String()}, args...))
			if err != nil {
				return err
			}
			list, before = append(list, found...), first
			if len(found) == n {
				before = found[n-1].Seq // there may be more in the window
			}
		}
		return nil
	})
	return list, e.explain("read the newest events", err)
}

func readNewest(ctx context.Context, q Querier, statement string, args []any) (list []relay.Entry, first int64, err error) {
	rows, err := q.Query(ctx, statement, args...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var arm int64
		var r row
		if err := rows.Scan(append([]any{&arm}, r.dest()...)...); err != nil {
			return nil, 0, err
		}
		if arm == 0 {
			first = r.seq
			continue
		}
		list = append(list, r.entry())
	}
	slices.SortFunc(list, func(a, b relay.Entry) int { return int(b.Seq - a.Seq) }) // as in log.query
	return list, first, rows.Err()
}
