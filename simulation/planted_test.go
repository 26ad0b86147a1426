package simulation

import (
	"testing"
	"time"

	"github.com/surepost/surepost/internal/sim"
)

// plant is a bug that is there on purpose.
type plant struct {
	noFencing      bool // the store takes the writes of stale relays
	newestCursor   bool // when their number changes, lanes begin at the newest of the old cursors
	remembers      bool // a process begins at the cursor that it remembers, not at the checkpoint
	xmaxForNext    bool // stragglers are looked for below xmax alone
	freshFirst     bool // a page has stragglers behind fresh events
	confirmsAtOnce bool // the publisher confirms what it has sent
	keysForgotten  bool // events of a key don't wait for each other
	parkedForgot   bool // who takes a lane over isn't told of its parked keys
	parkedDropped  bool // a checkpoint is stored without the events that were parked before it
	discardsRead   bool // what an operator has discarded is read again
	discardsParked bool // and parked again
}

// Each of these mistakes is found by the seeds that make test affords: the simulation would find it in the relay or the stores,
// too.
func TestPlantedBugsAreFound(t *testing.T) {
	for name, p := range map[string]plant{
		"a stale relay's writes are taken":                  {noFencing: true},
		"new lanes begin at the newest cursor":              {newestCursor: true},
		"a cursor outlives what it was read from":           {remembers: true},
		"stragglers are looked for below xmax":              {xmaxForNext: true},
		"stragglers come behind fresh events":               {freshFirst: true},
		"a checkpoint is written before the confirm":        {confirmsAtOnce: true},
		"events don't wait for a rejected one of their key": {keysForgotten: true},
		"the parked keys aren't read at a take-over":        {parkedForgot: true},
		"parked events aren't stored with the checkpoint":   {parkedDropped: true},
		"what was discarded is read again":                  {discardsRead: true},
		"what was discarded is parked again":                {discardsParked: true},
	} {
		t.Run(name, func(t *testing.T) {
			sim.Hunt(t, sim.Budget{Least: 3000, For: time.Minute}, func(w *sim.World) { begin(w, p).live() })
		})
	}
}
