package main

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// The payment service takes the money for what was reserved, or finds that it can't.

const paymentTables = `
CREATE TABLE payments (
	id         text PRIMARY KEY,
	event_id   text NOT NULL,
	order_id   text NOT NULL,
	customer   text NOT NULL,
	number     integer NOT NULL,
	euro_cents integer NOT NULL,
	outcome    text NOT NULL
);`

// cardLimitCents is what every customer's card is good for: 500.00 euros.
const cardLimitCents = 50_000

type payment struct {
	*service
	rates map[string]int // what a thousand of a currency are worth in euros
}

func openPayment(ctx context.Context, at place) (payment, error) {
	base, err := openService(ctx, at, "payment", paymentTables)
	if err != nil {
		return payment{}, err
	}
	s := payment{base, map[string]int{"EUR": 1000}}
	inbox.On(s.inbox, stockReserved, s.take)
	return s, nil
}

// take handles StockReserved. A payment that is refused is no failure of the handler: it is something that happened,
// and that others are told of.
func (s payment) take(ctx context.Context, tx *sql.Tx, event surepost.Event, order Order) error {
	rate, known := s.rates[order.Currency]
	if !known {
		return inbox.Permanent(fmt.Errorf("there is no exchange rate for %s", order.Currency))
	}
	euroCents, outcome := order.Cents*rate/1000, paymentTaken
	if euroCents > cardLimitCents {
		outcome = paymentRefused
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO payments (id, event_id, order_id, customer, number, euro_cents, outcome) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		surepost.NewID(), event.ID, order.ID, order.Customer, order.Number, euroCents, outcome)
	if err != nil {
		return err
	}
	return s.outbox.Write(ctx, tx, surepost.Event{Type: outcome, Key: order.Customer, Data: order})
}
