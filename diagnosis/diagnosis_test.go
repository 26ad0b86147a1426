package diagnosis

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestTheWorstComesFirst(t *testing.T) {
	findings := []Finding{{Code: "a"}, {Code: "b", Severity: Warning}, {Code: "c", Severity: Critical}, {Code: "d", Severity: Warning}}
	if got := Worst(findings); got != Critical {
		t.Errorf("the worst is %v", got)
	}
	Sort(findings)
	var order string
	for _, f := range findings {
		order += f.Code
	}
	if order != "cbda" {
		t.Errorf("order %s, want cbda", order)
	}
	if got := Worst(nil); got != Good {
		t.Errorf("without findings, the worst is %v", got)
	}
}

func TestAFindingIsReadableAsTextAndAsJSON(t *testing.T) {
	f := Finding{Code: "straggler", Severity: Warning, Subject: "pid 7", Cause: "it is open", Remedy: "end it"}
	if got, want := f.String(), "warning: straggler: pid 7: it is open. Remedy: end it"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (Finding{Code: "clock", Cause: "no skew"}).String(), "good: clock: no skew"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	encoded, err := json.Marshal(f)
	if err != nil || !strings.Contains(string(encoded), `"severity":"warning"`) {
		t.Fatalf("%s, %v", encoded, err)
	}
	var back Finding
	if err := json.Unmarshal(encoded, &back); err != nil || back != f {
		t.Errorf("got %+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"severity":"bad"}`), &back); err == nil || !strings.Contains(err.Error(), "use good, notice") {
		t.Errorf("got %v", err)
	}
}

func TestEveryLimitHasADefaultAndIsChecked(t *testing.T) {
	if l := (Limits{}).WithDefaults(); l.TransactionAge != time.Minute || l.Behind != 30*time.Second || l.ClockSkew != 2*time.Second || l.ConsumerIdle != 168*time.Hour {
		t.Errorf("%+v", l)
	}
	if l := (Limits{Behind: time.Hour}).WithDefaults(); l.Behind != time.Hour {
		t.Errorf("%+v", l)
	}
	err := Limits{TransactionAge: -1, Behind: -1, ClockSkew: -1, ConsumerIdle: -1, Retention: -1, DedupeWindow: -1, RedeliveryHorizon: -1}.Validate()
	if err == nil || strings.Count(err.Error(), "use a positive time") != 7 {
		t.Errorf("got %v", err)
	}
	if err := (Limits{}).Validate(); err != nil {
		t.Error(err)
	}
}
