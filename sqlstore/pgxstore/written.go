package pgxstore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
)

// Written returns the events that tx itself has written and not rolled back, in the order of writing: what a test asserts
// before the commit (outboxtest.RequireWritten).
func (s *Store) Written(ctx context.Context, tx pgx.Tx) ([]surepost.Event, error) {
	return s.engine.Written(ctx, querier{tx})
}
