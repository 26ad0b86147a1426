package main

import (
	"github.com/surepost/surepost/examples/internal/console"
)

// show prints the books.
func (b books) show(c *console.Console) {
	c.Print("\n%s", c.Bold("The books, by what is in the databases"))
	c.Print("\norders: %d committed, %d refused and rolled back\n", b.Committed, b.Refused)
	c.Print("%s", c.Faint("                              written  published  received  dropped  effects  lost  ghosts  doubled  inverted"))
	var lost, ghosts, doubles, inversions int
	for _, l := range b.Lines {
		c.Print("%-30s %6d %10d %9d %8d %8d %5d %7d %8d %9d", l.eventType+" → "+l.service,
			l.Written, l.Published, l.Received, l.Duplicates, l.Effects, l.Lost, l.Ghosts, l.Doubles, l.Inversions)
		lost, ghosts, doubles, inversions = lost+l.Lost, ghosts+l.Ghosts, doubles+l.Doubles, inversions+l.Inversions
	}
	c.Print("")
	for _, problem := range b.Problems {
		c.Print("%s %s", c.Red("✗"), problem)
	}
	if len(b.Problems) == 0 {
		c.Print("%s lost %d, ghosts %d, double effects %d, out of order %d: everything is accounted for.", c.Green("✓"), lost, ghosts, doubles, inversions)
	}
}
