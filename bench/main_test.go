package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// Workers are processes of this program; in a test that is the test binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == workerCommand {
		if err := run(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Every case runs and says what it must; its figures are nothing to be tested.
func TestCasesRun(t *testing.T) {
	servers, err := startServers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer servers.close()
	for _, b := range benchmarks {
		t.Run(b.name, func(t *testing.T) {
			o := b.smoke
			o.servers = &servers
			results, err := b.measure(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, r := range results {
				if r.Case != b.name && !strings.HasPrefix(r.Case, b.name+"/") || seen[r.Case] {
					t.Errorf("the case is called %q", r.Case)
				}
				seen[r.Case] = true
				checkJSON(t, r)
			}
			if len(results) == 0 {
				t.Error("no figure")
			}
		})
	}
}

// checkJSON checks that a result is an object with the promised keys, and none of them empty.
func checkJSON(t *testing.T, r result) {
	t.Helper()
	var line bytes.Buffer
	if err := printJSON(&line, []result{r}); err != nil {
		t.Fatal(err)
	}
	if strings.Count(line.String(), "\n") != 1 {
		t.Errorf("not one line: %s", &line)
	}
	var object map[string]any
	if err := json.Unmarshal(line.Bytes(), &object); err != nil {
		t.Fatal(err)
	}
	keys := slices.Sorted(maps.Keys(object))
	if want := []string{"case", "figure", "ratio", "reference", "settings", "unit"}; !slices.Equal(keys, want) {
		t.Errorf("the keys are %v, want %v", keys, want)
	}
	if r.Unit == "" || len(r.Settings) == 0 {
		t.Errorf("incomplete: %s", &line)
	}
}

func TestBadUsageIsExplained(t *testing.T) {
	for want, args := range map[string][]string{
		"the cases are: drain": nil,
		`no case "nonsense"`:   {"nonsense"},
		"must be positive":     {"drain", "-n", "-1"},
		"not defined: -x":      {"drain", "-x"},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{1: {1}, 2: {3, 1, 2}, 2.5: {4, 1, 3, 2}} {
		if got := median(values); got != want {
			t.Errorf("%v: %v", values, got)
		}
	}
}

// What was written by hand outlives a new run, and what falls short is shown.
func TestTheReportShowsFiguresNotesAndMisses(t *testing.T) {
	env := environment{Date: "2026-01-02 03:04 UTC", CPU: "a processor", Cores: 2, Go: "go1.26.0"}
	settings := func() map[string]any { return map[string]any{"environment": env, "rounds": 3} }
	dir := t.TempDir()
	err := writeResults(dir, []result{
		newCost("wal/1", "bytes/event", 650, 1000, settings()).atMost(640),
		newRate("drain", "events/s", 1200, 1000, settings()).atLeast(1.1),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/"+notesFile, []byte("# Notes\n\n## wal\n\nTwo indexes.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"all", "-dir", dir, "-report"}); err != nil {
		t.Fatal(err)
	}
	report, err := os.ReadFile(dir + "/" + reportFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Measured 2026-01-02, on a processor, 2 cores",
		"| drain | 1200 | 1000 | events/s | 1.20 | ratio ≥ 1.1 | yes |\n| wal/1 | 650 | 1000 | bytes/event | 1.54 " +
			"| figure ≤ 640 bytes/event | **no** |",
		"\nTwo indexes.\n",
		drain.compares,
	} {
		if !strings.Contains(string(report), want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	if err := os.WriteFile(dir+"/"+notesFile, []byte("## nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"all", "-dir", dir, "-report"}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a note on no case: %v", err)
	}
}
