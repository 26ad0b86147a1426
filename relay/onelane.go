package relay

import (
	"context"
	"errors"
	"strings"
	"time"
)

// oneLane lets a store without lanes pass for one whose destinations have one. Its relays don't see each other: each asks
// for the lease, and who doesn't get it stands by.
type oneLane struct {
	Store
	alias *alias // nil where the owner's name was made up, and is nobody else's
}

// alias is the name by which a relay with a name of its user's asks for the lease: stores give an owner the lease that it has,
// so that two relays of one name would take it from each other, again and again.
type alias struct {
	instance string
	other    OwnerTakenError // that was met last
}

// parted stands between the name and the instance.
const parted = "/"

func newOneLane(store Store, name, instance string) oneLane {
	if name == "" {
		return oneLane{Store: store}
	}
	return oneLane{store, &alias{instance: instance[len(instance)-8:]}}
}

// Acquire is the store's. It returns an *OwnerTakenError if a relay of the same name has the lease. Only the supervisor calls it.
func (o oneLane) Acquire(ctx context.Context, lane Lane, owner string, ttl time.Duration) (Lease, error) {
	if o.alias == nil {
		return o.Store.Acquire(ctx, lane, owner, ttl)
	}
	lease, err := o.Store.Acquire(ctx, lane, owner+parted+o.alias.instance, ttl)
	var held *LeaseHeldError
	if !errors.As(err, &held) {
		return lease, err
	}
	if instance, same := strings.CutPrefix(held.Owner, owner+parted); same {
		return lease, o.alias.meets(lane.Destination, owner, instance, held.Expires, ttl)
	}
	return lease, err
}

// meets returns the error about the other relay. The store tells how long its lease has left: an end that lies later by less
// than a renewal adds is the same end, seen at another moment.
func (a *alias) meets(destination, owner, instance string, expires, ttl time.Duration) error {
	end := time.Now().Add(expires)
	if a.other.Instance != instance || end.Sub(a.other.ExpiresAt) > ttl/6 {
		a.other = OwnerTakenError{Destination: destination, Owner: owner, Instance: instance, ExpiresAt: end}
	}
	a.other.Expires = expires
	met := a.other
	return &met
}

func (oneLane) Join(_ context.Context, _, owner, _ string, _ int, _ time.Duration) (Membership, error) {
	return Membership{Lanes: 1, Relays: []string{owner}}, nil
}

func (oneLane) Leave(context.Context, string, string, string) error { return nil }

func (oneLane) SetLanes(context.Context, string, int) error {
	return errors.New("relay: this store has one lane")
}

// able returns the store as something that it can be besides: an adapter hides what it stands for.
func able[T any](store Store) (T, bool) {
	can, ok := bare(store).(T)
	return can, ok
}

// bare returns the store as it was given to New.
func bare(store Store) Store {
	if one, adapted := store.(oneLane); adapted {
		return one.Store
	}
	return store
}
