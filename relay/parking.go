package relay

import "fmt"

// ParkingPolicy says what happens to the later events of a key when one of its events can't be published: it is too large,
// its route is invalid, no queue is bound for it. An outage is not such a case, whatever the policy: nothing is parked for it.
type ParkingPolicy uint8

const (
	// ParkKeyWaits parks the event, and the later events of its key behind it, until an operator has it retried or
	// discarded. Nothing of the key is published out of order.
	ParkKeyWaits ParkingPolicy = iota
	// ParkKeyGoesOn parks the event alone: later events of its key are published, and it comes after them when it is
	// retried. For consumers that don't need a key's order, or prefer a gap to a delay. What was parked behind an event
	// before this policy was chosen stays until that event is retried or discarded.
	ParkKeyGoesOn
	// ParkHalts stops the lane at the event: Run returns an error that matches ErrHalt and names the event, the reason
	// and the remedy. Nothing is parked, and of its key nothing passes it. Events of other keys that were under way may
	// be published, and are published again when the relay is started again.
	ParkHalts
)

// halt is the error of a lane that stops at an event.
func halt(e *Entry, reason string) error {
	return fmt.Errorf("relay: %w: event %s (type %s, key %q, seq %d) can't be published: %s. Mend the cause and start the relay again; "+
		"or set Config.Parking to ParkKeyWaits or ParkKeyGoesOn, which park the event for an operator to retry or discard",
		ErrHalt, e.Event.ID, e.Event.Type, e.Event.Key, e.Seq, reason)
}
