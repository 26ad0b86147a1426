package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// goodFacts are those of a run in which all went well: eight orders of two customers, of which two were refused, and
// one copy on each path.
func goodFacts() facts {
	f := facts{
		accepted: map[string]bool{}, sold: map[string]int64{}, stock: map[string]int64{},
		left: map[string]int{inventoryQueue: 0}, deadLettered: map[string]int{inventoryQueue: 0},
	}
	for _, item := range catalog {
		f.stock[item.SKU] = item.Stock
	}
	numbers := map[string]int{}
	for i := range 8 {
		id, customer := fmt.Sprintf("ord_%d", i), fmt.Sprintf("cus_%d", i%2)
		f.accepted[id] = i < 6
		if !f.accepted[id] {
			continue
		}
		numbers[customer]++
		n := numbers[customer]
		created, reserved := "created_"+id, "reserved_"+id
		f.orders = append(f.orders, order{id, customer, n})
		f.orderLog = append(f.orderLog, logged{created, id, requestID(id), ""})
		f.stockLog = append(f.stockLog, logged{reserved, id, requestID(id), created})
		f.reservations = append(f.reservations, effect{created, id, customer, n})
		f.thanks = append(f.thanks, effect{created, id, customer, n})
		f.packed = append(f.packed, effect{reserved, id, customer, n})
		f.inventory.handled = append(f.inventory.handled, created)
		f.notification.handled = append(f.notification.handled, created, reserved)
		f.sold["tea-mint"] += 2
		f.stock["tea-mint"] -= 2
	}
	f.inventory.dropped = []string{"created_ord_1"}
	f.notification.dropped = []string{"created_ord_1", "reserved_ord_2"}
	return f
}

func TestReconciliationOfAGoodRunFindsNothing(t *testing.T) {
	got := reconcile(goodFacts())
	if len(got.Problems) > 0 {
		t.Errorf("problems: %q", got.Problems)
	}
	if got.Committed != 6 || got.Refused != 2 || got.Lost != 0 || got.Ghosts != 0 {
		t.Errorf("committed %d, refused %d, lost %d, ghosts %d; want 6, 2, 0, 0", got.Committed, got.Refused, got.Lost, got.Ghosts)
	}
	for _, p := range got.Paths {
		want := path{EventType: p.EventType, Consumer: p.Consumer, Logged: 6, Received: 7, Duplicates: 1, Effects: 6}
		if p != want {
			t.Errorf("got %+v, want %+v", p, want)
		}
	}
}

func TestReconciliationFindsWhatIsOff(t *testing.T) {
	type counts struct{ lost, ghosts, repeated, inversions int }
	for name, test := range map[string]struct {
		spoil func(f *facts)
		want  counts
		words string // of one of the problems
	}{
		"an accepted order is gone": {
			func(f *facts) { f.accepted["ord_9"] = true },
			counts{lost: 1}, "were accepted but aren't in the database",
		},
		"a refused order was committed": {
			func(f *facts) { f.accepted["ord_0"] = false },
			counts{ghosts: 1}, "weren't accepted",
		},
		"an order has no event": {
			// nor any effect, since nobody heard of it
			func(f *facts) {
				f.orderLog, f.stockLog = f.orderLog[1:], f.stockLog[1:]
				f.reservations, f.thanks, f.packed = f.reservations[1:], f.thanks[1:], f.packed[1:]
				f.inventory.handled, f.notification.handled = f.inventory.handled[1:], f.notification.handled[2:]
				f.stock["tea-mint"] += 2
			},
			counts{lost: 1}, "committed orders without their OrderCreated",
		},
		"an order has two events": {
			func(f *facts) {
				f.orderLog = append(f.orderLog, logged{"second", "ord_0", requestID("ord_0"), ""})
				f.inventory.handled = append(f.inventory.handled, "second")
				f.notification.handled = append(f.notification.handled, "second")
				f.reservations = append(f.reservations, effect{"second", "ord_0", "cus_0", 3})
				f.thanks = append(f.thanks, effect{"second", "ord_0", "cus_0", 3})
			},
			counts{lost: 1}, "beyond the first of its cause", // lost: the second OrderCreated has no StockReserved
		},
		"a refused order left its event": {
			func(f *facts) {
				f.orderLog = append(f.orderLog, logged{"created_ord_7", "ord_7", requestID("ord_7"), ""})
			},
			counts{lost: 3, ghosts: 1}, "come from none of the committed orders", // lost: two effects and the StockReserved
		},
		"an event had no effect": {
			func(f *facts) {
				f.reservations = f.reservations[:5]
				f.inventory.handled = f.inventory.handled[:5]
			},
			counts{lost: 1}, "events without an effect",
		},
		"an inbox row has no effect": {
			func(f *facts) { f.thanks = f.thanks[:5] },
			counts{lost: 1}, "more messages that were handled than effects",
		},
		"an effect happened twice": {
			func(f *facts) { f.reservations = append(f.reservations, f.reservations[5]) },
			counts{repeated: 1}, "effects that had happened before",
		},
		"an effect has no event": {
			func(f *facts) { f.packed = append(f.packed, effect{"nobody's", "ord_7", "cus_1", 4}) },
			counts{ghosts: 1}, "effects without an event",
		},
		"an effect is another order's": {
			func(f *facts) { f.reservations[0].Order = "ord_3" },
			counts{ghosts: 1}, "effects without an event",
		},
		"a stranger was delivered": {
			func(f *facts) { f.inventory.handled = append(f.inventory.handled, "nobody's") },
			counts{ghosts: 1}, "that are in no log",
		},
		"two events of a key changed places": {
			func(f *facts) { f.packed[0], f.packed[2] = f.packed[2], f.packed[0] },
			counts{inversions: 1}, "out of the order of their key",
		},
		"one event came long after its key's others": {
			func(f *facts) { f.thanks = append(slices.Clone(f.thanks[1:]), f.thanks[0]) },
			counts{inversions: 1}, "out of the order of their key",
		},
		"a handler's event is missing": {
			func(f *facts) {
				f.stockLog, f.packed = f.stockLog[:5], f.packed[:5]
				f.notification.handled = slices.DeleteFunc(f.notification.handled, func(id string) bool { return id == "reserved_ord_5" })
			},
			counts{lost: 1}, "OrderCreated events without their StockReserved",
		},
		"a flow is broken": {
			func(f *facts) { f.stockLog[2].Correlation = f.stockLog[2].ID },
			counts{}, "don't carry the id of the request",
		},
		"the stock is off": {
			func(f *facts) { f.stock["cup-blue"]-- },
			counts{}, "items whose stock isn't what it should be",
		},
		"an item is missing": {
			func(f *facts) { delete(f.stock, "cup-blue") },
			counts{}, "that the catalog doesn't have",
		},
		"an event is parked": {
			func(f *facts) { f.parked = 1 },
			counts{}, "parked",
		},
		"a message is left": {
			func(f *facts) { f.left[inventoryQueue] = 1 },
			counts{}, "left in the queue " + inventoryQueue,
		},
		"a message is dead-lettered": {
			func(f *facts) { f.deadLettered[inventoryQueue] = 1 },
			counts{}, "dead-letter queue of " + inventoryQueue,
		},
		"nothing happened": {
			func(f *facts) { *f = facts{stock: f.stock}; f.stock["tea-mint"] += 12 },
			counts{}, "shows nothing",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := goodFacts()
			test.spoil(&f)
			table := reconcile(f)
			got := counts{lost: table.Lost, ghosts: table.Ghosts}
			for _, p := range table.Paths {
				got.repeated += p.Repeated
				got.inversions += p.Inversions
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if !slices.ContainsFunc(table.Problems, func(p string) bool { return strings.Contains(p, test.words) }) {
				t.Errorf("no problem tells of %q: %q", test.words, table.Problems)
			}
		})
	}
}
