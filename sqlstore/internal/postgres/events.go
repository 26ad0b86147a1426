package postgres

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// Append adds complete, valid events to the log.
func (e *Engine) Append(ctx context.Context, q Querier, events []surepost.Event) error {
	sql, args, err := e.AppendStatement(events)
	if err != nil {
		return err
	}
	if _, err := q.Exec(ctx, sql, args...); err != nil {
		return e.explain("write events", err)
	}
	return nil
}

// AppendStatement returns the statement that adds the events, for callers that send it in their own way.
func (e *Engine) AppendStatement(events []surepost.Event) (sql string, args []any, err error) {
	data := make([]string, len(events))
	headers := make([]string, len(events))
	for i, ev := range events {
		raw, err := ev.RawData()
		if err != nil {
			return "", nil, err
		}
		data[i] = string(raw)
		if len(ev.Headers) > 0 {
			h, err := json.Marshal(ev.Headers)
			if err != nil {
				return "", nil, err
			}
			headers[i] = string(h)
		}
	}
	column := func(at func(e *surepost.Event) string) string {
		return textArray(len(events), func(i int) string { return at(&events[i]) })
	}
	return e.sql.append, []any{
		column(func(e *surepost.Event) string { return timestamp(e.Time) }),
		column(func(e *surepost.Event) string { return strconv.Itoa(e.Slot()) }),
		column(func(e *surepost.Event) string { return e.ID }),
		column(func(e *surepost.Event) string { return e.Type }),
		column(func(e *surepost.Event) string { return e.Version }),
		column(func(e *surepost.Event) string { return e.Source }),
		column(func(e *surepost.Event) string { return e.Key }),
		column(func(e *surepost.Event) string { return e.CorrelationID }),
		column(func(e *surepost.Event) string { return e.CausationID }),
		column(func(e *surepost.Event) string { return string(e.Category) }),
		textArray(len(events), func(i int) string { return headers[i] }),
		textArray(len(events), func(i int) string { return data[i] }),
	}, nil
}

// timestamp writes t as PostgreSQL reads it, in UTC: independent of the session's time zone.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }

// LockKeys holds a lock on each key until the transaction ends.
func (e *Engine) LockKeys(ctx context.Context, q Querier, keys []string) error {
	var locked int64
	if _, err := queryRow(ctx, q, e.sql.lockKeys, []any{textArray(len(keys), func(i int) string { return keys[i] })}, &locked); err != nil {
		return e.explain("lock the events' keys", err)
	}
	return nil
}

// row is an event as the statements return it.
type row struct {
	seq                                           int64
	time                                          *time.Time
	id, typ, version, source, key                 string
	correlationID, causationID, category, headers string
	data                                          []byte
}

func (r *row) dest() []any {
	return []any{&r.seq, &r.time, &r.id, &r.typ, &r.version, &r.source, &r.key, &r.correlationID, &r.causationID, &r.category, &r.headers, &r.data}
}

func (r *row) entry() relay.Entry {
	ev := surepost.Event{
		ID: r.id, Type: r.typ, Version: r.version, Source: r.source, Key: r.key,
		CorrelationID: r.correlationID, CausationID: r.causationID, Category: surepost.Category(r.category), Data: json.RawMessage(r.data),
	}
	if r.time != nil {
		ev.Time = r.time.UTC()
	}
	if r.headers != "" {
		ev.Headers = stringHeaders(r.headers)
	}
	return relay.Entry{Seq: r.seq, Event: ev}
}

// stringHeaders reads a row's headers. A row that was written by hand may hold other values than strings; they are
// taken as they stand, since one odd row must not hold up the log.
func stringHeaders(object string) map[string]string {
	var headers map[string]string
	if json.Unmarshal([]byte(object), &headers) == nil {
		return headers
	}
	var values map[string]json.RawMessage
	_ = json.Unmarshal([]byte(object), &values) // the column's CHECK says that it is an object
	headers = make(map[string]string, len(values))
	for k, v := range values {
		var text string
		if json.Unmarshal(v, &text) != nil {
			text = string(v)
		}
		headers[k] = text
	}
	return headers
}
