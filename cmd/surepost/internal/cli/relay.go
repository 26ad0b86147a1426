package cli

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/relay"
)

type relayCommand struct {
	Migrate bool `help:"Migrate the tables first (relay.migrate)."`
}

// checkTimeout is how long the servers are waited for before the relay starts all the same: an outage at the start is an
// outage like any other, and the relay waits for its end.
const checkTimeout = 10 * time.Second

func (cmd relayCommand) Run(s *session) error {
	c, _ := s.load() // what is wrong with it is told by open
	migrate := cmd.Migrate || c.Relay.Migrate
	db, err := s.open(connect.Needs{Database: true, Broker: true}, migrate)
	if err != nil {
		return err
	}
	defer db.Close()
	logger := s.logger(db.config)
	if migrate {
		if err := migrateFirst(s, db, logger); err != nil {
			return err
		}
	}
	tracing, err := s.tracing(db, logger)
	if err != nil {
		return err
	}
	defer tracing.Close(s.ctx)
	served, publisher := newServed(db, logger), connect.NewPublisher(db.config, logger, connect.Target{})
	r, err := relay.New(db.Store, publisher, connect.RelayConfig(db.config, logger, relay.JoinHooks(served.hooks(), tracing.Hooks(publisher))))
	if err != nil {
		return err
	}
	stop, err := served.start(s.ctx, db.config.HTTP.Listen, r)
	if err != nil {
		return err
	}
	defer stop()
	stopPruning, err := s.prune(db, logger)
	if err != nil {
		return err
	}
	defer stopPruning()
	logger.Info("surepost relay starts", "version", version(s.Version).Version, "database", string(db.Kind),
		"destination", db.config.Relay.Destination)
	if err := checkFirst(s.ctx, r, logger); err != nil {
		return err
	}
	if err := r.Run(s.ctx); err != nil {
		return err
	}
	logger.Info("surepost relay has stopped")
	return nil
}

// tracing sends spans to where the configuration says; nil for nowhere.
func (s *session) tracing(db *opened, logger *slog.Logger) (*connect.Tracing, error) {
	return connect.NewTracing(s.ctx, db.config, s.Environment, version(s.Version).Version, logger)
}

func migrateFirst(s *session, db *opened, logger *slog.Logger) error {
	store, err := migrator(db)
	if err != nil {
		return err
	}
	applied, err := store.Migrate(s.ctx)
	if err != nil {
		return err
	}
	for _, m := range applied {
		logger.Info("migrated", "version", m.Version, "name", m.Name)
	}
	return nil
}

// checkFirst says at once what keeps the relay from working. It returns an error only if time won't mend it.
func checkFirst(ctx context.Context, r *relay.Relay, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := r.Check(ctx)
	if errors.Is(err, relay.ErrHalt) {
		return err
	}
	if err != nil {
		logger.Warn("not everything can be reached yet: the relay waits for it", "err", err)
	}
	return nil
}
