package cli

import (
	"context"
	"fmt"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
)

// What stores may be able to do beside relay.Store. A command asks for what it needs by able.
type (
	canStatus interface {
		Status(ctx context.Context) (relay.OutboxStatus, error)
	}
	canEvents interface {
		Events(ctx context.Context, filter relay.EventFilter, after int64, limit int) ([]relay.Entry, error)
		Newest(ctx context.Context, filter relay.EventFilter, limit int) ([]relay.Entry, error)
	}
	canReplay interface {
		CreateReplay(ctx context.Context, name string, filter relay.EventFilter, by string) (relay.Destination, error)
		CountEvents(ctx context.Context, filter relay.EventFilter) (map[string]int64, error)
		canDestinations
	}
	canDestinations interface {
		Destinations(ctx context.Context) ([]relay.Destination, error)
		CreateDestination(ctx context.Context, name string, from relay.Start) error
		RemoveDestination(ctx context.Context, name string) error
	}
	canLanes interface {
		SetLanes(ctx context.Context, destination string, lanes int) error
	}
	canPark interface {
		Parked(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedEvent, error)
		RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error)
		DiscardParked(ctx context.Context, filter relay.ParkedFilter, by string) (int64, error)
		ParkedActions(ctx context.Context, filter relay.ParkedFilter, limit int) ([]relay.ParkedAction, error)
	}
	canSchedule interface {
		Scheduled(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.ScheduledEvent, error)
		CancelScheduled(ctx context.Context, filter relay.ScheduledFilter, by string) (int64, error)
		Cancellations(ctx context.Context, filter relay.ScheduledFilter, limit int) ([]relay.Cancellation, error)
	}
	canMigrate interface {
		Migrate(ctx context.Context) ([]sqlstore.Migration, error)
		MigrationStatus(ctx context.Context) ([]sqlstore.Migration, error)
		MigrationSQL(above int) string
	}
)

// opened is a command's database, with its configuration.
type opened struct {
	*connect.Database
	config *config.Config
}

// open validates the configuration and opens the database.
func (s *session) open(needs connect.Needs, create bool) (*opened, error) {
	c, problems := s.load()
	problems = problems.Add(connect.Validate(c, needs))
	if err := problems.OrNil(); err != nil {
		return nil, err
	}
	if !needs.Database {
		return &opened{config: c}, nil
	}
	db, err := connect.Open(s.ctx, c, create)
	if err != nil {
		return nil, err
	}
	return &opened{db, c}, nil
}

// with opens the database, asserts that its store can do what the command does, and runs it.
func with[T any](s *session, doing string, work func(db *opened, store T) error) error {
	db, err := s.open(connect.Needs{Database: true}, false)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := able[T](db, doing)
	if err != nil {
		return err
	}
	return work(db, store)
}

// able returns the store as what can do this, or an error that says that it can't.
func able[T any](db *opened, doing string) (T, error) {
	store, ok := db.Store.(T)
	if !ok {
		return store, usage(fmt.Sprintf("a store in %s can't %s", db.Kind, doing), whyNot(db.Kind))
	}
	return store, nil
}

func whyNot(kind connect.Kind) string {
	if kind == connect.PostgreSQL {
		return "use a newer version of surepost"
	}
	return "only PostgreSQL's can; see the table of databases in the README"
}

// migrator returns what migrates the database.
func migrator(db *opened) (canMigrate, error) {
	if store, ok := db.Store.(*mysqlstore.Store); ok {
		return mysqlMigrations{store}, nil
	}
	return able[canMigrate](db, "be migrated")
}

// mysqlMigrations makes MySQL's migrations those of the other stores.
type mysqlMigrations struct{ *mysqlstore.Store }

func (m mysqlMigrations) Migrate(ctx context.Context) ([]sqlstore.Migration, error) {
	return sameMigrations(m.Store.Migrate(ctx))
}

func (m mysqlMigrations) MigrationStatus(ctx context.Context) ([]sqlstore.Migration, error) {
	return sameMigrations(m.Store.MigrationStatus(ctx))
}

func sameMigrations(list []mysqlstore.Migration, err error) ([]sqlstore.Migration, error) {
	same := make([]sqlstore.Migration, len(list))
	for i, m := range list {
		same[i] = sqlstore.Migration(m)
	}
	return same, err
}
