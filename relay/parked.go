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
