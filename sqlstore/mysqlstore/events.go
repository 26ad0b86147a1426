package mysqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/internal/rowtext"
)

const (
	// maxPlaceholders is how many a prepared statement may have (the protocol counts them in 16 bits).
	maxPlaceholders = 65_535

	// safePacketBytes is what every server takes that Check lets pass, so that its limit needn't be asked for.
	safePacketBytes = 512 << 10

	// packetOverheadBytes is room for the statement around the values.
	packetOverheadBytes = 4 << 10
)

// Append implements outbox.Store. Many events are as many statements of several rows each as max_allowed_packet makes
// necessary.
//
// The rows of one INSERT … VALUES get ascending numbers in every innodb_autoinc_lock_mode: their count is known, so they
// are drawn at once (MySQL 8.0 manual, §17.6.1.6, "simple inserts").
func (s *Store) Append(ctx context.Context, tx *sql.Tx, events []surepost.Event) error {
	rows := make([][]any, len(events))
	sizes := make([]int, len(events))
	for i := range events {
		row, err := eventRow(&events[i])
		if err != nil {
			return err
		}
		rows[i], sizes[i] = row, rowBytes(row)
	}
	insert := func(rows [][]any) error {
		_, err := tx.ExecContext(ctx, s.sql.append+placeholders(len(rows), eventWidth), slices.Concat(rows...)...)
		return explain("write events", err)
	}
	return s.inChunks(ctx, tx, rows, sizes, insert, func(i int) string { return events[i].ID })
}

// inChunks calls insert with as many rows at a time as a packet and the placeholders allow.
func (s *Store) inChunks(
	ctx context.Context, tx *sql.Tx, rows [][]any, sizes []int, insert func([][]any) error, id func(i int) string,
) error {
	limit := safePacketBytes
	total := 0
	for _, size := range sizes {
		total += size
	}
	if total > limit {
		var err error
		if limit, err = s.packetBytes(ctx, tx); err != nil {
			return err
		}
	}
	for from := 0; from < len(rows); {
		to, bytes := from, 0
		for to < len(rows) && (to-from+1)*len(rows[from]) <= maxPlaceholders && (to == from || bytes+sizes[to] <= limit) {
			bytes += sizes[to]
			to++
		}
		if bytes/2 > limit { // alone: half of it is certain to be sent
			return fmt.Errorf("mysqlstore: %w: event %s takes %d bytes, and the server's max_allowed_packet leaves %d: "+
				"raise max_allowed_packet, or lower outbox.Config.MaxDataBytes", surepost.ErrInvalidEvent, id(from), bytes/2, limit)
		}
		if err := insert(rows[from:to]); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// packetBytes returns how many bytes of values a statement may carry. The server is asked once.
func (s *Store) packetBytes(ctx context.Context, tx *sql.Tx) (int, error) {
	limit := s.packet.Load()
	if limit == 0 {
		if err := tx.QueryRowContext(ctx, "SELECT @@max_allowed_packet").Scan(&limit); err != nil {
			return 0, explain("ask for max_allowed_packet", err)
		}
		s.packet.Store(limit)
	}
	return int(limit) - packetOverheadBytes, nil
}

// eventWidth is the number of eventColumns.
const eventWidth = 12

// eventRow returns the values of eventColumns. Texts are passed as bytes, which no character set of a connection changes.
func eventRow(e *surepost.Event) ([]any, error) {
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
	return []any{
		timestamp(e.Time), e.Slot(), []byte(e.ID), []byte(e.Type), []byte(e.Version), []byte(e.Source), []byte(e.Key),
		nullable(correlationID), nullable(e.CausationID), nullable(string(e.Category)), nullable(headers), []byte(data),
	}, nil
}

// nullable returns NULL for what is empty.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// rowBytes is the most that a row may take in a packet: with interpolateParams each byte may be escaped by another.
func rowBytes(row []any) int {
	n := 0
	for _, value := range row {
		n += 32
		if b, ok := value.([]byte); ok {
			n += 2 * len(b)
		}
	}
	return n
}

// timestamps are DATETIME(6) in UTC, written and read as text.
const timestamps = "2006-01-02 15:04:05.000000"

func timestamp(t time.Time) string { return t.UTC().Format(timestamps) }

// readTimestamp returns the zero time for what isn't a time, such as 0000-00-00: nobody writes that but by hand, and one
// odd row must not hold up the log.
func readTimestamp(s string) time.Time {
	t, err := time.Parse(timestamps, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// lockSlots is the number of rows of the lock table.
const lockSlots = 4096

// LockKeys implements outbox.Store, by locks on rows of a table of fixed size: keys that hash to one row wait for each
// other needlessly, and seldom. The rows are locked one after the other and in their order, so that two transactions
// can't wait for each other.
func (s *Store) LockKeys(ctx context.Context, tx *sql.Tx, keys []string) error {
	slots := make([]int, len(keys))
	for i, key := range keys {
		sum := sha256.Sum256([]byte(key))
		slots[i] = (int(sum[0])<<8 | int(sum[1])) % lockSlots
	}
	slices.Sort(slots)
	for _, slot := range slices.Compact(slots) {
		err := tx.QueryRowContext(ctx, s.sql.lockSlot, slot).Scan(new(int))
		if err == sql.ErrNoRows {
			return misfit("table %s lacks its rows, without which keys can't be locked: run the INSERT of migration 001 again (Store.MigrationSQL)", s.config.name("lock"))
		}
		if err != nil {
			return explain("lock the events' keys", err)
		}
	}
	return nil
}

// row is an event as the statements return it.
type row struct {
	seq                                           int64
	time                                          string
	id, typ, version, source, key                 string
	correlationID, causationID, category, headers sql.NullString
	data                                          []byte
}

func (r *row) dest() []any {
	return []any{&r.seq, &r.time, &r.id, &r.typ, &r.version, &r.source, &r.key, &r.correlationID, &r.causationID, &r.category, &r.headers, &r.data}
}

func (r *row) entry() relay.Entry {
	e := surepost.Event{
		ID: r.id, Type: r.typ, Time: readTimestamp(r.time), Version: r.version, Source: r.source, Key: r.key,
		CorrelationID: r.correlationID.String, CausationID: r.causationID.String, Category: surepost.Category(r.category.String),
		Data: json.RawMessage(r.data),
	}
	if e.CorrelationID == "" {
		e.CorrelationID = e.ID
	}
	if r.headers.String != "" {
		e.Headers = rowtext.Headers(r.headers.String)
	}
	return relay.Entry{Seq: r.seq, Event: e}
}

// entries reads and closes a result of readColumns.
func entries(rows *sql.Rows, err error) ([]relay.Entry, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []relay.Entry
	for rows.Next() {
		var r row // afresh: a row keeps the memory that it was scanned into
		if err := rows.Scan(r.dest()...); err != nil {
			return nil, err
		}
		list = append(list, r.entry())
	}
	return list, rows.Err()
}
