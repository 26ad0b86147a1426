// Package diagnosis says what is wrong with a system and how to mend it, in the words of `surepost doctor`. The stores and
// package amqp have a Diagnose each, which return findings; a service may print them at its start.
package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity says how bad a finding is. The zero value is Good.
type Severity uint8

const (
	// Good: it was looked at, and is as it should be.
	Good Severity = iota
	// Notice: it works, and somebody should know.
	Notice
	// Warning: it works, and will not for ever.
	Warning
	// Critical: events wait, or would be lost.
	Critical
)

func (s Severity) String() string {
	switch s {
	case Good:
		return "good"
	case Notice:
		return "notice"
	case Warning:
		return "warning"
	}
	return "critical"
}

// MarshalText writes a severity as its String, which is how JSON shows it.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(text []byte) error {
	for known := Good; known <= Critical; known++ {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("diagnosis: %q is no severity: use good, notice, warning or critical", text)
}

// Finding is one thing that was looked at.
type Finding struct {
	// Code names the check for programs, such as "straggler" or "exchange-missing". It never changes.
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	// Subject is what it is about: a lane, a queue, a backend's pid.
	Subject string `json:"subject,omitempty"`
	// Cause says what was found, and Remedy what to do: a command where there is one. Remedy is empty where Severity is Good.
	Cause  string `json:"cause"`
	Remedy string `json:"remedy,omitempty"`
}

// String writes a finding on one line.
func (f Finding) String() string {
	s := f.Severity.String() + ": " + f.Code
	if f.Subject != "" {
		s += ": " + f.Subject
	}
	s += ": " + f.Cause
	if f.Remedy != "" {
		s += ". Remedy: " + f.Remedy
	}
	return s
}

// Worst returns the highest severity among the findings; Good if there are none.
func Worst(findings []Finding) (worst Severity) {
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// Sort puts the worst findings first, and leaves those of one severity in their order.
func Sort(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
}
