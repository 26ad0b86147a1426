package main

import (
	"context"
	"database/sql"
	"log/slog"
	"time"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// firstLanes is how many lanes the log is published in, until the faults change it.
const firstLanes = 4

// runRelay publishes, together with the two others. The third reads by database/sql.
func runRelay(ctx context.Context, s surroundings, tell *teller) error {
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: brokerOf(s)})
	if err != nil {
		return err
	}
	var store logStore
	if s.Name == "relay-3" {
		db, err := sql.Open("pgx", s.Postgres)
		if err != nil {
			return err
		}
		defer db.Close()
		onSQL := sqlstore.New(db)
		defer onSQL.Close(context.WithoutCancel(ctx))
		store = onSQL
	} else {
		pool, err := openPool(ctx, s.Postgres, 4)
		if err != nil {
			return err
		}
		defer pool.Close()
		onPgx := pgxstore.New(pool)
		defer onPgx.Close(context.WithoutCancel(ctx))
		store = onPgx
	}
	if s.Planted == "checkpoint-before-confirm" {
		store = hasty{store}
	}
	retention := time.Duration(-1)
	if s.Name == "relay-3" {
		retention = 10 * time.Second // and the faults truncate too
	}
	r, err := relay.New(store, publisher, relay.Config{
		Lanes:     firstLanes,
		LeaseTTL:  leaseTTL,
		Retention: retention,
		Logger:    slog.Default(),
		Hooks: relay.Hooks{
			OnPublished: func(_ relay.Lane, events int) { tell.done.Add(int64(events)) },
			OnState: func(lane relay.Lane, state relay.State) {
				slog.Info("state", "lane", lane.String(), "is", state.String())
				tell.ready()
			},
			OnRetention: func(report relay.RetentionReport, _ error) { tell.emptied.Add(int64(report.Emptied)) },
			OnParked: func(lane relay.Lane, parked relay.Parked) {
				slog.Error("parked", "lane", lane.String(), "event", parked.Event.ID, "reason", parked.Reason)
			},
			OnError: func(lane relay.Lane, err error) { slog.Info("failed", "lane", lane.String(), "err", err) },
			OnRetry: func(lane relay.Lane, entry relay.Entry, outcome relay.Outcome) {
				slog.Info("retry", "lane", lane.String(), "event", entry.Event.ID, "outcome", outcome)
			},
		},
	})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

func brokerOf(s surroundings) amqp.Connection {
	return amqp.Connection{URLs: []string{s.AMQP}, Name: s.Name, Heartbeat: brokerHeartbeat, ConnectTimeout: 5 * time.Second}
}
