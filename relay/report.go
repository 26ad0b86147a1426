package relay

import (
	"cmp"
	"slices"
	"time"
)

// State is what a relay is doing with a lane.
type State uint8

const (
	// Stopped: Run isn't running.
	Stopped State = iota
	// Standby: another relay leads, or the store can't be reached.
	Standby
	// Leading: this relay holds the lease.
	Leading
)

func (s State) String() string {
	switch s {
	case Standby:
		return "standby"
	case Leading:
		return "leading"
	}
	return "stopped"
}

// Report is a relay as it stands: all its lanes together. Counts are of this process, since it began, lanes included that
// it doesn't lead any more.
type Report struct {
	Destination string
	Owner       string
	State       State        // Leading if it leads a lane
	Epoch       int64        // the highest of its leases, while leading
	Lanes       []LaneReport // of all lanes that the destination is known to have, by index

	Published  int64 // confirmed events, repetitions included
	Parked     int64 // events taken out of the stream
	Retries    int64 // events that were rejected or unroutable and sent again
	Stragglers int64 // events that committed after ones with higher numbers had been read: a cursor without the cut would have lost them
	Reads      int64 // of the log
	Sessions   int64 // with the broker that were opened

	InFlight int  // sent, not confirmed
	Open     int  // read, not settled
	CaughtUp bool // it leads, and so are all lanes that it leads
	Done     bool // the destination's log has ended, as a replay's does, in all of its lanes

	Blocked       bool // the broker asked to send nothing
	BlockedReason string

	LastError   error // of the store or the broker
	LastErrorAt time.Time

	Vitals Vitals // for probes: see package relay/health
}

// LaneReport is a lane as it stands with this relay. The fields mean what they mean in Report.
type LaneReport struct {
	Lane  Lane
	State State
	Epoch int64 // of the lease, while leading

	Published, Parked, Retries, Stragglers, Reads, Sessions int64

	InFlight, Open int
	CaughtUp       bool // the last read left nothing to be read, and nothing is open

	Blocked       bool
	BlockedReason string

	LastError   error
	LastErrorAt time.Time
}

// Report returns how the relay stands. It may be called often.
func (r *Relay) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := Report{Destination: r.config.Destination, Owner: r.config.Owner, LastError: r.last.err, LastErrorAt: r.last.at,
		Done: r.done, Vitals: r.vitals.read()}
	leading, caughtUp := 0, 0
	for lane, l := range r.lanes {
		if lane.Of == r.of {
			all.Lanes = append(all.Lanes, *l)
		}
		all.State, all.Epoch = max(all.State, l.State), max(all.Epoch, l.Epoch)
		all.Published += l.Published
		all.Parked += l.Parked
		all.Retries += l.Retries
		all.Stragglers += l.Stragglers
		all.Reads += l.Reads
		all.Sessions += l.Sessions
		all.InFlight += l.InFlight
		all.Open += l.Open
		if l.State == Leading {
			leading++
		}
		if l.CaughtUp {
			caughtUp++
		}
		if l.Blocked && !all.Blocked {
			all.Blocked, all.BlockedReason = true, l.BlockedReason
		}
	}
	all.CaughtUp = leading > 0 && caughtUp == leading
	slices.SortFunc(all.Lanes, func(a, b LaneReport) int { return cmp.Compare(a.Lane.Index, b.Lane.Index) })
	if r.running && all.State == Stopped {
		all.State = Standby
	}
	return all
}

// setState notes what the relay does with a lane, and tells it to the hook where it changes.
func (r *Relay) setState(lane Lane, state State, epoch int64) {
	r.mu.Lock()
	l := r.lanes[lane]
	if l == nil {
		l = &LaneReport{Lane: lane}
		r.lanes[lane] = l
	}
	changed := l.State != state
	l.State, l.Epoch = state, epoch
	if state != Leading {
		l.InFlight, l.Open, l.CaughtUp, l.Blocked, l.BlockedReason = 0, 0, false, false, ""
	}
	r.mu.Unlock()
	if h := r.config.Hooks.OnState; h != nil && changed {
		h(lane, state)
	}
}
