package main

import "fmt"

// books compare what should be with what is.
type books struct {
	Committed, Refused int
	Lines              []line
	Problems           []string // in words; none: the books balance
}

// line is one path of the books.
type line struct {
	path
	Written    int // events in the outbox of the service that wrote them
	Published  int // events of these that the witness saw at least once
	Received   int // messages that the service took: events and copies of events
	Duplicates int // of these, copies that the inbox dropped
	Effects    int // rows that the handler wrote
	Lost       int // events that weren't published, or had no effect
	Ghosts     int // effects without an event
	Doubles    int // effects of events that had had theirs
	Inversions int // effects that came after that of a later order of the customer
}

// reconcile makes the books.
func reconcile(f facts) books {
	b := books{Committed: len(f.orders)}
	b.checkOrders(f)
	b.checkChain(f)
	b.checkPublished(f)
	for _, p := range paths {
		l := follow(p.path, f)
		name := l.eventType + " → " + l.service + ": "
		b.complain(l.Lost, name+"events lost")
		b.complain(l.Ghosts, name+"effects of no event")
		b.complain(l.Doubles, name+"effects that had happened before")
		b.complain(l.Inversions, name+"effects out of order")
		b.complain(l.Received-l.Duplicates-l.Effects, name+"more events handled than effects (fewer, if negative)")
		b.Lines = append(b.Lines, l)
	}
	b.checkStock(f)
	b.complain(f.parked, "events still parked")
	b.complain(f.deadLetters, "dead letters left")
	return b
}

func (b *books) complain(n int, what string) {
	if n != 0 {
		b.Problems = append(b.Problems, fmt.Sprintf("%d %s", n, what))
	}
}

// checkOrders: what the customers were told is what was committed.
func (b *books) checkOrders(f facts) {
	var told []string
	for id, placed := range f.told {
		if placed {
			told = append(told, id)
		} else {
			b.Refused++
		}
	}
	gone, unknown, _ := compare(told, f.orders)
	b.complain(gone, "orders that customers were told of aren't in the database")
	b.complain(unknown, "orders are in the database, though customers were told that they aren't placed")
	if b.Committed == 0 || b.Refused == 0 {
		b.Problems = append(b.Problems, "no order was committed, or none refused: this run shows nothing")
	}
}

// checkChain: each order has led to exactly one OrderCreated, each of these to one StockReserved, and so on, and all of
// them tell of the request with which it began.
func (b *books) checkChain(f facts) {
	var created, reserved []string
	causes := map[string][]string{}
	strayed := 0
	for _, e := range f.log {
		switch e.Type {
		case orderCreated:
			created = append(created, e.ID)
			causes[orderCreated] = append(causes[orderCreated], e.Order.ID)
		case stockReserved:
			reserved = append(reserved, e.ID)
			causes[stockReserved] = append(causes[stockReserved], e.Causation)
		case paymentTaken, paymentRefused:
			causes["Payment…"] = append(causes["Payment…"], e.Causation)
		default:
			continue
		}
		if e.Correlation != correlationID(e.Order.ID) {
			strayed++
		}
	}
	b.complain(strayed, "events don't carry the id of the request that they go back to")
	for _, link := range []struct {
		causes []string
		what   string
	}{{f.orders, orderCreated}, {created, stockReserved}, {reserved, "Payment…"}} {
		lost, ghosts, doubles := compare(link.causes, causes[link.what])
		b.complain(lost, "times there should be an event "+link.what+" and is none")
		b.complain(ghosts, "events "+link.what+" that nothing has caused")
		b.complain(doubles, "events "+link.what+" too many")
	}
}

// checkPublished: nothing was published that isn't in an outbox.
func (b *books) checkPublished(f facts) {
	var written []string
	for _, e := range f.log {
		written = append(written, e.ID)
	}
	_, ghosts, _ := compare(written, f.published)
	b.complain(ghosts, "messages published of events that were never committed")
}

func (b *books) checkStock(f facts) {
	missing := map[string]int{}
	order := map[string]Order{}
	for _, e := range f.log {
		order[e.Order.ID] = e.Order
	}
	for _, e := range f.effects[path{paymentTaken, "notification"}] {
		missing[order[e.Order].Item] += order[e.Order].Pieces
	}
	wrong := 0
	for _, item := range items {
		if f.stock[item] != fullStock-missing[item] {
			wrong++
		}
	}
	b.complain(wrong, "items of which other numbers are in stock than should be")
}

// follow compares the events of a type with what a service did about them.
func follow(p path, f facts) line {
	var written []string
	for _, e := range f.log {
		if e.Type == p.eventType {
			written = append(written, e.ID)
		}
	}
	unpublished, _, _ := compare(written, f.published)
	l := line{path: p, Written: len(written), Published: len(written) - unpublished, Effects: len(f.effects[p])}
	l.Duplicates = countIn(written, f.dropped[p.service])
	l.Received = countIn(written, f.handled[p.service]) + l.Duplicates
	var done []string
	newest := map[string]int{} // number of the newest order, by customer
	for _, e := range f.effects[p] {
		done = append(done, e.Event)
		if e.Number < newest[e.Customer] {
			l.Inversions++
		}
		newest[e.Customer] = max(newest[e.Customer], e.Number)
	}
	l.Lost, l.Ghosts, l.Doubles = compare(written, done)
	l.Lost = max(l.Lost, unpublished)
	return l
}

// compare returns how many of the ids in want aren't in got, how many in got aren't in want, and how many in got are
// there again.
func compare(want, got []string) (lost, ghosts, doubles int) {
	times := map[string]int{}
	for _, id := range want {
		times[id] = 0
	}
	for _, id := range got {
		n, wanted := times[id]
		switch {
		case !wanted:
			ghosts++
			continue
		case n > 0:
			doubles++
		}
		times[id]++
	}
	for _, n := range times {
		if n == 0 {
			lost++
		}
	}
	return lost, ghosts, doubles
}

// countIn returns how many of the ids are in set.
func countIn(set, ids []string) int {
	in := make(map[string]bool, len(set))
	for _, id := range set {
		in[id] = true
	}
	n := 0
	for _, id := range ids {
		if in[id] {
			n++
		}
	}
	return n
}
