package simulation

import (
	"time"

	"github.com/surepost/surepost/internal/sim"
)

// budget is what make test affords.
var budget = sim.Budget{Least: 300, For: 5 * time.Second}
