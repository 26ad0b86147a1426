//go:build race

package simulation

import (
	"time"

	"github.com/surepost/surepost/internal/sim"
)

// The race detector costs ten times as much. It looks for races here; what else there is, more seeds find without it.
var budget = sim.Budget{Least: 50, For: 8 * time.Second}

const replayed = 15
