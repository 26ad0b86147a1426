package main

import (
	"fmt"

	"github.com/surepost/surepost/examples/internal/console"
)

// show prints the books, a line for each service.
func (b books) show(c *console.Console) {
	c.Print("\n%s\n", c.Bold("The books, by what is in the databases"))
	c.Print("orders: %d committed, %d refused\n", b.Committed, b.Refused)
	c.Print("%s", c.Faint("events for   written published received dropped effects lost ghosts twice swaps"))
	var names []string
	of := map[string]line{}
	var all line
	for _, l := range b.Lines {
		if _, known := of[l.service]; !known {
			names = append(names, l.service)
		}
		of[l.service] = of[l.service].plus(l)
		all = all.plus(l)
	}
	for _, name := range names {
		c.Print("%-12s %s", name, of[name])
	}
	c.Print("\n%s\n", c.Faint("dropped: copies, by the inbox; ghosts: effects of no event; twice: effects that had\n"+
		"happened before; swaps: effects out of their customer's order"))
	for _, problem := range b.Problems {
		c.Print("%s", c.Red("✗ "+problem))
	}
	if len(b.Problems) == 0 {
		c.Print("%s", c.Green(fmt.Sprintf("✓ Everything is accounted for: lost %d, ghosts %d, twice %d, swaps %d.",
			all.Lost, all.Ghosts, all.Doubles, all.Inversions)))
	}
}

func (l line) plus(m line) line {
	return line{
		Written: l.Written + m.Written, Published: l.Published + m.Published,
		Received: l.Received + m.Received, Duplicates: l.Duplicates + m.Duplicates,
		Effects: l.Effects + m.Effects, Lost: l.Lost + m.Lost,
		Ghosts: l.Ghosts + m.Ghosts, Doubles: l.Doubles + m.Doubles, Inversions: l.Inversions + m.Inversions,
	}
}

func (l line) String() string {
	return fmt.Sprintf("%7d %9d %8d %7d %7d %4d %6d %5d %5d",
		l.Written, l.Published, l.Received, l.Duplicates, l.Effects, l.Lost, l.Ghosts, l.Doubles, l.Inversions)
}
