//go:build race

package simulation

import (
	"time"

	"github.com/surepost/surepost/internal/sim"
)

// The race detector costs ten times as much. It looks for races here; what else there is, more seeds find without it. A machine
// that is busy with other packages' tests runs the least: a race in this simulation itself was at seed 114 once.
var budget = sim.Budget{Least: 250, For: 8 * time.Second}

const replayed = 15
