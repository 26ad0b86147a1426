//go:build !race

package simulation

import (
	"time"

	"github.com/surepost/surepost/internal/sim"
)

// What a run of the tests affords.
var budget = sim.Budget{Least: 500, For: 15 * time.Second}

const replayed = 60 // seeds that are run twice
