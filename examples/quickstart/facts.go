package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/relay"
)

// facts are what the databases and the broker hold at the end, and what the customers were told. The books are made
// from nothing else.
type facts struct {
	told      map[string]bool     // by order id, whether the customer was told that the order is placed
	orders    []string            // ids of the orders in the database
	log       []logged            // the events in all outboxes
	published []string            // ids of events, one for each message that the witness saw
	handled   map[string][]string // ids of the events in the inbox, by service
	dropped   map[string][]string // ids of the events of which copies were dropped, one for each, by service
	effects   map[path][]effect   // in the order in which they happened
	stock     map[string]int      // pieces by item

	parked      int // events that the relays have put aside
	deadLetters int // messages that the consumers have put aside
}

// logged is an event in an outbox.
type logged struct {
	ID, Type, Correlation, Causation string
	Order                            Order
}

// path is what one service does about the events of one type.
type path struct{ eventType, service string }

// effect is a row that a handler wrote.
type effect struct {
	Event, Order, Customer string
	Number                 int
}

// paths are all that is done about events, and where it shows.
var paths = []struct {
	path
	effects string
}{
	{path{orderCreated, "inventory"}, `SELECT event_id, order_id, customer, number FROM reservations ORDER BY id`},
	{path{stockReserved, "payment"}, `SELECT event_id, order_id, customer, number FROM payments ORDER BY id`},
	{path{paymentTaken, "notification"}, notificationsOf(paymentTaken)},
	{path{paymentRefused, "notification"}, notificationsOf(paymentRefused)},
	{path{paymentRefused, "inventory"}, `SELECT event_id, order_id, customer, number FROM returns ORDER BY id`},
	{path{priceChanged, "notification"}, notificationsOf(priceChanged)},
}

func notificationsOf(eventType string) string {
	return `SELECT event_id, order_id, customer, number FROM notifications WHERE event_type = '` + eventType + `' ORDER BY id`
}

// gather reads the facts when all services have ended.
func (s *shop) gather(ctx context.Context) (facts, error) {
	r := &reader{ctx: ctx}
	f := facts{
		told:      s.told,
		orders:    r.texts(s.order.db, `SELECT id FROM orders`),
		published: r.texts(s.witness.db, `SELECT event_id FROM sightings`),
		handled:   map[string][]string{}, dropped: map[string][]string{}, effects: map[path][]effect{}, stock: map[string]int{},
	}
	for _, service := range s.services() {
		// The outbox is an ordinary table, which may be read by whoever wants to.
		r.rows(service.db, `
			SELECT id, type, coalesce(correlation_id, ''), coalesce(causation_id, ''), data FROM surepost_outbox ORDER BY seq`,
			func(rows *sql.Rows) error {
				e, data := logged{}, []byte{}
				if err := rows.Scan(&e.ID, &e.Type, &e.Correlation, &e.Causation, &data); err != nil {
					return err
				}
				f.log = append(f.log, e)
				return json.Unmarshal(data, &f.log[len(f.log)-1].Order)
			})
		f.handled[service.name] = r.texts(service.db, `SELECT event_id FROM surepost_inbox`)
		f.dropped[service.name] = r.texts(service.db, `SELECT event_id FROM dropped`)
		for _, p := range paths {
			if p.service == service.name {
				r.rows(service.db, p.effects, func(rows *sql.Rows) error {
					var e effect
					err := rows.Scan(&e.Event, &e.Order, &e.Customer, &e.Number)
					f.effects[p.path] = append(f.effects[p.path], e)
					return err
				})
			}
		}
		f.parked += r.parked(service)
		f.deadLetters += r.deadLetters(service)
	}
	r.rows(s.inventory.db, `SELECT item, pieces FROM stock`, func(rows *sql.Rows) error {
		var item string
		var pieces int
		err := rows.Scan(&item, &pieces)
		f.stock[item] = pieces
		return err
	})
	if r.err != nil {
		return facts{}, fmt.Errorf("read what became of everything: %w", r.err)
	}
	return f, nil
}

// reader keeps the first error of many queries.
type reader struct {
	ctx context.Context
	err error
}

func (r *reader) rows(db *sql.DB, query string, each func(*sql.Rows) error) {
	if r.err != nil {
		return
	}
	rows, err := db.QueryContext(r.ctx, query)
	if err != nil {
		r.err = err
		return
	}
	defer rows.Close()
	for rows.Next() {
		if r.err = each(rows); r.err != nil {
			return
		}
	}
	r.err = rows.Err()
}

func (r *reader) texts(db *sql.DB, query string) (all []string) {
	r.rows(db, query, func(rows *sql.Rows) error {
		var text string
		err := rows.Scan(&text)
		all = append(all, text)
		return err
	})
	return all
}

func (r *reader) count(db *sql.DB, query string) (n int) {
	r.rows(db, query, func(rows *sql.Rows) error { return rows.Scan(&n) })
	return n
}

func (r *reader) parked(of *service) int {
	if r.err != nil {
		return 0
	}
	parked, err := of.store.Parked(r.ctx, relay.ParkedFilter{}, 100)
	r.err = err
	return len(parked)
}

func (r *reader) deadLetters(of *service) int {
	if r.err != nil || len(of.inbox.Types()) == 0 {
		return 0
	}
	letters, err := amqp.DeadLetters(r.ctx, amqp.DeadLettersConfig{Connection: of.connection(), Queue: of.queue()})
	r.err = err
	return len(letters)
}
