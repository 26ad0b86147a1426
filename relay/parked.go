package relay

import "time"

// DefaultDestination is the destination of a relay that names none.
const DefaultDestination = "default"

// ParkedFilter selects parked events. Empty fields select all.
type ParkedFilter struct {
	Destination string // default DefaultDestination
	Key         string
	Type        string
	IDs         []string
	Reason      string // a part of it, taken literally
}

// ParkedEvent is an event that was taken out of the stream, as an operator sees it.
type ParkedEvent struct {
	Destination string
	Entry
	Behind   bool // it only waits for an earlier event of its key
	Reason   string
	At       time.Time
	Retrying bool // the relay was asked to publish it again
}

// ParkedAction is what an operator did to a parked event.
type ParkedAction struct {
	Action      ParkedActionKind
	By          string // who, as given to RetryParked or DiscardParked
	At          time.Time
	Destination string
	Seq         int64
	EventID     string
	Type        string
	Key         string
	Reason      string // why it was parked
}

// ParkedActionKind names what was done.
type ParkedActionKind string

const (
	ParkedRetry   ParkedActionKind = "retry"
	ParkedDiscard ParkedActionKind = "discard"
)
