package main

// The ledger: what was written, by the transaction that wrote the event, and what was done, by the transaction that recorded
// the event as handled. There is no unique constraint on it, so that what happens twice shows.
const ledgerTables = `
CREATE TABLE chaos_key ( -- an aggregate: its row is locked by whoever writes an event of its key
	key    text   PRIMARY KEY,
	number bigint NOT NULL
);
CREATE TABLE chaos_written (
	event_id text    NOT NULL,
	type     text    NOT NULL,
	key      text    NOT NULL,
	number   bigint  NOT NULL, -- among the key's events, counted in their transactions: 1, 2, 3 …
	cause    text    NOT NULL, -- the event that it follows; '' for none
	poison   boolean NOT NULL, -- billing can't handle it
	writer   text    NOT NULL,
	at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX chaos_written_at ON chaos_written (at);
CREATE TABLE chaos_effect (
	place    bigint GENERATED ALWAYS AS IDENTITY, -- in the order of commits, as far as one key's effects are concerned
	consumer text   NOT NULL,
	event_id text   NOT NULL,
	type     text   NOT NULL,
	key      text   NOT NULL,
	number   bigint NOT NULL,
	at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX chaos_effect_event ON chaos_effect (event_id, consumer);
CREATE TABLE chaos_place ( -- locked by whoever notes an effect of a key, so that places are drawn in the order of commits
	consumer text   NOT NULL,
	key      text   NOT NULL,
	effects  bigint NOT NULL,
	PRIMARY KEY (consumer, key)
);`

const (
	// nextNumber locks the key and counts its event.
	nextNumber = `INSERT INTO chaos_key AS k (key, number) VALUES ($1, 1)
ON CONFLICT (key) DO UPDATE SET number = k.number + 1 RETURNING number`

	noteWritten = `INSERT INTO chaos_written (event_id, type, key, number, cause, poison, writer) VALUES ($1, $2, $3, $4, $5, $6, $7)`

	lockPlace = `INSERT INTO chaos_place AS p (consumer, key, effects) VALUES ($1, $2, 1)
ON CONFLICT (consumer, key) DO UPDATE SET effects = p.effects + 1`

	noteEffect = `INSERT INTO chaos_effect (consumer, event_id, type, key, number) VALUES ($1, $2, $3, $4, $5)`
)

// The events, each of which follows from the one before it, and who handles them.
const (
	placed  = "OrderPlaced"
	billed  = "OrderBilled"
	shipped = "OrderShipped"

	billing  = "billing"  // handles placed, and writes billed
	shipping = "shipping" // handles billed, and writes shipped
	audit    = "audit"    // handles all three
)

// handledBy are the effects that an event must have.
var handledBy = map[string][]string{placed: {billing, audit}, billed: {shipping, audit}, shipped: {audit}}

// followUp is what a consumer writes when it has handled an event.
var followUp = map[string]string{billing: billed, shipping: shipped}

// data is what an event says.
type data struct {
	Number int64 `json:"number"`
	Poison bool  `json:"poison,omitempty"`
}
