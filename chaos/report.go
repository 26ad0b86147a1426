package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// report is the outcome of a run.
type report struct {
	Seed     uint64  `json:"seed"`
	Duration float64 `json:"duration_seconds"`
	Planted  string  `json:"planted,omitempty"`

	Faults       int            `json:"faults"` // that took place
	FaultsByKind map[string]int `json:"faults_by_kind"`
	CameToNone   int            `json:"faults_that_found_nothing"` // such as a process that was dead already
	Starts       int            `json:"process_starts"`
	Emptied      int            `json:"leaves_emptied"` // of the log's ring

	Committed int64 `json:"committed"` // events, by the ledger
	Effects   int64 `json:"effects"`   // by the ledger
	Poisoned  int64 `json:"poisoned"`  // events that had to be dead-lettered
	Copies    int64 `json:"copies_dropped"`

	Lost             int `json:"lost"`
	Ghosts           int `json:"ghosts"`
	Double           int `json:"double"`
	MissingFollowUps int `json:"missing_follow_ups"`
	Inversions       int `json:"inversions"`
	Stuck            int `json:"stuck"`
	DeadLettered     int `json:"dead_lettered"` // without cause
	Parked           int `json:"parked"`        // …
	Altered          int `json:"altered"`
	Gaps             int `json:"ledger_gaps"`
	Forgotten        int `json:"forgotten_commits"`
	EndedThemselves  int `json:"processes_ended_by_themselves"`
	Unmended         int `json:"faults_not_undone"`

	// RecoverSeconds is the time from the end of the last fault, or of the work if that came later, until nothing was left to
	// be published and all effects were there. Null: that never came.
	RecoverSeconds *float64 `json:"recover_seconds"`

	Violations []string `json:"violations"` // the first of each sort, in words
	Logs       string   `json:"logs,omitempty"`
}

// shownOfEach is how many violations of one sort are told in words.
const shownOfEach = 5

// count enters a sort of violation.
func (r *report) count(into *int, sort string, found []string) {
	*into = len(found)
	for _, text := range found[:min(len(found), shownOfEach)] {
		r.Violations = append(r.Violations, sort+": "+text)
	}
	if more := len(found) - shownOfEach; more > 0 {
		r.Violations = append(r.Violations, fmt.Sprintf("%s: … and %d more", sort, more))
	}
}

func (r *report) take(v verdict) {
	r.count(&r.Lost, "lost", v.lost)
	r.count(&r.Ghosts, "ghost", v.ghosts)
	r.count(&r.Double, "double", v.double)
	r.count(&r.MissingFollowUps, "missing follow-up", v.missingFollowUps)
	r.count(&r.Inversions, "inversion", v.inversions)
	r.count(&r.Stuck, "stuck", v.stuck)
	for _, text := range v.waiting {
		r.Violations = append(r.Violations, "stuck, because: "+text)
	}
	r.count(&r.DeadLettered, "dead-lettered without cause", v.deadLettered)
	r.count(&r.Parked, "parked without cause", v.parked)
	r.count(&r.Altered, "altered", v.altered)
	r.count(&r.Gaps, "gap in the ledger", v.gaps)
	r.count(&r.Forgotten, "forgotten commit", v.forgotten)
}

func (r *report) passed() bool { return len(r.Violations) == 0 }

func (r *report) writeJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// command is how to run the same again.
func (r *report) command(o options) string {
	words := []string{"go run ./chaos", "-seed", fmt.Sprint(r.Seed), "-duration", o.duration.String()}
	if o.every != defaultEvery {
		words = append(words, "-every", o.every.String())
	}
	if o.rate != defaultRate {
		words = append(words, "-rate", fmt.Sprint(o.rate))
	}
	if len(o.only) > 0 {
		words = append(words, "-only", strings.Join(o.only, ","))
	}
	if o.planted != "" {
		words = append(words, "-planted", o.planted)
	}
	return strings.Join(words, " ")
}

func (r *report) writeText(w io.Writer, o options) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("")
	line("%d faults in %v, seed %d", r.Faults, time.Duration(r.Duration*float64(time.Second)).Round(time.Second), r.Seed)
	kinds := slices.SortedFunc(maps.Keys(r.FaultsByKind), func(a, b string) int {
		if by := r.FaultsByKind[b] - r.FaultsByKind[a]; by != 0 {
			return by
		}
		return strings.Compare(a, b)
	})
	for rest := kinds; len(rest) > 0; {
		var some []string
		for len(rest) > 0 && len(some) < 5 {
			some, rest = append(some, fmt.Sprintf("%d × %s", r.FaultsByKind[rest[0]], rest[0])), rest[1:]
		}
		line("    %s", strings.Join(some, ", "))
	}
	line("%d events committed, %d effects, %d copies dropped, %d leaves of the log emptied, %d process starts",
		r.Committed, r.Effects, r.Copies, r.Emptied, r.Starts)
	if r.RecoverSeconds != nil {
		line("all effects were there %.1f s after the last fault", *r.RecoverSeconds)
	}
	line("")
	for _, n := range []struct {
		what  string
		count int
	}{
		{"lost", r.Lost}, {"ghosts", r.Ghosts}, {"double effects", r.Double}, {"missing follow-ups", r.MissingFollowUps},
		{"inversions per key", r.Inversions}, {"stuck keys", r.Stuck}, {"dead-lettered without cause", r.DeadLettered},
		{"parked without cause", r.Parked}, {"altered", r.Altered}, {"gaps in the ledger", r.Gaps},
		{"forgotten commits", r.Forgotten}, {"processes that ended by themselves", r.EndedThemselves},
		{"faults that could not be undone", r.Unmended},
	} {
		line("%8d  %s", n.count, n.what)
	}
	line("")
	if r.passed() {
		line("PASSED: every committed event had its effects, once and in order")
	} else {
		line("FAILED")
		for _, text := range r.Violations {
			line("    %s", text)
		}
		line("again: %s", r.command(o))
	}
	if r.Logs != "" {
		line("logs:  %s", r.Logs)
	}
}
