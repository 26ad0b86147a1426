package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// renderReport writes RESULTS.md.
func renderReport(results []result, notes map[string]string) ([]byte, error) {
	if len(results) == 0 {
		return nil, errors.New("no results: run some cases first")
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, "<!-- Written by `make bench` from results.jsonl and notes.md. Don't edit: notes go into notes.md. -->")
	fmt.Fprintln(&b, "# Results")
	fmt.Fprint(&b, `
Each figure was measured in the same run as its reference, in rounds whose order is drawn at random; both are medians.
A ratio above 1 is better than the reference, whatever the unit. The aims are the project's own, set before anything
was measured. What falls short stays in the table, and below it says why.

`)
	for _, env := range environments(results) {
		fmt.Fprintln(&b, env)
	}
	fmt.Fprintln(&b, "\n| case | figure | reference | unit | ratio | aim | met |\n|---|--:|--:|---|--:|---|---|")
	for _, r := range results {
		aim, met := r.verdict()
		if met == "no" {
			met = "**no**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n",
			r.Case, number(r.Figure), number(r.Reference), r.Unit, ratio(r.Ratio), aim, met)
	}
	fmt.Fprintln(&b, "\nPostgreSQL runs with fsync, full_page_writes and synchronous_commit on, and with:")
	for _, kv := range serverSettings {
		fmt.Fprintf(&b, "`%s = %s`\n", kv[0], kv[1])
	}
	fmt.Fprintln(&b, "(so that checkpoints fall between measurements). RabbitMQ runs as it comes. Servers and "+
		"clients share the machine.")
	last := ""
	for _, r := range results {
		if name := caseOf(r); name != last {
			last = name
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", name, comparison(name))
			if note := notes[name]; note != "" {
				fmt.Fprintf(&b, "\n%s\n", note)
			}
		}
		fmt.Fprintf(&b, "\n`%s`\n", r.Case)
		for _, line := range settingLines(r.Settings) {
			key, value, _ := strings.Cut(line, ": ")
			fmt.Fprintf(&b, "- %s: %s\n", strings.ReplaceAll(key, "_", " "), value)
		}
	}
	return b.Bytes(), nil
}

func ratio(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func comparison(name string) string {
	for _, b := range benchmarks {
		if b.name == name {
			return b.compares
		}
	}
	return ""
}

// environments says on what the cases ran, and which ran when and on something else than the rest.
func environments(results []result) (lines []string) {
	cases := map[string][]string{}
	var order []string
	for _, r := range results {
		text, _ := json.Marshal(r.Settings["environment"]) // it came from JSON, or is plain data
		var e environment
		if json.Unmarshal(text, &e) != nil {
			continue
		}
		day, _, _ := strings.Cut(e.Date, " ")
		line := fmt.Sprintf("%s, on %s, %d cores, %g GiB, %s; Go %s, PostgreSQL %s, RabbitMQ %s",
			day, e.CPU, e.Cores, e.MemoryGiB, e.Kernel, strings.TrimPrefix(e.Go, "go"), e.PostgreSQL, e.RabbitMQ)
		if cases[line] == nil {
			order = append(order, line)
		}
		if name := caseOf(r); len(cases[line]) == 0 || cases[line][len(cases[line])-1] != name {
			cases[line] = append(cases[line], name)
		}
	}
	for _, line := range order {
		if len(order) == 1 {
			return []string{"Measured " + line + "."}
		}
		lines = append(lines, "- "+strings.Join(cases[line], ", ")+": "+line)
	}
	return lines
}
