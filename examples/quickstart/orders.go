package main

import (
	"fmt"
	"math/rand/v2"
)

// items are what the shop sells, and fullStock is how many pieces of each there are in the beginning.
var items = []string{"teapot", "cup", "kettle", "Assam 250 g", "Sencha 100 g", "grinder", "tea towel", "rock candy"}

const fullStock = 1_000_000

const (
	refusedEvery = 10 // one order in so many is over the limit
	customers    = 12
)

// makeOrders makes n orders, the same ones for the same seed. The one at odd is paid in Swiss francs. Its customer has
// no other order, since an event that was put aside can't be in order with those that went past it.
func makeOrders(n, odd int, seed uint64) []Order {
	random := rand.New(rand.NewPCG(seed, 0))
	orders := make([]Order, n)
	for i := range orders {
		orders[i] = Order{
			ID:       fmt.Sprintf("ord-%05d", i+1),
			Customer: fmt.Sprintf("cus-%02d", 1+random.IntN(customers)),
			Item:     items[random.IntN(len(items))],
			Pieces:   1 + random.IntN(5),
			Cents:    1000 + random.IntN(60_000),
			Currency: "EUR",
		}
		if i%refusedEvery == refusedEvery/2 {
			orders[i].Cents += limitCents
		}
	}
	orders[odd] = Order{ID: orders[odd].ID, Customer: "cus-zurich", Item: items[0], Pieces: 1, Cents: 4900, Currency: "CHF"}
	return orders
}

// correlationID is the id of the request by which an order is placed.
func correlationID(orderID string) string { return "req-" + orderID }
