package main

import (
	"context"
	"database/sql"
	"time"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

// place says where the services find their databases and the broker.
type place struct {
	Postgres  bool              // else SQLite
	Databases map[string]string // data source names, by service
	Broker    string            // amqp://…
	Prefix    string            // what the names of the exchange and the queues begin with
}

func (p place) exchange() string            { return p.Prefix + "events" }
func (p place) queue(service string) string { return p.Prefix + service + ".events" }

// store is what services need of Surepost's store. There is one for each kind of database; with *sql.Tx as the type of
// the transactions they are used alike.
type store interface {
	outbox.Store[*sql.Tx]
	inbox.Store[*sql.Tx]
	inbox.AttemptStore
	relay.Store
	Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error)
	RetryParked(ctx context.Context, filter relay.ParkedFilter) (int64, error)
	Close(ctx context.Context)
}

func (p place) openDatabase(ctx context.Context, service string) (*sql.DB, store, error) {
	if p.Postgres {
		return openPostgres(ctx, p.Databases[service])
	}
	return openSQLite(ctx, p.Databases[service])
}

// workers is how many events a service handles at once: in SQLite one transaction writes at a time.
func (p place) workers() int {
	if p.Postgres {
		return 4
	}
	return 1
}

// relayLease is short, because this program kills a relay and waits until the next one takes over. Elsewhere the
// default of 15 s is better.
const relayLease = time.Second
