package main

import (
	"strings"
	"testing"
)

// The cases run; their figures are nothing to be tested.
func TestCasesRun(t *testing.T) {
	for name, run := range cases {
		r, err := run(t.Context(), options{events: 500, rounds: 1})
		if err != nil || r.Figure <= 0 || r.Reference <= 0 || r.Ratio <= 0 || r.Unit == "" || len(r.Settings) == 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestBadUsageIsExplained(t *testing.T) {
	for _, args := range [][]string{nil, {"nonsense"}, {"drain", "-n", "0"}} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), "drain") && !strings.Contains(err.Error(), "positive") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
