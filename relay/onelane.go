package relay

import (
	"context"
	"errors"
	"time"
)

// oneLane lets a store without lanes pass for one whose destinations have one. Its relays don't see each other: each asks
// for the lease, and who doesn't get it stands by.
type oneLane struct{ Store }

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
