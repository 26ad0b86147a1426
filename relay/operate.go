package relay

import (
	"time"
)

// The stores answer to operators with the types of this file. What a store can do of it, it has as methods; the command
// line and the metrics are made of nothing else.

// EventFilter selects events of the log. Empty fields select all; several fields must all match.
type EventFilter struct {
	Types, Keys, Sources, IDs []string
	CorrelationID             string
	Since, Until              time.Time // of Event.Time: Since <= time < Until
}

// Start says where a new destination begins to read the log.
type Start struct {
	kind startKind
	at   time.Time
}

type startKind uint8

const (
	startBeginning startKind = iota
	startNow
	startTime
)

// FromBeginning begins with the oldest event that the log still has.
func FromBeginning() Start { return Start{} }

// FromNow begins with the events that commit from now on.
func FromNow() Start { return Start{kind: startNow} }

// FromTime begins with the first event in the log whose Event.Time is at or after t.
func FromTime(t time.Time) Start { return Start{kind: startTime, at: t} }

// Beginning reports whether the start is the log's beginning.
func (s Start) Beginning() bool { return s.kind == startBeginning }

// Time returns the time of a FromTime.
func (s Start) Time() (at time.Time, ok bool) { return s.at, s.kind == startTime }

// Destination is a named reader of the log, with a cursor for each of its lanes. It holds back the log's retention until it
// has passed what is there.
type Destination struct {
	Name      string
	Lanes     int
	CreatedAt time.Time
	Replay    *Replay // nil: an ordinary destination, which never ends
}

// Replay makes a destination of a part of the log: what the filter selects of the events that were there when it was
// created. Its relay's Run ends when it is done.
type Replay struct {
	Filter    EventFilter
	CreatedBy string
	DoneAt    time.Time // zero: it isn't done
}

// HeaderReplay is the header that a replayed event carries, with the name of the replay's destination. Consumers find it
// among Event.Headers.
const HeaderReplay = "surepost-replay"

// OutboxStatus is how a store's outbox stands: what an operator looks at first. It is read without a lock and costs some index
// probes a lane, however long the log is. Not all of it is of one moment.
type OutboxStatus struct {
	Destinations []DestinationStatus
	Scheduled    int64     // events that aren't due yet
	ScheduledDue time.Time // when the first of them is; zero without
	LogBytes     int64     // of the outbox's tables, with their indexes
	OldestEvent  time.Time // Event.Time of the first one that the log still has; zero for an empty log
	InboxBytes   int64
}

// DestinationStatus is how a destination stands.
type DestinationStatus struct {
	Destination
	LanesStatus []LaneStatus
	Relays      []RelayStatus // that are alive
	Parked      int64         // events
	ParkedKeys  int64         // keys that wait for an operator
	ParkedAt    time.Time     // when the first of them was parked; zero without
}

// OldestUnpublished returns the Event.Time of the oldest event that some lane hasn't passed; zero if there is none.
func (d DestinationStatus) OldestUnpublished() (oldest time.Time) {
	for _, l := range d.LanesStatus {
		if !l.OldestUnpublished.IsZero() && (oldest.IsZero() || l.OldestUnpublished.Before(oldest)) {
			oldest = l.OldestUnpublished
		}
	}
	return oldest
}

// Backlog returns about how many events the lanes have yet to pass.
func (d DestinationStatus) Backlog() (n int64) {
	for _, l := range d.LanesStatus {
		n += l.Backlog
	}
	return n
}

// LaneStatus is how a lane stands.
type LaneStatus struct {
	Lane              Lane
	Owner             string // "" : nobody's
	Epoch             int64
	Expires           time.Duration // from now, by the store's clock; negative if the lease ran out
	CheckpointAt      time.Time     // zero: nothing was published yet
	OldestUnpublished time.Time     // Event.Time of the oldest one that isn't passed; zero if there is none
	Backlog           int64         // events that aren't passed, exact up to 10,000 and estimated beyond
}

// RelayStatus is a relay that is alive.
type RelayStatus struct {
	Owner   string
	Since   time.Time
	Expires time.Duration
}
