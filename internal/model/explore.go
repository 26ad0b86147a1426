package model

import (
	"fmt"
	"io"
	"time"
)

// Report is what came of exploring a scope.
type Report struct {
	Scope  Scope
	States int      // that can be come to, up to renaming
	Steps  int      // between them
	Depth  int      // of the longest shortest way
	Broken string   // the promise that is broken; empty: none is, in any state
	Trace  []string // the shortest way there
	Took   time.Duration

	// What the scope comes to: an explorer that never gets there proves nothing.
	Stragglers int // reads that hand out stragglers
	Pinned     int // reads whose stragglers don't fit in a page
	Stale      int // events that a relay publishes whose lease another has
	Changes    int // of the number of lanes, from checkpoints on
	Held       int // leaves that aren't emptied, since somebody hasn't passed them
	Emptied    int // leaves that are
}

// Print writes the trace.
func (r Report) Print(w io.Writer) {
	for i, line := range r.Trace {
		fmt.Fprintf(w, "%3d. %s\n", i+1, line)
	}
	fmt.Fprintf(w, "     %s\n", r.Broken)
}

// node remembers how a state was first come to.
type node struct {
	from  uint32 // the node
	which uint8  // of its steps
}

// Explore visits every state of the scope, breadth first, and ends at the first in which a promise is broken: there is no
// shorter way to one.
func Explore(scope Scope) Report {
	began := time.Now()
	m := newModel(scope)
	r := Report{Scope: scope}
	first := m.start()
	seen := map[[2]uint64]struct{}{first.fingerprint(): {}}
	nodes := []node{{}}
	type found struct {
		state
		id uint32
	}
	level := []found{{first, 0}}
	for len(level) > 0 && r.Broken == "" {
		var next []found
		for i := range level {
			from := &level[i]
			which := -1
			m.steps(&from.state, func(took step, s *state, broken string) {
				which++
				r.count(took, &from.state, s)
				if r.Broken != "" {
					return
				}
				s.canonical(m)
				if broken == "" {
					print := s.fingerprint()
					if _, known := seen[print]; known {
						return
					}
					seen[print] = struct{}{}
					broken = m.kept(took.kind, s)
				}
				nodes = append(nodes, node{from.id, uint8(which)})
				if broken != "" {
					r.Broken = broken
					r.Trace = m.trace(nodes, uint32(len(nodes)-1))
					return
				}
				next = append(next, found{*s, uint32(len(nodes) - 1)})
			})
		}
		if len(next) > 0 {
			r.Depth++
		}
		level = next
	}
	r.States, r.Took = len(nodes), time.Since(began)
	r.Stragglers, r.Pinned = m.stragglers, m.pinned
	return r
}

func (r *Report) count(took step, before, after *state) {
	r.Steps++
	switch {
	case took.kind == publish:
		if e := before.sessions[took.who]; before.dest[e.dest].lease[e.lane] != e.epoch {
			r.Stale++
		}
	case took.kind == setLanes && after.dest[took.who].place[0].there:
		r.Changes++
	case took.kind == check && after.phase == retainIdle:
		r.Held++
	case took.kind == truncate:
		r.Emptied++
	}
}

// trace tells the way to a node, from the beginning.
func (m *model) trace(nodes []node, to uint32) (lines []string) {
	var way []uint8
	for ; to != 0; to = nodes[to].from {
		way = append(way, nodes[to].which)
	}
	s := m.start()
	for i := len(way) - 1; i >= 0; i-- {
		which := -1
		before := s
		m.steps(&before, func(took step, after *state, _ string) {
			if which++; which != int(way[i]) {
				return
			}
			lines = append(lines, m.tell(took, &before, after))
			after.canonical(m)
			s = *after
		})
	}
	return lines
}
