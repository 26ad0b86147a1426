package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
)

// side is one of the things that a case compares.
type side struct {
	name    string
	measure func(ctx context.Context) (float64, error)
}

// series holds every measurement, by side, in the order in which they were made.
type series map[string][]float64

// alternate measures every side once a round, in an order that is drawn anew for each round: whatever drifts (a disk
// that fills its cache, a neighbour on the machine, a table that grows) falls on all sides alike.
func alternate(ctx context.Context, rounds int, sides ...side) (series, error) {
	all := series{}
	for round := range rounds {
		for _, i := range rand.Perm(len(sides)) {
			s := sides[i]
			v, err := s.measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", s.name, round+1, err)
			}
			all[s.name] = append(all[s.name], v)
			fmt.Fprintf(os.Stderr, "  round %d of %d  %-24s %s\n", round+1, rounds, s.name, number(v))
		}
	}
	return all, nil
}

// median of a side's measurements.
func (s series) median(name string) float64 { return median(s[name]) }

// settings are what a reader needs to judge the medians: every measurement of the sides named.
func (s series) settings(names ...string) map[string]any {
	rounds := map[string][]float64{}
	for _, name := range names {
		for _, v := range s[name] {
			rounds[name] = append(rounds[name], rounded(v))
		}
	}
	return map[string]any{"measured": rounds, "rounds": len(s[names[0]])}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[n/2]
}

// rounded keeps four significant digits: more would be noise that looks like knowledge.
func rounded(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
