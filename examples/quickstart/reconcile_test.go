package main

import (
	"slices"
	"strings"
	"testing"
)

// balanced returns the facts of a run in which all was well: customer a ordered twice, c's order was declined and
// refused is over the limit.
func balanced() facts {
	f := facts{
		told:    map[string]bool{"refused": false},
		handled: map[string][]string{}, dropped: map[string][]string{}, effects: map[path][]effect{}, stock: map[string]int{},
	}
	for _, item := range items {
		f.stock[item] = fullStock
	}
	event := func(eventType string, order Order, causation string) string {
		id := eventType + " of " + order.ID
		f.log = append(f.log, logged{id, eventType, correlationID(order.ID), causation, order})
		f.published = append(f.published, id)
		for _, p := range paths {
			if p.eventType == eventType {
				f.handled[p.service] = append(f.handled[p.service], id)
				f.effects[p.path] = append(f.effects[p.path], effect{id, order.ID, order.Customer, order.Number})
			}
		}
		return id
	}
	for _, order := range []Order{
		{ID: "a1", Customer: "a", Number: 1, Item: items[0], Pieces: 3},
		{ID: "a2", Customer: "a", Number: 2, Item: items[1], Pieces: 1},
		{ID: "c1", Customer: "c", Number: 1, Item: items[2], Pieces: 1, Cents: cardLimitCents + 1},
	} {
		f.told[order.ID] = true
		f.orders = append(f.orders, order.ID)
		created := event(orderCreated, order, "")
		reserved := event(stockReserved, order, created)
		if order.Cents > cardLimitCents {
			event(paymentRefused, order, reserved)
			continue
		}
		event(paymentTaken, order, reserved)
		f.stock[order.Item] -= order.Pieces
	}
	// A copy.
	f.published = append(f.published, "OrderCreated of a1")
	f.dropped["inventory"] = append(f.dropped["inventory"], "OrderCreated of a1")
	return f
}

func TestBooksBalance(t *testing.T) {
	b := reconcile(balanced())
	if len(b.Problems) > 0 {
		t.Errorf("problems: %q", b.Problems)
	}
	if b.Committed != 3 || b.Refused != 1 {
		t.Errorf("%d committed and %d refused, want 3 and 1", b.Committed, b.Refused)
	}
	want := line{path: path{orderCreated, "inventory"}, Written: 3, Published: 3, Received: 4, Duplicates: 1, Effects: 3}
	if b.Lines[0] != want {
		t.Errorf("got %+v, want %+v", b.Lines[0], want)
	}
}

func TestBooksFindWhatIsWrong(t *testing.T) {
	reservations, payments := path{orderCreated, "inventory"}, path{stockReserved, "payment"}
	for _, c := range []struct {
		name string
		do   func(*facts)
		want string
	}{
		{"an order that customers were told of is gone", func(f *facts) { f.orders = f.orders[1:] },
			"1 orders that customers were told of aren't in the database"},
		{"a refused order is committed", func(f *facts) { f.orders = append(f.orders, "refused") },
			"1 orders are in the database, though"},
		{"an order has no event", func(f *facts) { f.log = f.log[1:] },
			"1 times there should be an event OrderCreated and is none"},
		{"an event has no order", func(f *facts) {
			ghost := logged{ID: "ghost", Type: orderCreated, Order: Order{ID: "refused"}}
			ghost.Correlation = correlationID("refused")
			f.log = append(f.log, ghost)
		}, "1 events OrderCreated that nothing has caused"},
		{"an event was written twice", func(f *facts) {
			again := f.log[1]
			again.ID = "again"
			f.log = append(f.log, again)
		}, "1 events StockReserved too many"},
		{"an event lost its flow", func(f *facts) { f.log[1].Correlation = "" }, "1 events don't carry the id of the request"},
		{"an event wasn't published", func(f *facts) {
			f.published = slices.DeleteFunc(f.published, func(id string) bool { return id == "StockReserved of a2" })
		}, "1 StockReserved → payment: events lost"},
		{"an event was published that was rolled back", func(f *facts) { f.published = append(f.published, "rolled back") },
			"1 messages published of events that were never committed"},
		{"an effect is lost", func(f *facts) { f.effects[payments] = f.effects[payments][1:] },
			"1 StockReserved → payment: events lost"},
		{"an effect has no event", func(f *facts) { f.effects[payments] = append(f.effects[payments], effect{Event: "ghost"}) },
			"1 StockReserved → payment: effects of no event"},
		{"an effect happened twice", func(f *facts) { f.effects[payments] = append(f.effects[payments], f.effects[payments][2]) },
			"1 StockReserved → payment: effects that had happened before"},
		{"effects are out of order", func(f *facts) {
			e := f.effects[reservations]
			e[0], e[1] = e[1], e[0]
		}, "1 OrderCreated → inventory: effects out of order"},
		{"an event was noted as handled and has no effect", func(f *facts) {
			f.effects[reservations] = f.effects[reservations][:2]
		}, "1 OrderCreated → inventory: more events handled than effects"},
		{"stock is missing", func(f *facts) { f.stock[items[0]]-- }, "1 items of which other numbers are in stock"},
		{"an event is parked", func(f *facts) { f.parked = 1 }, "1 events still parked"},
		{"a dead letter is left", func(f *facts) { f.deadLetters = 2 }, "2 dead letters left"},
		{"no order was refused", func(f *facts) { delete(f.told, "refused") }, "this run shows nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := balanced()
			c.do(&f)
			b := reconcile(f)
			if !slices.ContainsFunc(b.Problems, func(p string) bool { return strings.Contains(p, c.want) }) {
				t.Errorf("got %q, want among them %q", b.Problems, c.want)
			}
		})
	}
}
