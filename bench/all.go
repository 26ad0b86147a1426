package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Files in the folder of the report.
const (
	resultsFile = "results.jsonl" // every result, as -json prints it
	reportFile  = "RESULTS.md"    // made of results.jsonl and notes.md
	notesFile   = "notes.md"      // written by hand: what limits a case, under a heading with its name
)

// runAll runs cases, each in a process of its own, keeps their results and writes the report. Results of cases that
// don't run stay as they were. A case that fails doesn't keep the others from running.
func runAll(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench all", flag.ContinueOnError)
	dir := flags.String("dir", "bench", "folder of "+resultsFile+", "+reportFile+" and "+notesFile)
	only := flags.String("only", "", "cases to run, with commas; default all")
	reportOnly := flags.Bool("report", false, "run nothing: write the report anew from the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	results, err := readResults(*dir)
	if err != nil {
		return err
	}
	var failures []error
	if !*reportOnly {
		names, err := chosen(*only)
		if err != nil {
			return err
		}
		for _, name := range names {
			began := time.Now()
			fresh, err := runCase(ctx, name)
			if err != nil {
				failures = append(failures, err)
				continue
			}
			fmt.Fprintf(os.Stderr, "%s took %s\n\n", name, time.Since(began).Round(time.Second))
			results = slices.DeleteFunc(results, func(r result) bool { return caseOf(r) == name })
			results = append(results, fresh...)
			if err := writeResults(*dir, results); err != nil { // at once: an interrupt loses only the case it interrupts
				return err
			}
		}
	}
	notes, err := readNotes(*dir)
	if err != nil {
		return err
	}
	report, err := renderReport(results, notes)
	if err != nil {
		return err
	}
	failures = append(failures, os.WriteFile(filepath.Join(*dir, reportFile), report, 0o644))
	return errors.Join(failures...)
}

func chosen(only string) (names []string, err error) {
	for _, b := range benchmarks {
		names = append(names, b.name)
	}
	if only == "" {
		return names, nil
	}
	wanted := strings.Split(only, ",")
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return nil, fmt.Errorf("no case %q; %s", w, usage())
		}
	}
	return wanted, nil
}

// runCase runs a case in a process of its own, so that nothing of an earlier one is left in memory.
func runCase(ctx context.Context, name string) ([]result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	process := exec.CommandContext(ctx, self, name, "-json")
	process.Stdout, process.Stderr = &out, os.Stderr
	process.Cancel = func() error { return process.Process.Signal(os.Interrupt) } // it ends its servers
	process.WaitDelay = time.Minute
	if err := process.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return parseResults(&out)
}

// caseOf is the case that a result belongs to: "write/8" is one of write.
func caseOf(r result) string {
	name, _, _ := strings.Cut(r.Case, "/")
	return name
}

func readResults(dir string) ([]result, error) {
	text, err := os.ReadFile(filepath.Join(dir, resultsFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseResults(bytes.NewBuffer(text))
}

func parseResults(text *bytes.Buffer) (results []result, err error) {
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%.80s…: %w", lines.Bytes(), err)
		}
		results = append(results, r)
	}
	return results, lines.Err()
}

func writeResults(dir string, results []result) error {
	order := map[string]int{}
	for i, b := range benchmarks {
		order[b.name] = i
	}
	slices.SortStableFunc(results, func(a, b result) int { return order[caseOf(a)] - order[caseOf(b)] })
	var text bytes.Buffer
	if err := printJSON(&text, results); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, resultsFile), text.Bytes(), 0o644)
}

// readNotes reads the hand-written notes: the text under each heading "## CASE".
func readNotes(dir string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, notesFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	notes := map[string]string{}
	for _, section := range strings.Split("\n"+string(text), "\n## ")[1:] {
		name, note, _ := strings.Cut(section, "\n")
		name = strings.TrimSpace(name)
		if !slices.ContainsFunc(benchmarks, func(b benchmark) bool { return b.name == name }) {
			return nil, fmt.Errorf("%s has a note on %q, which is no case: %s", notesFile, name, usage())
		}
		notes[name] = strings.TrimSpace(note)
	}
	return notes, nil
}
