package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
)

var write = benchmark{
	name: "write",
	compares: "Transactions with one order row and one event through outbox.Write, against the same transaction " +
		"with a " +
		"hand-written INSERT into a minimal outbox table; and with 100 events a call against one hand-written " +
		"multi-row INSERT.",
	defaults: options{rounds: 25, slice: 700 * time.Millisecond},
	smoke:    options{rounds: 1, slice: 50 * time.Millisecond},
	run:      runWrite,
}

// What people write by hand: an id, what it is about, the payload, a time, and the primary key's index. json is the
// cheaper of the two JSON types.
const handWrittenTable = `CREATE TABLE hand_outbox (
    id         uuid        PRIMARY KEY,
    key        text        NOT NULL,
    type       text        NOT NULL,
    payload    json        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)`

const ordersTable = `CREATE TABLE orders (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text        NOT NULL,
    total    integer     NOT NULL,
    at       timestamptz NOT NULL DEFAULT now()
)`

const (
	insertOrder = "INSERT INTO orders (customer, total) VALUES ($1, $2)"
	insertOne   = "INSERT INTO hand_outbox (id, key, type, payload) VALUES ($1, $2, $3, $4)"
	insertMany  = "INSERT INTO hand_outbox (id, key, type, payload) SELECT * FROM unnest($1::uuid[], " +
		"$2::text[], $3::text[], $4::json[])"
	eventsPerCall = 100
)

func runWrite(ctx context.Context, l *lab) ([]result, error) {
	if err := l.exec(ctx, ordersTable, handWrittenTable); err != nil {
		return nil, err
	}
	figures := []struct {
		name            string
		clients, events int
		unit            string
	}{
		{"write/1", 1, 1, "transactions/s"},
		{"write/8", 8, 1, "transactions/s"},
		{"write/32", 32, 1, "transactions/s"},
		{"write/100-events", 1, eventsPerCall, "events/s"},
	}
	var results []result
	for _, f := range figures {
		if err := l.exec(ctx, "CHECKPOINT"); err != nil {
			return nil, err
		}
		rate := func(insert insertFunc) func(context.Context) (float64, error) {
			return func(ctx context.Context) (float64, error) {
				perSecond, err := l.transactions(ctx, f.clients, insert)
				return perSecond * float64(f.events), err
			}
		}
		ours, byHand := l.writeOne, l.insertOne
		if f.events > 1 {
			ours, byHand = l.writeMany, l.insertMany
		}
		// One slice of each is thrown away: it fills caches and prepares statements on each connection.
		sides := []side{{"outbox", rate(ours)}, {"hand-written", rate(byHand)}}
		if _, err := alternate(ctx, 1, sides...); err != nil {
			return nil, err
		}
		s, err := alternate(ctx, l.rounds, sides...)
		if err != nil {
			return nil, err
		}
		settings := s.settings("outbox", "hand-written")
		settings["clients"], settings["events_per_transaction"] = f.clients, f.events
		settings["slice"] = l.slice.String()
		settings["transaction"] = "BEGIN, INSERT of an order, the event or events, COMMIT; ids are UUIDv7 made by " +
			"the client and data is marshalled on both sides"
		settings["hand_written"] = "table with id uuid primary key, key, type, payload json, created_at; pgx with " +
			"its statement cache; many rows by unnest of typed arrays"
		results = append(results, newRate(f.name, f.unit, s.median("outbox"), s.median("hand-written"), settings).atLeast(0.95))
	}
	return results, l.checkWritten(ctx)
}

// insertFunc inserts an event, or several from the first on, in a transaction.
type insertFunc func(ctx context.Context, tx pgx.Tx, first int) error

// transactions runs clients for one slice and returns their transactions per second.
func (l *lab) transactions(ctx context.Context, clients int, insert insertFunc) (float64, error) {
	var done atomic.Int64
	errs := make([]error, clients)
	var running sync.WaitGroup
	began := time.Now()
	for c := range clients {
		running.Go(func() {
			for i := c * 1_000_000; time.Since(began) < l.slice && errs[c] == nil; i++ {
				errs[c] = pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, insertOrder, customer(i), i); err != nil {
						return err
					}
					return insert(ctx, tx, i)
				})
				done.Add(1)
			}
		})
	}
	running.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

func (l *lab) writeOne(ctx context.Context, tx pgx.Tx, i int) error {
	return l.box.Write(ctx, tx, newEvent(i))
}

func (l *lab) insertOne(ctx context.Context, tx pgx.Tx, i int) error {
	payload, err := json.Marshal(newOrder(i))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, insertOne, surepost.NewID(), customer(i), eventType, payload)
	return err
}

func (l *lab) writeMany(ctx context.Context, tx pgx.Tx, first int) error {
	events := make([]surepost.Event, eventsPerCall)
	for i := range events {
		events[i] = newEvent(first + i)
	}
	return l.box.Write(ctx, tx, events...)
}

func (l *lab) insertMany(ctx context.Context, tx pgx.Tx, first int) error {
	rows, err := newHandWritten(first, eventsPerCall)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, insertMany, rows.ids, rows.keys, rows.types, rows.payloads)
	return err
}

// handWritten are the columns of rows for a hand-written table.
type handWritten struct {
	ids, keys, types []string
	payloads         []json.RawMessage
}

func newHandWritten(first, n int) (rows handWritten, err error) {
	for i := first; i < first+n; i++ {
		payload, err := json.Marshal(newOrder(i))
		if err != nil {
			return rows, err
		}
		rows.ids, rows.keys = append(rows.ids, surepost.NewID()), append(rows.keys, customer(i))
		rows.types, rows.payloads = append(rows.types, eventType), append(rows.payloads, payload)
	}
	return rows, nil
}

// checkWritten makes sure that both sides wrote rows of the same data: as many bytes in each.
func (l *lab) checkWritten(ctx context.Context) error {
	var ours, theirs float64
	err := l.pool.QueryRow(ctx, `SELECT (SELECT avg(octet_length(data::text)) FROM surepost_outbox),
       (SELECT avg(octet_length(payload::text)) FROM hand_outbox)`).Scan(&ours, &theirs)
	if err == nil && (ours < theirs-1 || ours > theirs+1) {
		err = fmt.Errorf("the outbox's data is %.1f bytes long and the hand-written table's %.1f: they should be "+
			"alike", ours, theirs)
	}
	return err
}
