package pgxstore

import (
	"context"

	"github.com/surepost/surepost/diagnosis"
)

// Diagnose looks at everything about the database that makes events wait, or would lose them, and returns what it found:
// what is good as well as what isn't, each with its cause and its remedy. It is what `surepost doctor` shows.
//
// It may be called while everything is on fire: it only reads, waits half a second for a lock and five for a statement, and
// a check that can't run is a finding. It takes one connection (and a second one for a moment, where the driver prepares
// statements in a round trip of its own), and needs SELECT on the tables; what else it isn't allowed to see it says. The
// error is of the limits, or says that the store has no pool.
func (s *Store) Diagnose(ctx context.Context, limits diagnosis.Limits) ([]diagnosis.Finding, error) {
	return s.engine.Diagnose(ctx, limits)
}
