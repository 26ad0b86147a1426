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
