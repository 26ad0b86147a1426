package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ledger is all that is known at the end of a run.
type ledger struct {
	written      []written
	effects      []effect
	acknowledged []string // ids of events whose commit the database acknowledged, as the producers noted outside of it
	dead         []deadLetter
	parked       []string // what the relay took out of the stream, in words
	waiting      []string // what was still on its way when nobody waited any longer, in words
}

// written is an event, as the transaction that wrote it says.
type written struct {
	id, kind, key string
	number        int64
	cause         string
	poison        bool
	writer        string
}

// effect is what a consumer did, as its transaction says.
type effect struct {
	place         int64
	consumer      string
	id, kind, key string
	number        int64
}

// deadLetter is an event that a consumer gave up.
type deadLetter struct{ consumer, id, reason string }

// verdict is what is wrong: of each sort, what it is about, in words.
type verdict struct {
	lost, ghosts, double, missingFollowUps, inversions, stuck []string
	deadLettered, parked, altered, gaps, forgotten            []string

	waiting []string // why keys are stuck
}

// judge compares what was done with what was written. It is the place where a run passes or fails, and it believes nobody but the
// transactions.
func judge(l ledger) (v verdict) {
	byID := map[string]written{}
	byCause := map[string][]written{}
	for _, w := range l.written {
		if _, twice := byID[w.id]; twice {
			v.double = append(v.double, fmt.Sprintf("%s was written twice", w))
		}
		byID[w.id] = w
		if w.cause != "" {
			byCause[w.cause] = append(byCause[w.cause], w)
		}
	}
	effects := judgeEffects(&v, l, byID)
	dead := map[handling]bool{}
	for _, d := range l.dead {
		w, known := byID[d.id]
		dead[handling{d.consumer, d.id}] = true
		switch {
		case !known:
			v.ghosts = append(v.ghosts, fmt.Sprintf("event %s was never committed, and is a dead letter of %s (%s)",
				d.id, d.consumer, d.reason))
		case w.poison && d.consumer == billing:
		default:
			v.deadLettered = append(v.deadLettered, fmt.Sprintf("%s is a dead letter of %s (%s)", w, d.consumer, d.reason))
		}
	}
	judgeWritten(&v, l, effects, dead)
	judgeFollowUps(&v, l, effects, byCause)
	judgeOrder(&v, l)
	judgeNumbers(&v, l)
	for _, id := range l.acknowledged {
		if _, there := byID[id]; !there {
			v.forgotten = append(v.forgotten, fmt.Sprintf("event %s: its commit was acknowledged, and the database doesn't know it", id))
		}
	}
	v.parked = l.parked
	return v
}

func (w written) String() string {
	return fmt.Sprintf("event %s (%s, key %s, number %d, by %s)", w.id, w.kind, w.key, w.number, w.writer)
}

// handling is an event and who handles it.
type handling struct{ consumer, id string }

// judgeEffects looks for effects that should not be there, and returns how often each is.
func judgeEffects(v *verdict, l ledger, byID map[string]written) map[handling]int {
	times := map[handling]int{}
	for _, e := range l.effects {
		h := handling{e.consumer, e.id}
		times[h]++
		w, known := byID[e.id]
		switch {
		case !known:
			v.ghosts = append(v.ghosts, fmt.Sprintf("event %s (%s, key %s, number %d) was never committed, and %s has handled it",
				e.id, e.kind, e.key, e.number, e.consumer))
		case times[h] == 2:
			v.double = append(v.double, fmt.Sprintf("%s: %s has handled it more than once", w, e.consumer))
		case w.kind != e.kind || w.key != e.key || w.number != e.number:
			v.altered = append(v.altered, fmt.Sprintf("%s: %s got it as %s, key %s, number %d", w, e.consumer, e.kind, e.key, e.number))
		case !slices.Contains(handledBy[w.kind], e.consumer):
			v.altered = append(v.altered, fmt.Sprintf("%s: %s handled it, whose event it isn't", w, e.consumer))
		case w.poison && e.consumer == billing:
			v.altered = append(v.altered, fmt.Sprintf("%s is poisoned, and %s handled it", w, e.consumer))
		}
	}
	return times
}

// judgeWritten looks for effects that should be there. What is missing while something is still on its way is stuck; what is
// missing when nothing is, is lost.
func judgeWritten(v *verdict, l ledger, effects map[handling]int, dead map[handling]bool) {
	stuck := map[string]bool{}
	for _, w := range l.written {
		for _, consumer := range handledBy[w.kind] {
			h := handling{consumer, w.id}
			if effects[h] > 0 || dead[h] {
				continue
			}
			if len(l.waiting) == 0 {
				v.lost = append(v.lost, fmt.Sprintf("%s has no effect by %s", w, consumer))
			} else if !stuck[w.key] {
				stuck[w.key] = true
				v.stuck = append(v.stuck, fmt.Sprintf("key %s: %s has no effect by %s yet", w.key, w, consumer))
			}
		}
	}
	if len(v.stuck) > 0 {
		v.waiting = l.waiting
	}
}

// judgeFollowUps looks for events that their handlers should have written, and for those that they wrote without handling.
func judgeFollowUps(v *verdict, l ledger, effects map[handling]int, byCause map[string][]written) {
	for h := range effects {
		kind, follows := followUp[h.consumer]
		if !follows {
			continue
		}
		switch n := len(byCause[h.id]); {
		case n == 0:
			v.missingFollowUps = append(v.missingFollowUps, fmt.Sprintf("%s handled event %s, and wrote no %s", h.consumer, h.id, kind))
		case n > 1:
			v.double = append(v.double, fmt.Sprintf("%s handled event %s, and wrote %d of %s", h.consumer, h.id, n, kind))
		}
	}
	slices.Sort(v.missingFollowUps)
	for cause, follow := range byCause {
		if w := follow[0]; effects[handling{w.writer, cause}] == 0 {
			v.ghosts = append(v.ghosts, fmt.Sprintf("%s follows from %s, which %s hasn't handled", w, cause, w.writer))
		}
	}
}

// judgeOrder looks for effects of a key that came after later ones. Only an event's first effect counts.
func judgeOrder(v *verdict, l ledger) {
	type line struct{ consumer, key string }
	latest := map[line]effect{}
	seen := map[handling]bool{}
	inOrder := slices.SortedFunc(slices.Values(l.effects), func(a, b effect) int { return cmp.Compare(a.place, b.place) })
	for _, e := range inOrder {
		h := handling{e.consumer, e.id}
		if seen[h] || strings.HasPrefix(e.key, delayedKey) {
			continue
		}
		seen[h] = true
		of := line{e.consumer, e.key}
		if before, any := latest[of]; any && before.number > e.number {
			v.inversions = append(v.inversions, fmt.Sprintf("%s handled number %d of key %s (event %s) after number %d (event %s)",
				e.consumer, e.number, e.key, e.id, before.number, before.id))
			continue
		}
		latest[of] = e
	}
}

// judgeNumbers looks whether the ledger itself is whole: the numbers of a key are counted in the same transactions.
func judgeNumbers(v *verdict, l ledger) {
	numbers := map[string][]int64{}
	for _, w := range l.written {
		numbers[w.key] = append(numbers[w.key], w.number)
	}
	for key, of := range numbers {
		slices.Sort(of)
		for i, n := range of {
			if n != int64(i)+1 {
				v.gaps = append(v.gaps, fmt.Sprintf("key %s: number %d isn't in the ledger, or another is there twice", key, i+1))
				break
			}
		}
	}
	slices.Sort(v.gaps)
}
