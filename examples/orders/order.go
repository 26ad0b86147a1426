package main

import "time"

// Order is what a customer asks for: the body of POST /orders and one line of the orders file.
type Order struct {
	// ID is the client's: a client that got no answer sends the order again, and it must stay one order.
	ID       string    `json:"orderId"`
	Customer Customer  `json:"customer"`
	ShipTo   Address   `json:"shipTo"`
	Currency string    `json:"currency"`
	Lines    []Line    `json:"lines"`
	Note     string    `json:"note,omitempty"`
	PlacedAt time.Time `json:"placedAt"`
}

// Customer is who orders. Its ID is the key of the order's events.
type Customer struct {
	ID    string `json:"customerId"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// Address is where the order is sent.
type Address struct {
	Street     string `json:"street"`
	PostalCode string `json:"postalCode"`
	City       string `json:"city"`
	Country    string `json:"country"`
}

// Line is one item of an order. The price isn't the customer's to say: the order service takes it from the catalog.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// orderLimitCents is the most that an order may come to: 1,000.00.
const orderLimitCents = 100_000

// totalCents returns what the order comes to. Its items must be in the catalog.
func (o Order) totalCents() int64 {
	var total int64
	for _, line := range o.Lines {
		total += itemOf[line.SKU].Cents * int64(line.Quantity)
	}
	return total
}

// The events that the services tell each other of. They are a contract: a field may be added, not renamed.
const (
	typeOrderCreated  = "OrderCreated"
	typeStockReserved = "StockReserved"
)

// OrderCreated is the data of the event of that type. Its key is the customer's id.
type OrderCreated struct {
	Order
	// Number counts the customer's orders from 1, without gaps: by it one sees whether an event came out of order.
	Number     int   `json:"number"`
	TotalCents int64 `json:"totalCents"`
}

// StockReserved is the data of the event of that type. Its key is the customer's id, too.
type StockReserved struct {
	OrderID    string `json:"orderId"`
	CustomerID string `json:"customerId"`
	Email      string `json:"email"`
	Number     int    `json:"number"`
	Pieces     int    `json:"pieces"`
}
