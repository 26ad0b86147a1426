package postgres

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/surepost/surepost/relay"
)

// windowRows is how many numbers of the log one statement looks through at most. A filter may match ten rows of ten million,
// and no statement should run for long: 10,000 rows take some milliseconds, beside which the round trip hardly counts.
const windowRows = `10000`

// part is what a replay or an operator's question takes of the log: what filter selects of the rows up to until that snap
// sees. It doesn't change as time passes, so that a number is all it takes to go on: whatever is still to come lies
// above, in order of seq.
type part struct {
	filter relay.EventFilter
	until  int64
	snap   string
}

// moment is the log as one statement saw it: what a cursor is made of.
type moment struct {
	drawn int64
	snap  snapshot
	next  uint64
}

// now returns the log's present state, in the order that the cursor's proof needs. Not to be called in a transaction: age()
// remembers its first answer until the end of one.
func (e *Engine) now(ctx context.Context, q Querier) (m moment, err error) {
	var snap, next string
	found, err := queryRow(ctx, q, e.sql.moment, nil, &m.drawn, &snap, &next)
	if err != nil {
		return moment{}, err
	}
	if !found {
		return moment{}, errors.New("sqlstore: the sequence of the outbox table can't be read")
	}
	if m.snap, err = parseSnapshot(snap); err != nil {
		return moment{}, err
	}
	m.next, err = strconv.ParseUint(next, 10, 64)
	return m, err
}

// all returns what the filter selects of the log as it is.
func (m moment) all(f relay.EventFilter) part {
	return part{filter: f, until: m.drawn, snap: m.snap.String()}
}

// where returns the filter's conditions, and their arguments, whose numbers follow taken.
func where(f relay.EventFilter, taken int) (conditions string, args []any) {
	add := func(condition, cast string, arg any) {
		args = append(args, arg)
		conditions += " AND " + condition + "$" + strconv.Itoa(taken+len(args)) + cast
	}
	list := func(column string, values []string) {
		if len(values) > 0 {
			add(column+" = ANY (", "::text[])", textArray(len(values), func(i int) string { return values[i] }))
		}
	}
	list("type", f.Types)
	list("key", f.Keys)
	list("source", f.Sources)
	list("id", f.IDs)
	if f.CorrelationID != "" {
		add("coalesce(correlation_id, id) = ", "", f.CorrelationID)
	}
	if !f.Since.IsZero() {
		add("time >= ", "::timestamptz", timestamp(wholeMicros(f.Since)))
	}
	if !f.Until.IsZero() {
		add("time < ", "::timestamptz", timestamp(wholeMicros(f.Until)))
	}
	return conditions, args
}

// wholeMicros rounds up to what PostgreSQL holds, which changes no comparison with a time that it holds.
func wholeMicros(t time.Time) time.Time {
	if down := t.Truncate(time.Microsecond); down.Before(t) {
		return down.Add(time.Microsecond)
	}
	return t
}

// The arguments of a window's statement, before those of the filter: $1 the number behind which it begins, $2 the part's
// until, $3 its snapshot.
//
// A window begins at the first row that is there, so that a gap in the numbers costs one probe, however wide it is. Its rows
// are looked at once. Plan: InitPlans (an index probe of outbox_seq), Index Scan of outbox_seq between two numbers.
const windowArgs = 3

const window = `WITH w AS MATERIALIZED (
    SELECT least(coalesce((SELECT seq FROM ${outbox} WHERE seq > $1::bigint AND seq <= $2::bigint ORDER BY seq LIMIT 1), $2::bigint) + ` + windowRows + ` - 1, $2::bigint) AS last,
           $3::text::pg_snapshot AS snap
)`

const inWindow = `seq > $1::bigint AND seq <= (SELECT last FROM w) AND pg_visible_in_snapshot(tx, (SELECT snap FROM w))`

// selectStatement returns the statement that reads a window's first events: a row about the read itself, with the window's
// last number and the server's identity, then the events that the filter's conditions and the lane ($4 lanes, $5 index)
// select.
func (c Config) selectStatement(conditions string, limit int) string {
	return c.expand(window + `
SELECT 0 AS arm, last AS seq, NULL::timestamptz AS time, '' AS id, '' AS type, ` + serverIdentity + ` AS version,
       '' AS source, '' AS key, '' AS correlation_id, '' AS causation_id, '' AS category, '' AS headers, '' AS data
FROM w
UNION ALL (
SELECT 1, ` + logColumns + ` FROM ${outbox} WHERE ` + inWindow + ` AND (slot & 1023) % $4::int = $5::int` + conditions + ` ORDER BY seq LIMIT ` + strconv.Itoa(limit) + `)`)
}

const selectArgs = windowArgs + 2

// countStatement returns the statement that counts a window's events by type, after a row with the window's last number.
func (c Config) countStatement(conditions string) string {
	return c.expand(window + `
SELECT '' AS type, last AS n FROM w
UNION ALL (
SELECT type, count(*) FROM ${outbox} WHERE ` + inWindow + conditions + ` GROUP BY type)`)
}

// selection reads a part of the log, window by window.
type selection struct {
	part
	lane      relay.Lane
	statement string
	limit     int
}

// page is what one read of a selection returned.
type page struct {
	entries []relay.Entry
	after   int64 // up to here, everything that the part has was returned
	server  string
}

// read returns the part's next events behind after, at most limit. There may be none although there are more: then the
// window had none.
func (s *selection) read(ctx context.Context, q Querier, config Config, after int64, limit int) (page, error) {
	conditions, args := where(s.filter, selectArgs)
	if s.limit != limit {
		s.limit, s.statement = limit, config.selectStatement(conditions, limit)
	}
	rows, err := q.Query(ctx, s.statement, append([]any{after, s.until, s.snap, int64(s.lane.Of), int64(s.lane.Index)}, args...)...)
	if err != nil {
		return page{}, err
	}
	defer rows.Close()
	var p page
	var last int64
	for rows.Next() {
		var arm int64
		var r row
		if err := rows.Scan(append([]any{&arm}, r.dest()...)...); err != nil {
			return page{}, err
		}
		if arm == 0 {
			last, p.server = r.seq, r.version
			continue
		}
		p.entries = append(p.entries, r.entry())
	}
	if err := rows.Err(); err != nil {
		return page{}, err
	}
	slices.SortFunc(p.entries, func(a, b relay.Entry) int { return int(a.Seq - b.Seq) }) // as in log.query
	p.after = reached(after, last, seqs(p.entries), limit)
	return p, nil
}

// reached returns up to where a read behind after has returned everything: the last number of its window, unless it stopped at
// its limit before that.
func reached(after, last int64, seqs []int64, limit int) int64 {
	if n := len(seqs); n > 0 && n >= limit {
		return seqs[n-1]
	}
	return max(after, last)
}

// first returns the first event of the part behind after.
func (s *selection) first(ctx context.Context, q Querier, config Config, after int64) (e relay.Entry, found bool, err error) {
	for after < s.until {
		p, err := s.read(ctx, q, config, after, 1)
		if err != nil {
			return relay.Entry{}, false, err
		}
		if len(p.entries) > 0 {
			return p.entries[0], true, nil
		}
		after = p.after
	}
	return relay.Entry{}, false, nil
}

// whole is the lane of those who don't care for lanes.
var whole = relay.Lane{Of: 1}

// Events returns the events of the log that the filter selects and that come behind the number after, in order, at most
// limit. Events that commit later may come before ones that were returned: their numbers are from before their commit.
func (e *Engine) Events(ctx context.Context, f relay.EventFilter, after int64, limit int) ([]relay.Entry, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	var list []relay.Entry
	err := e.onConn(ctx, func(q Querier) error {
		m, err := e.now(ctx, q)
		if err != nil {
			return err
		}
		s := selection{part: m.all(f), lane: whole}
		for after < s.until && len(list) < limit {
			const most = 1000 // in a page
			p, err := s.read(ctx, q, e.config, after, min(limit-len(list), most))
			if err != nil {
				return err
			}
			list, after = append(list, p.entries...), p.after
		}
		return nil
	})
	return list, e.explain("read events", err)
}

// CountEvents returns how many events of the log the filter selects, by type: what a replay with this filter would publish
// if it were created now.
func (e *Engine) CountEvents(ctx context.Context, f relay.EventFilter) (map[string]int64, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	err := e.onConn(ctx, func(q Querier) error {
		m, err := e.now(ctx, q)
		if err != nil {
			return err
		}
		conditions, args := where(f, windowArgs)
		statement := e.config.countStatement(conditions)
		for after := int64(0); after < m.drawn; {
			if after, err = countWindow(ctx, q, statement, append([]any{after, m.drawn, m.snap.String()}, args...), counts); err != nil {
				return err
			}
		}
		return nil
	})
	return counts, e.explain("count events", err)
}

// countWindow adds a window's counts, and returns its last number.
func countWindow(ctx context.Context, q Querier, statement string, args []any, counts map[string]int64) (last int64, err error) {
	rows, err := q.Query(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var typ string
		var n int64
		if err := rows.Scan(&typ, &n); err != nil {
			return 0, err
		}
		if typ == "" { // no event's
			last = n
			continue
		}
		counts[typ] += n
	}
	return last, rows.Err()
}
