package model

import (
	"flag"
	"strings"
	"testing"
)

var soak = flag.Bool("model.soak", false, "explore larger scopes too: half an hour, two gigabytes")

// The parts that scopes are made of.
var (
	oneLane = Scope{Destinations: 1, Lanes: 1, FirstLanes: 1, Relays: 1, Takeovers: 1, Leaves: 1, Page: maxNumbers, Ahead: 1}
	lanes   = oneLane.with(func(s *Scope) { s.Lanes, s.LaneChanges, s.LaneScan, s.Takeovers = 2, 1, 1, 2 })
	ring    = oneLane.with(func(s *Scope) { s.Leaves = 2 })
)

func (s Scope) with(change func(s *Scope)) Scope {
	change(&s)
	return s
}

// of names the scope and gives it its writers.
func (s Scope) of(name string, transactions, writes, keys int) Scope {
	s.Name, s.Transactions, s.Writes, s.Keys = name, transactions, writes, keys
	return s
}

func pagesOfOne(s *Scope)      { s.Page = 1 }
func twoLanesFirst(s *Scope)   { s.FirstLanes = 2 }
func twoRelays(s *Scope)       { s.Relays, s.Takeovers = 2, 2 }
func twoDestinations(s *Scope) { s.Destinations, s.Relays, s.Takeovers = 2, 2, 2 }

// small scopes are explored by every test run.
var small = []Scope{
	oneLane.of("the cut: 3 transactions of 1 event, 2 keys", 3, 1, 2),
	oneLane.with(func(s *Scope) { s.Page, s.Ahead = 1, 2 }).of("pages of 1: 2 transactions of 2 events, 2 keys", 2, 2, 2),
	oneLane.with(twoRelays).
		of("take-overs: 2 relays; 2 transactions of 1 event, 1 key", 2, 1, 1),
	lanes.of("1 lane becomes 2: 2 transactions of 1 event, 2 keys", 2, 1, 2),
	lanes.with(twoLanesFirst).with(twoRelays).
		of("2 lanes become 1: 2 relays; 1 transaction of 2 events, 2 keys", 1, 2, 2),
	ring.of("the ring: 3 transactions of 1 event, 1 key", 3, 1, 1),
	ring.with(twoDestinations).of("the ring: 2 destinations; 1 transaction of 2 events, 1 key", 1, 2, 1),
	lanes.with(func(s *Scope) { s.Leaves = 2 }).of("the ring and lanes: 1 transaction of 2 events, 2 keys", 1, 2, 2),
	ring.with(pagesOfOne).of("the ring and pages of 1: 2 transactions, 2 events, 1 key", 2, 1, 1),
}

// large ones take minutes each.
var large = []Scope{
	oneLane.with(func(s *Scope) { s.Events = 5 }).of("the cut: 3 transactions of 2 events, 5 in all, 2 keys", 3, 2, 2),
	oneLane.of("the cut: 4 transactions of 1 event, 2 keys", 4, 1, 2),
	oneLane.with(func(s *Scope) { s.Page, s.Ahead, s.Takeovers = 1, 2, 2 }).
		of("pages of 1: 3 transactions of 1 event, 2 keys", 3, 1, 2),
	oneLane.with(func(s *Scope) { s.Page, s.Ahead, s.Takeovers = 2, 2, 2 }).
		of("pages of 2: 2 transactions of 2 events, 2 keys", 2, 2, 2),
	oneLane.with(func(s *Scope) { s.Relays, s.Takeovers = 2, 3 }).
		of("take-overs: 2 relays, 3 leases; 2 transactions of 1 event, 2 keys", 2, 1, 2),
	oneLane.with(twoRelays).
		of("take-overs: 2 relays; 2 transactions of 2 events, 3 in all, 2 keys", 2, 2, 2).with(func(s *Scope) { s.Events = 3 }),
	lanes.with(func(s *Scope) { s.LaneChanges, s.Takeovers = 2, 3 }).
		of("1 lane becomes 2, then 1: 2 transactions of 1 event, 2 keys", 2, 1, 2),
	lanes.with(twoRelays).of("1 lane becomes 2: 2 relays; 2 transactions of 1 event, 2 keys", 2, 1, 2),
	lanes.with(twoLanesFirst).with(twoRelays).
		of("2 lanes become 1: 2 relays; 2 transactions of 1 event, 2 keys", 2, 1, 2),
	ring.with(twoDestinations).of("the ring: 2 destinations; 2 transactions of 1 event, 1 key", 2, 1, 1),
	ring.of("the ring: 2 transactions of 2 events, 2 keys", 2, 2, 2),
	lanes.with(func(s *Scope) { s.Leaves = 2 }).of("the ring and lanes: 2 transactions of 1 event, 2 keys", 2, 1, 2),
	ring.with(twoRelays).of("the ring: 2 relays; 2 transactions of 1 event, 1 key", 2, 1, 1),
}

func TestPromisesHoldInEveryState(t *testing.T) {
	scopes := small
	if *soak {
		scopes = append(scopes, large...)
	}
	for _, s := range scopes {
		t.Run(s.Name, func(t *testing.T) {
			if !*soak {
				t.Parallel() // else they share the memory
			}
			r := Explore(s)
			t.Log(r)
			if r.Broken != "" {
				t.Errorf("a promise is broken:\n%s", printed(r))
			}
			for what, wanted := range map[string]struct{ want, got bool }{
				"stragglers":                               {true, r.Stragglers > 0},
				"pages that stragglers fill":               {s.Page == 1, r.Pinned > 0},
				"a relay that publishes without its lease": {s.Relays > 1 && s.Takeovers > s.Destinations, r.Stale > 0},
				"changed lanes":                            {s.LaneChanges > 0, r.Changes > 0},
				"leaves that somebody hasn't passed":       {s.Leaves > 1, r.Held > 0},
				"emptied leaves":                           {s.Leaves > 1, r.Emptied > 0},
			} {
				if wanted.want && !wanted.got {
					t.Errorf("the scope proves less than it should: it never comes to %s", what)
				}
			}
		})
	}
}

func printed(r Report) string {
	var trace strings.Builder
	r.Print(&trace)
	return trace.String()
}
