package model

import "testing"

func TestProbe(t *testing.T) {
	for _, s := range []Scope{
		{Name: "cut3x1", Transactions: 3, Writes: 1, Keys: 2, Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 1, Takeovers: 1, Leaves: 1, Page: 8, Ahead: 1},
		{Name: "cut2x2", Transactions: 2, Writes: 2, Keys: 2, Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 1, Takeovers: 1, Leaves: 1, Page: 8, Ahead: 1},
		{Name: "cut2x2 page 1", Transactions: 2, Writes: 2, Keys: 2, Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 1, Takeovers: 1, Leaves: 1, Page: 1, Ahead: 1},
		{Name: "cut2x2 page 1 ahead 2", Transactions: 2, Writes: 2, Keys: 2, Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 1, Takeovers: 1, Leaves: 1, Page: 1, Ahead: 2},
		{Name: "leases 2x1", Transactions: 2, Writes: 1, Keys: 1, Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 2, Takeovers: 2, Leaves: 1, Page: 8, Ahead: 1},
		{Name: "ring 2x1", Transactions: 2, Writes: 1, Keys: 1, Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 1, Takeovers: 1, Leaves: 2, Page: 8, Ahead: 1},
		{Name: "lanes 1x2 one relay", Transactions: 1, Writes: 2, Keys: 2, Destinations: 1, Lanes: 2, FirstLanes: 1, LaneChanges: 1, Relays: 1, Takeovers: 2, Leaves: 1, Page: 8, Ahead: 1, LaneScan: 1},
		{Name: "lanes 2x1 one relay", Transactions: 2, Writes: 1, Keys: 2, Destinations: 1, Lanes: 2, FirstLanes: 1, LaneChanges: 1, Relays: 1, Takeovers: 2, Leaves: 1, Page: 8, Ahead: 1, LaneScan: 1},
	} {
		r := Explore(s)
		t.Log(r)
		if !r.Complete() {
			r.Print(t.Output())
			t.Fail()
		}
	}
}
