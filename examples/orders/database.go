package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// openDatabase opens a service's own database, and brings both Surepost's tables and the service's own up to date.
// Every service does this at every start: migrations are idempotent.
func openDatabase(ctx context.Context, url, tables string, connections int32) (*pgxpool.Pool, *pgxstore.Store, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, fmt.Errorf("read the database's URL: %w", err)
	}
	config.MaxConns = connections // pgxpool's default is 4, or the number of CPUs: less than a consumer's workers
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	store := pgxstore.New(pool)
	if _, err = store.Migrate(ctx); err == nil {
		_, err = pool.Exec(ctx, tables)
	}
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("prepare the database: %w", err)
	}
	return pool, store, nil
}
