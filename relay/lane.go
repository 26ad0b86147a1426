package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/surepost/surepost"
)

// MaxLanes is how many lanes a destination may have: each needs a slot.
const MaxLanes = surepost.Slots

// Lane names a share of the log and what it is published for.
type Lane struct {
	Destination string // whose cursor it is: one log can feed several brokers
	Index, Of   int    // lane Index of Of: it has the slots with slot % Of == Index
}

func (l Lane) String() string {
	return fmt.Sprintf("%s %d/%d", l.Destination, l.Index, l.Of)
}

// LaneStore is a Store whose destinations may have several lanes, shared by all relays of the destination. A Store
// without these methods has one lane, for which relays stand by. All methods are safe for concurrent use.
//
// Its Acquire returns a *LanesChangedError if the destination hasn't as many lanes as Lane.Of says, judged in the same
// statement that takes the lease. A destination that isn't there yet is created with as many.
type LaneStore interface {
	Store

	// Join says that the owner's relay is alive for ttl from now, by the store's clock, and returns how the destination
	// stands. With a ttl of 0 the relay only looks: it isn't counted among the relays, from now on. A destination that
	// isn't there yet is created, with as many lanes. instance tells two processes of one owner's name apart: while
	// another instance is alive, Join returns an *OwnerTakenError and changes nothing.
	Join(ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration) (Membership, error)

	// Leave takes the owner's relay off, so that others needn't wait until it isn't alive any more. One that isn't there,
	// or another instance, is no error.
	Leave(ctx context.Context, destination, owner, instance string) error

	// SetLanes changes the destination's number of lanes, while relays run or not. It ends the leases of all old lanes,
	// whose holders can write nothing more, and lets every new lane begin where the one of the old that was furthest
	// behind stands: what others had published beyond that is published again, nothing is lost, and the first occurrences
	// of each key's events stay in order. The same number changes nothing. It is an error if the destination isn't there,
	// or lanes isn't 1 to MaxLanes.
	SetLanes(ctx context.Context, destination string, lanes int) error
}

// Membership is how a destination's relays and lanes stand, as of one moment.
type Membership struct {
	Lanes  int          // of the destination
	Relays []string     // owners whose relays are alive, in byte order
	Leases []LeaseState // of the destination's lanes that were ever led, by index; the others are free
}

// LeaseState is how a lane's lease stands. Owner, Epoch and ExpiresAt stay the same as long as nobody renews or takes
// it.
type LeaseState struct {
	Lane      Lane
	Owner     string // "": it was released, or ended by SetLanes, and is free
	Epoch     int64
	ExpiresAt time.Time // by the store's clock: good for comparing with what was seen before
	Expired   bool      // by the same clock
}

// LanesChangedError says that the destination has another number of lanes than was taken for granted.
type LanesChangedError struct {
	Destination string
	Lanes       int // that it has
}

func (e *LanesChangedError) Error() string {
	return fmt.Sprintf("relay: destination %s has %d lanes", e.Destination, e.Lanes)
}

// OwnerTakenError says that another relay that is alive has the owner's name.
type OwnerTakenError struct {
	Destination, Owner string
	Instance           string    // the other one
	ExpiresAt          time.Time // of its last sign of life, by the store's clock
	Expires            time.Duration
}

func (e *OwnerTakenError) Error() string {
	return fmt.Sprintf("relay: another relay of destination %s is named %q: give each its own Config.Owner, or wait %v if it is gone",
		e.Destination, e.Owner, e.Expires.Round(time.Millisecond))
}
