package main

import (
	"reflect"
	"testing"
	"time"
)

func planned(seed uint64, duration time.Duration) (lines []string) {
	for _, f := range plan(seed, duration, defaultEvery, nil) {
		lines = append(lines, f.String())
	}
	return lines
}

func TestASeedIsAPlan(t *testing.T) {
	if a, b := planned(7, 2*time.Minute), planned(7, 2*time.Minute); !reflect.DeepEqual(a, b) {
		t.Errorf("one seed, two plans:\n%q\n%q", a, b)
	}
	if a, b := planned(7, 2*time.Minute), planned(8, 2*time.Minute); reflect.DeepEqual(a, b) {
		t.Error("two seeds, one plan")
	}
}

// Two faults that would undo each other never overlap, and the first seconds and the last moments are in peace.
func TestFaultsDontUndoEachOther(t *testing.T) {
	for seed := range uint64(200) {
		busy := map[string]time.Duration{}
		for _, f := range plan(seed, 3*time.Minute, time.Second, nil) {
			if f.at < planBegin || f.at >= 3*time.Minute-planEnd {
				t.Errorf("seed %d: %s", seed, f)
			}
			for _, name := range f.resources() {
				if busy[name] > f.at {
					t.Errorf("seed %d: %s comes while its target is busy until %v", seed, f, busy[name])
				}
				busy[name] = f.at + f.lasts
			}
		}
	}
}

// A minute has what hurts most, and a run of two minutes every kind there is, nearly always; two minutes-long runs of CI have 40
// faults and more.
func TestAMinuteHasWhatHurtsMost(t *testing.T) {
	every := 0
	const seeds = 200
	for seed := range uint64(seeds) {
		minute := map[string]int{}
		faults := plan(seed, time.Minute, defaultEvery, nil)
		for _, f := range faults {
			minute[f.kind.name]++
		}
		if len(faults) < 30 {
			t.Errorf("seed %d has %d faults in a minute, want 30 at least", seed, len(faults))
		}
		if minute["postgres-crash"]+minute["postgres-immediate-shutdown"] == 0 || minute["rabbitmq-crash"] == 0 {
			t.Errorf("seed %d crashes no server of a kind in a minute: %v", seed, minute)
		}
		kindsSeen := map[string]bool{}
		for _, f := range plan(seed, 2*time.Minute, defaultEvery, nil) {
			kindsSeen[f.kind.name] = true
		}
		if len(kindsSeen) == len(kinds) {
			every++
		}
	}
	if every < seeds*9/10 {
		t.Errorf("%d of %d seeds have every kind of fault in two minutes", every, seeds)
	}
}

// Every kind that can be planned can be told, and hits something.
func TestEveryKindHasATarget(t *testing.T) {
	for _, k := range kinds {
		for _, f := range plan(1, time.Minute, defaultEvery, []string{k.name}) {
			if f.kind.name != k.name || f.target == "" || len(f.resources()) == 0 {
				t.Errorf("%+v", f)
			}
		}
	}
}
