package sqlitestore

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/internal/rowtext"
)

// eventWidth is the number of eventColumns.
const eventWidth = 12

// rowsPerInsert is how many events one statement takes at most: more gains no speed, and its parameters stay well below
// SQLite's limit of 32766.
const rowsPerInsert = 128

// Append implements outbox.Store.
//
// tx holds the file's write lock from here on. If another connection holds it, Append waits for up to busy_timeout; if tx
// has read before and another connection has written since, it fails at once (SQLITE_BUSY_SNAPSHOT): see the package's
// documentation.
func (s *Store) Append(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
	for chunk := range slices.Chunk(events, rowsPerInsert) {
		args := make([]any, 0, len(chunk)*eventWidth)
		for i := range chunk {
			var err error
			if args, err = appendEventArgs(args, &chunk[i]); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, s.appendStatement(len(chunk)), args...); err != nil {
			return explain("write events", err)
		}
	}
	return nil
}

// appendStatement returns the statement that adds n events.
func (s *Store) appendStatement(n int) string {
	return s.sql.appendHead + s.sql.appendRow + strings.Repeat(`, `+s.sql.appendRow, n-1)
}

func appendEventArgs(args []any, e *surepost.Event) ([]any, error) {
	data, err := e.RawData()
	if err != nil {
		return nil, err
	}
	correlationID := e.CorrelationID
	if correlationID == e.ID {
		correlationID = ""
	}
	var headers string
	if len(e.Headers) > 0 {
		h, err := json.Marshal(e.Headers)
		if err != nil {
			return nil, err
		}
		headers = string(h)
	}
	return append(args, micros(e.Time), int64(e.Slot()), e.ID, e.Type, e.Version, e.Source,
		nullable(e.Key), nullable(correlationID), nullable(e.CausationID), nullable(string(e.Category)), nullable(headers), string(data)), nil
}

// nullable returns NULL for an empty string.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// LockKeys implements outbox.Store. The file's write lock is the lock on every key.
func (s *Store) LockKeys(ctx context.Context, tx *sql.Tx, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, s.sql.writeLock)
	return explain("lock the events' keys", err)
}

// row is an event as the statements return it, in the order of entryColumns.
type row struct {
	seq, micros                                   int64
	id, typ, version, source, key                 string
	correlationID, causationID, category, headers string
	data                                          []byte
}

func (r *row) dest() []any {
	return []any{&r.seq, &r.micros, &r.id, &r.typ, &r.version, &r.source, &r.key, &r.correlationID, &r.causationID,
		&r.category, &r.headers, &r.data}
}

func (r *row) entry() relay.Entry {
	e := surepost.Event{
		ID: r.id, Type: r.typ, Time: timeOf(r.micros), Version: r.version, Source: r.source, Key: r.key,
		CorrelationID: r.correlationID, CausationID: r.causationID, Category: surepost.Category(r.category),
		Data: json.RawMessage(r.data),
	}
	if r.headers != "" {
		e.Headers = rowtext.Headers(r.headers)
	}
	return relay.Entry{Seq: r.seq, Event: e}
}
