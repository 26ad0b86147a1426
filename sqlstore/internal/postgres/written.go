package postgres

import (
	"context"
	"time"

	"github.com/surepost/surepost"
)

// Written returns the events that q's transaction has written itself, in the order of writing, delayed ones last: what a
// test asserts before the commit. Those of a savepoint that was rolled back are gone. A transaction without an id has written nothing.
func (e *Engine) Written(ctx context.Context, q Querier) (events []surepost.Event, err error) {
	rows, err := q.Query(ctx, e.sql.written)
	if err != nil {
		return nil, e.explain("read what the transaction has written", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		var due *time.Time // of a delayed event
		if err := rows.Scan(append(r.dest(), &due)...); err != nil {
			return nil, e.explain("read what the transaction has written", err)
		}
		event := r.entry().Event
		if due != nil {
			event.NotBefore = due.UTC()
		}
		events = append(events, event)
	}
	rows.Close()
	return events, e.explain("read what the transaction has written", rows.Err())
}
