package relay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// oneLease is a store that knows of nothing but a lease, and gives its owner the lease that it has.
type oneLease struct {
	Store
	owner   string
	epoch   int64
	expires time.Time
}

func (s *oneLease) Acquire(_ context.Context, lane Lane, owner string, ttl time.Duration) (Lease, error) {
	if left := time.Until(s.expires); s.owner != "" && s.owner != owner && left > 0 {
		return Lease{}, &LeaseHeldError{Lane: lane, Owner: s.owner, Expires: left}
	}
	s.owner, s.expires = owner, time.Now().Add(ttl)
	s.epoch++
	return Lease{Lane: lane, Owner: owner, Epoch: s.epoch}, nil
}

func TestRelaysOfOneNameDoNotTakeTheLeaseFromEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 15 * time.Second
		lane := Lane{Destination: DefaultDestination, Of: 1}
		store := &oneLease{}
		first, second := newOneLane(store, "a", "00000000-1"), newOneLane(store, "a", "00000000-2")
		acquire := func(o oneLane, owner string) (*OwnerTakenError, error) {
			_, err := o.Acquire(t.Context(), lane, owner, ttl)
			var taken *OwnerTakenError
			errors.As(err, &taken)
			return taken, err
		}
		if _, err := acquire(first, "a"); err != nil {
			t.Fatal(err)
		}
		one, _ := acquire(second, "a")
		if one == nil || one.Owner != "a" || one.Expires != ttl {
			t.Fatalf("the other relay of the name is told %+v", one)
		}
		time.Sleep(time.Second)
		two, _ := acquire(second, "a")
		if two == nil || two.ExpiresAt.After(one.ExpiresAt) || two.Instance != one.Instance {
			t.Errorf("without a sign of life: %+v, then %+v", one, two)
		}
		time.Sleep(ttl / 3)
		if _, err := acquire(first, "a"); err != nil { // it renews
			t.Fatal(err)
		}
		three, _ := acquire(second, "a")
		if three == nil || !three.ExpiresAt.After(two.ExpiresAt) {
			t.Errorf("after a sign of life: %+v, then %+v", two, three)
		}
		if taken, err := acquire(newOneLane(store, "b", "00000000-3"), "b"); taken != nil || err == nil {
			t.Errorf("a relay of another name: %v, %v", taken, err)
		}
		if taken, err := acquire(newOneLane(store, "", "00000000-4"), "made up"); taken != nil || err == nil {
			t.Errorf("a relay with a name that was made up: %v, %v", taken, err)
		}
		time.Sleep(ttl + time.Second)
		if _, err := acquire(second, "a"); err != nil {
			t.Errorf("after the other one's end: %v", err)
		}
	})
}
