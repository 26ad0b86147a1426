package main

import (
	"fmt"
	"maps"
	"slices"
)

// table is the reconciliation: what should be, and what is.
type table struct {
	Committed int // orders in the order service's database
	Refused   int // orders that were answered 422
	Paths     []path
	Stock     []stockLine
	Problems  []string // everything that is off, in words; none: all is accounted for
	Lost      int      // everywhere: orders without an event, events without an effect
	Ghosts    int      // everywhere: events without an order, effects without an event
}

// path is an event type on its way to one consumer.
type path struct {
	EventType, Consumer string

	Logged     int // events in the outbox of the service that wrote them
	Received   int // messages that the consumer took: events and copies of events
	Duplicates int // of these, copies that the inbox dropped
	Effects    int // rows that the handler wrote
	Repeated   int // effects of events that had had theirs
	Lost       int // events without an effect
	Ghosts     int // effects, or deliveries, of no event in the log
	Inversions int // effects that came after that of a later order of the same customer
}

// stockLine is one item.
type stockLine struct {
	SKU                   string
	Sold, Expected, Found int64
}

// reconcile compares what the order service has committed with what the log, the inventory and the notifications made
// of it.
func reconcile(f facts) table {
	t := table{Committed: len(f.orders)}
	complain := func(n int, what string) {
		if n != 0 {
			t.Problems = append(t.Problems, fmt.Sprintf("%d %s", n, what))
		}
	}

	// What the clients were told is what was committed.
	committed := map[string]bool{}
	unasked := 0
	for _, o := range f.orders {
		committed[o.ID] = true
		if !f.accepted[o.ID] {
			unasked++
		}
	}
	forgotten := 0
	for id, accepted := range f.accepted {
		switch {
		case !accepted:
			t.Refused++
		case !committed[id]:
			forgotten++
		}
	}
	complain(forgotten, "orders were accepted but aren't in the database")
	complain(unasked, "orders are in the database but weren't accepted")
	t.Lost += forgotten
	t.Ghosts += unasked

	// One event for each order, and one StockReserved for each OrderCreated, which the inventory named as its cause.
	orderEvents := map[string]bool{}
	for _, e := range f.orderLog {
		orderEvents[e.ID] = true
	}
	t.matchLog(typeOrderCreated, "committed orders", committed, f.orderLog, func(e logged) string { return e.Order }, complain)
	t.matchLog(typeStockReserved, "OrderCreated events", orderEvents, f.stockLog, func(e logged) string { return e.Causation }, complain)
	strayed := 0
	for _, e := range slices.Concat(f.orderLog, f.stockLog) {
		if e.Correlation != requestID(e.Order) {
			strayed++
		}
	}
	complain(strayed, "events don't carry the id of the request that they came from")

	// One effect for each event, on each path.
	t.Paths = []path{
		follow(path{EventType: typeOrderCreated, Consumer: "inventory"}, f.orderLog, f.inventory, f.reservations),
		follow(path{EventType: typeOrderCreated, Consumer: "notification"}, f.orderLog, f.notification, f.thanks),
		follow(path{EventType: typeStockReserved, Consumer: "notification"}, f.stockLog, f.notification, f.packed),
	}
	for _, p := range t.Paths {
		name := p.EventType + " → " + p.Consumer + ": "
		complain(p.Lost, name+"events without an effect")
		complain(p.Ghosts, name+"effects without an event")
		complain(p.Repeated, name+"effects that had happened before")
		complain(p.Inversions, name+"effects out of the order of their key")
		complain(p.Received-p.Duplicates-p.Effects, name+"more messages that were handled than effects (fewer, if negative)")
		t.Lost += p.Lost
		t.Ghosts += p.Ghosts
	}
	for _, consumer := range []struct {
		name string
		books
		logs [][]logged
	}{
		{"inventory", f.inventory, [][]logged{f.orderLog}},
		{"notification", f.notification, [][]logged{f.orderLog, f.stockLog}},
	} {
		strangers := countUnknown(consumer.books, consumer.logs...)
		complain(strangers, consumer.name+": messages received that are in no log")
		t.Ghosts += strangers
	}

	// Every item.
	wrong := 0
	for _, item := range catalog {
		line := stockLine{SKU: item.SKU, Sold: f.sold[item.SKU], Expected: item.Stock - f.sold[item.SKU], Found: f.stock[item.SKU]}
		if line.Expected != line.Found {
			wrong++
		}
		t.Stock = append(t.Stock, line)
	}
	complain(wrong, "items whose stock isn't what it should be")
	complain(len(f.stock)-len(catalog), "items in stock that the catalog doesn't have (fewer, if negative)")

	// Nothing was put aside.
	complain(int(f.parked), "events parked by the relay")
	for _, queue := range slices.Sorted(maps.Keys(f.left)) {
		complain(f.left[queue], "messages left in the queue "+queue)
		complain(f.deadLettered[queue], "messages in the dead-letter queue of "+queue)
	}
	if t.Committed == 0 {
		t.Problems = append(t.Problems, "no order was committed: this run shows nothing")
	}
	return t
}

// matchLog finds causes without their event, events without their cause, and causes with more than one.
func (t *table) matchLog(eventType, causes string, want map[string]bool, log []logged, cause func(logged) string, complain func(int, string)) {
	events := map[string]int{}
	ghosts, repeated := 0, 0
	for _, e := range log {
		c := cause(e)
		events[c]++
		switch {
		case !want[c]:
			ghosts++
		case events[c] > 1:
			repeated++
		}
	}
	lost := 0
	for c := range want {
		if events[c] == 0 {
			lost++
		}
	}
	complain(lost, causes+" without their "+eventType+" in the log")
	complain(ghosts, eventType+" in the log that come from none of the "+causes)
	complain(repeated, eventType+" in the log beyond the first of its cause")
	t.Lost += lost
	t.Ghosts += ghosts
}

// follow compares the events of a log with the effects that a consumer gave them.
func follow(p path, log []logged, b books, effects []effect) path {
	p.Logged = len(log)
	p.Effects = len(effects)
	orderOf := map[string]string{}
	for _, e := range log {
		orderOf[e.ID] = e.Order
	}
	for _, id := range b.handled {
		if _, known := orderOf[id]; known {
			p.Received++
		}
	}
	for _, id := range b.dropped {
		if _, known := orderOf[id]; known {
			p.Received++
			p.Duplicates++
		}
	}
	seen := map[string]bool{}
	newest := map[string]int{} // number of the newest order, by customer
	for _, e := range effects {
		order, known := orderOf[e.Event]
		switch {
		case !known || order != e.Order:
			p.Ghosts++
		case seen[e.Event]:
			p.Repeated++
		}
		seen[e.Event] = true
		if e.Number < newest[e.Customer] {
			p.Inversions++
		}
		newest[e.Customer] = max(newest[e.Customer], e.Number)
	}
	for id := range orderOf {
		if !seen[id] {
			p.Lost++
		}
	}
	return p
}

// countUnknown counts the deliveries of events that are in none of the logs.
func countUnknown(b books, logs ...[]logged) int {
	known := map[string]bool{}
	for _, log := range logs {
		for _, e := range log {
			known[e.ID] = true
		}
	}
	n := 0
	for _, id := range slices.Concat(b.handled, b.dropped) {
		if !known[id] {
			n++
		}
	}
	return n
}
