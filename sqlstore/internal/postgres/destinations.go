package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

// Destinations lists the destinations by name, replays included.
func (e *Engine) Destinations(ctx context.Context) (list []relay.Destination, err error) {
	err = e.onConn(ctx, func(q Querier) error {
		list, err = e.destinations(ctx, q, e.sql.destinations)
		return err
	})
	return list, e.explain("list the destinations", err)
}

func (e *Engine) destinations(ctx context.Context, q Querier, statement string) ([]relay.Destination, error) {
	rows, err := q.Query(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []relay.Destination
	for rows.Next() {
		var d relay.Destination
		var lanes int64
		var isReplay bool
		var filter, by string
		var doneAt *time.Time
		if err := rows.Scan(&d.Name, &lanes, &d.CreatedAt, &isReplay, &filter, &by, &doneAt); err != nil {
			return nil, err
		}
		d.Lanes = int(lanes)
		if isReplay {
			d.Replay = &relay.Replay{CreatedBy: by}
			if d.Replay.Filter, err = decodeFilter(filter); err != nil {
				return nil, fmt.Errorf("replay %q: %w", d.Name, err)
			}
			if doneAt != nil {
				d.Replay.DoneAt = *doneAt
			}
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

// CreateDestination makes a destination that begins to read the log at from.
func (e *Engine) CreateDestination(ctx context.Context, name string, from relay.Start) error {
	if err := relay.ValidDestination(name); err != nil {
		return err
	}
	return e.onConn(ctx, func(q Querier) error {
		at, err := e.begin(ctx, q, from)
		if err != nil {
			return err
		}
		_, err = e.create(ctx, q, name, at, replayColumns{})
		return err
	})
}

// begin returns the cursor that a destination starts with; nil for the log's beginning.
//
// FromNow begins at the last number drawn: the cursor of a read that returned everything (cursor.go). FromTime begins in front
// of a row r that was committed at m, or at the last number drawn if there is none. Both are at most m.drawn, and that was
// drawn before m.next was taken: whatever m.snap didn't see below the cursor is among the stragglers, as the proof demands,
// and whatever it saw there lies before the start.
func (e *Engine) begin(ctx context.Context, q Querier, from relay.Start) (*cursor, error) {
	if from.Beginning() {
		return nil, nil
	}
	m, err := e.now(ctx, q)
	if err != nil {
		return nil, e.explain("look at the log", err)
	}
	at := &cursor{hot: m.drawn, snap: m.snap, next: m.next}
	since, ok := from.Time()
	if !ok {
		return at, nil
	}
	f := relay.EventFilter{Since: since}
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if now := time.Now(); since.After(now) {
		return nil, fmt.Errorf("sqlstore: a destination can't begin at %s, which is yet to come: begin from now, or wait",
			since.Format(time.RFC3339Nano))
	}
	all := selection{part: m.all(f), lane: whole}
	first, found, err := all.first(ctx, q, e.config, 0)
	if err != nil {
		return nil, e.explain("look for the first event at or after the start", err)
	}
	if found {
		at.hot = first.Seq - 1
	}
	return at, nil
}

// create inserts a destination, with its first checkpoint if it doesn't begin at the beginning.
func (e *Engine) create(ctx context.Context, q Querier, name string, at *cursor, replay replayColumns) (created time.Time, err error) {
	var hot int64
	var snap, next string
	if at != nil {
		hot, snap, next = at.hot, at.snap.String(), fmt.Sprint(at.next)
	}
	found, err := queryRow(ctx, q, e.sql.createDestination,
		[]any{name, hot, snap, next, replay.filter, replay.until, replay.by, replay.snap}, &created)
	if err != nil {
		return time.Time{}, e.explain("create the destination", err)
	}
	if !found {
		return time.Time{}, fmt.Errorf("sqlstore: %w: %q: choose another name, or remove it first", relay.ErrDestinationExists, name)
	}
	return created, nil
}

// RemoveDestination removes a destination, or cancels a replay, with all that is known of how far it came. It refuses while
// a relay is alive on it, while it has parked events, and if it is the only one that isn't a replay.
func (e *Engine) RemoveDestination(ctx context.Context, name string) error {
	conn, err := e.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return e.explain("remove the destination", conn.Transact(ctx, func(q Querier) error {
		// Locked, so that of two who remove the last two only one succeeds.
		all, err := e.destinations(ctx, q, e.sql.lockDestinations)
		if err != nil {
			return err
		}
		if err := removable(all, name); err != nil {
			return err
		}
		owners, err := column1(ctx, q, e.sql.aliveOn, name)
		if err != nil {
			return err
		}
		if len(owners) > 0 {
			return fmt.Errorf("destination %q is in use by %s: stop its relays first (one that died is taken for alive until its lease runs out)",
				name, strings.Join(owners, ", "))
		}
		var parked int64
		if _, err := queryRow(ctx, q, e.sql.countParked, []any{name}, &parked); err != nil {
			return err
		}
		if parked > 0 {
			return fmt.Errorf("destination %q has %d parked events, which would be forgotten: retry or discard them first", name, parked)
		}
		for _, statement := range e.sql.removeDestination {
			if _, err := q.Exec(ctx, statement, name); err != nil {
				return err
			}
		}
		return nil
	}))
}

// removable says why the destination can't be removed, as far as the list of all tells.
func removable(all []relay.Destination, name string) error {
	var found, ordinary, others bool
	for _, d := range all {
		switch {
		case d.Name == name:
			found, ordinary = true, d.Replay == nil
		case d.Replay == nil:
			others = true
		}
	}
	if !found {
		return fmt.Errorf("%w: %q: see the list of destinations", relay.ErrNoDestination, name)
	}
	if ordinary && !others {
		return fmt.Errorf("destination %q is the only one that isn't a replay: without it nobody would hold back the log's retention, and events could be "+
			"removed before they are published: create its successor first", name)
	}
	return nil
}
