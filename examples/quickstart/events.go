package main

// The events that the services tell each other of: their names say what has happened, not what shall be done about it.
// They are a contract between services: a field may be added, but not renamed.
const (
	orderCreated   = "OrderCreated"
	stockReserved  = "StockReserved"
	paymentTaken   = "PaymentTaken"
	paymentRefused = "PaymentRefused"
	priceChanged   = "PriceChanged"
)

// Order is the data of all events of an order. Each event carries what those who handle it need to know, so that none
// of them has to ask back.
//
// The customer is the key of these events: events of one key keep their order.
type Order struct {
	ID       string `json:"orderId"`
	Customer string `json:"customer"`
	Number   int    `json:"number"` // counts the customer's orders from 1
	Item     string `json:"item"`
	Pieces   int    `json:"pieces"`
	Cents    int    `json:"cents"`
	Currency string `json:"currency"`
}

// PriceChange is the data of PriceChanged.
type PriceChange struct {
	Item  string `json:"item"`
	Cents int    `json:"cents"`
}
