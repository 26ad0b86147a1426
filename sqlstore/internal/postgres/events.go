package postgres

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/internal/rowtext"
)

// Append adds complete, valid events to the log, or to the schedule if they aren't due yet.
func (e *Engine) Append(ctx context.Context, q Querier, events []surepost.Event) error {
	if _, known := e.leaf.get(); !known && !delayed(events) {
		args, err := eventArrays(events)
		if err != nil {
			return err
		}
		return e.explain("write events", e.leaf.ask(ctx, q, e.sql.appendAsking, args))
	}
	sql, args, err := e.AppendStatement(events)
	if err != nil {
		return err
	}
	_, err = q.Exec(ctx, sql, args...)
	return e.explain("write events", err)
}

// AppendStatement returns the statement that adds the events, for callers that send it in their own way.
func (e *Engine) AppendStatement(events []surepost.Event) (sql string, args []any, err error) {
	if delayed(events) {
		if args, err = eventArrays(events); err != nil {
			return "", nil, err
		}
		return e.sql.schedule, append(args, notBefore(events)), nil
	}
	var leaf any
	if number, known := e.leaf.get(); known {
		leaf = number
	}
	if len(events) == 1 { // by far the most frequent, and VALUES costs half of unnest
		row, err := eventRow(&events[0])
		if err != nil {
			return "", nil, err
		}
		args = make([]any, eventWidth, eventWidth+1)
		for column, value := range row {
			if value != "" {
				args[column] = value
			}
		}
		return e.sql.appendOne, append(args, leaf), nil
	}
	if args, err = eventArrays(events); err != nil {
		return "", nil, err
	}
	return e.sql.append, append(args, leaf), nil
}

// eventArrays returns the arguments of unnestEvents.
func eventArrays(events []surepost.Event) (args []any, err error) {
	rows := make([][eventWidth]string, len(events))
	for i := range events {
		if rows[i], err = eventRow(&events[i]); err != nil {
			return nil, err
		}
	}
	args = make([]any, eventWidth, eventWidth+1)
	for column := range eventWidth {
		args[column] = nullableArray(len(rows), func(i int) string { return rows[i][column] })
	}
	return args, nil
}

// eventWidth is the number of eventColumns.
const eventWidth = 12

// eventRow returns the values of eventColumns as text, with "" for NULL. Text works alike with every driver, and through
// every pooler.
func eventRow(e *surepost.Event) (row [eventWidth]string, err error) {
	data, err := e.RawData()
	if err != nil {
		return row, err
	}
	correlationID := e.CorrelationID
	if correlationID == e.ID {
		correlationID = ""
	}
	var headers string
	if len(e.Headers) > 0 {
		h, err := json.Marshal(e.Headers)
		if err != nil {
			return row, err
		}
		headers = string(h)
	}
	return [eventWidth]string{
		timestamp(e.Time), strconv.Itoa(e.Slot()), e.ID, e.Type, e.Version, e.Source, e.Key, correlationID, e.CausationID,
		string(e.Category), headers, string(data),
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
		ev.Headers = rowtext.Headers(r.headers)
	}
	return relay.Entry{Seq: r.seq, Event: ev}
}
