package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// outcome is a whole run: the reconciliation, and how it came about.
type outcome struct {
	table
	Copies int64         // messages that were put into queues a second time on purpose
	Took   time.Duration // from the first order posted until everything was settled
}

// writeJSON writes the outcome as one line. Received, duplicates and effects are those of the way from an order to
// its stock; inversions, lost and ghosts are those of all paths.
func (o outcome) writeJSON(w io.Writer) error {
	stock := o.Paths[0]
	inversions := 0
	for _, p := range o.Paths {
		inversions += p.Inversions
	}
	return json.NewEncoder(w).Encode(struct {
		Committed  int     `json:"committed"`
		Logged     int     `json:"logged"`
		Received   int     `json:"received"`
		Duplicates int     `json:"duplicates"`
		Effects    int     `json:"effects"`
		Inversions int     `json:"inversions"`
		Lost       int     `json:"lost"`
		Ghosts     int     `json:"ghosts"`
		Seconds    float64 `json:"seconds"`
	}{
		o.Committed, stock.Logged, stock.Received, stock.Duplicates, stock.Effects, inversions, o.Lost, o.Ghosts,
		math.Round(o.Took.Seconds()*10) / 10,
	})
}

// writeTable writes the outcome for people.
func (o outcome) writeTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\norders committed %s, refused and rolled back %s; messages re-delivered on purpose %s\n\n",
		thousands(o.Committed), thousands(o.Refused), thousands(o.Copies))
	fmt.Fprintf(&b, "%-30s %8s %9s %11s %8s %9s %5s %7s %11s\n", "", "logged", "received", "duplicates", "effects", "repeated", "lost", "ghosts", "inversions")
	for _, p := range o.Paths {
		fmt.Fprintf(&b, "%-30s %8s %9s %11s %8s %9s %5s %7s %11s\n", p.EventType+" → "+p.Consumer,
			thousands(p.Logged), thousands(p.Received), thousands(p.Duplicates), thousands(p.Effects),
			thousands(p.Repeated), thousands(p.Lost), thousands(p.Ghosts), thousands(p.Inversions))
	}
	fmt.Fprintf(&b, "\n%-30s %8s %9s %11s\n", "stock", "sold", "expected", "found")
	for _, line := range o.Stock {
		remark := ""
		if line.Expected != line.Found {
			remark = "  ← off by " + thousands(line.Found-line.Expected)
		}
		fmt.Fprintf(&b, "%-30s %8s %9s %11s%s\n", line.SKU, thousands(line.Sold), thousands(line.Expected), thousands(line.Found), remark)
	}
	if len(o.Problems) == 0 {
		fmt.Fprintf(&b, "\nAll is accounted for: lost %d, ghosts %d, in %.1f s.\n", o.Lost, o.Ghosts, o.Took.Seconds())
	} else {
		fmt.Fprintf(&b, "\nSomething is off: lost %s, ghosts %s, in %.1f s.\n", thousands(o.Lost), thousands(o.Ghosts), o.Took.Seconds())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// thousands writes a number with commas: 20,000.
func thousands[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}
