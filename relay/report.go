package relay

import "time"

// State is what a relay is doing with its lane.
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

// Report is a relay as it stands. Counts are of this process, since it began.
type Report struct {
	Lane  Lane
	Owner string
	State State
	Epoch int64 // of the lease, while leading

	Published  int64 // confirmed events, repetitions included
	Parked     int64 // events taken out of the stream
	Retries    int64 // events that were rejected or unroutable and sent again
	Stragglers int64 // events that committed after ones with higher numbers had been read: a cursor without the cut would have lost them
	Reads      int64 // of the log
	Sessions   int64 // with the broker that were opened

	InFlight int  // sent, not confirmed
	Open     int  // read, not settled
	CaughtUp bool // the last read left nothing to be read, and nothing is open

	Blocked       bool // the broker asked to send nothing
	BlockedReason string

	LastError   error // of the store or the broker
	LastErrorAt time.Time

	Vitals Vitals // for probes: see package relay/health
}

// Report returns how the relay stands. It may be called often.
func (r *Relay) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := r.report
	report.Vitals = r.vitals.read()
	return report
}

func (r *Relay) update(change func(rp *Report)) {
	r.mu.Lock()
	change(&r.report)
	r.mu.Unlock()
}

func (r *Relay) setState(state State) {
	r.mu.Lock()
	changed := r.report.State != state
	r.report.State = state
	if state != Leading {
		r.report.Epoch, r.report.InFlight, r.report.Open, r.report.CaughtUp = 0, 0, 0, false
		r.report.Blocked, r.report.BlockedReason = false, ""
	}
	r.mu.Unlock()
	if h := r.config.Hooks.OnState; h != nil && changed {
		h(r.lane, state)
	}
}

func (r *Relay) lead(epoch int64) {
	r.update(func(rp *Report) { rp.Epoch = epoch })
	r.setState(Leading)
}
