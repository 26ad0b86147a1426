package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/examples/internal/console"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
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

// openPlace makes or finds databases and a broker. Release leaves nothing of this run behind.
func openPlace(ctx context.Context, o options) (at place, release func() error, err error) {
	var first, second func() error
	release = func() error { return errors.Join(second(), first()) }

	// Real servers may be shared with others: all names there are this run's own.
	run := "surepost-quickstart-" + surepost.NewID()[24:]
	if o.amqp == "" {
		at.Broker, first, err = startBroker()
	} else {
		at.Broker, at.Prefix = o.amqp, run+"."
		first, err = useBroker(ctx, at)
	}
	if err != nil {
		return at, nil, err
	}
	if o.pg == "" {
		at.Databases, second, err = makeFolder()
	} else {
		at.Postgres = true
		at.Databases, second, err = makeSchemas(ctx, o.pg, run)
	}
	if err != nil {
		return at, nil, errors.Join(err, first())
	}
	return at, release, nil
}

// removeLimit bounds cleaning up: whoever presses Ctrl-C doesn't want to wait for long.
const removeLimit = 10 * time.Second

// introduce tells of what all of it is made.
func (p place) introduce(c *console.Console) {
	databases, broker := "an SQLite database each", "a message broker inside of this program"
	if p.Postgres {
		databases = "a PostgreSQL schema each"
	}
	if p.Prefix != "" {
		broker = "RabbitMQ"
	}
	c.Print("%s: four services with %s,\nand %s.\n", c.Bold("Surepost"), databases, broker)
	c.Print("  order ─── OrderCreated ──▶ inventory ─── StockReserved ──▶ payment")
	c.Print("                             inventory ◀── PaymentRefused ──────┤")
	c.Print("                          notification ◀── PaymentRefused ──────┤")
	c.Print("                          notification ◀── PaymentTaken ────────┘\n")
	c.Print("None of them calls another one. Each writes down what has happened, together with\n" +
		"its own work, and whoever is concerned acts on it.")
}

// store is what is needed of Surepost's store. There is one for each kind of database; all with *sql.Tx as the type of
// the transactions are used alike.
type store interface {
	outbox.Store[*sql.Tx]
	inbox.Store[*sql.Tx]
	inbox.AttemptStore
	relay.Store
	Migrate(ctx context.Context) ([]sqlstore.Migration, error)
	Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error)
	RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error)
	Close(ctx context.Context)
}

// openDatabase opens a service's database and brings Surepost's tables in it up to date: any process may do so, at every
// start.
func (p place) openDatabase(ctx context.Context, service string) (db *sql.DB, store store, err error) {
	if p.Postgres {
		db, store, err = openPostgres(p.Databases[service])
	} else {
		db, store, err = openSQLite(p.Databases[service])
	}
	if err != nil {
		return nil, nil, err
	}
	if _, err := store.Migrate(ctx); err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("prepare the database of %s: %w", service, err)
	}
	return db, store, nil
}

// workers is how many events a service handles at once: in SQLite one transaction writes at a time.
func (p place) workers() int {
	if p.Postgres {
		return 4
	}
	return 1
}
