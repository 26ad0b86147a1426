package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Key     string `json:"key,omitempty"`
	Origin  Origin `json:"origin"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Origin.Place != "" {
		fmt.Fprintf(&b, "%s: ", p.Origin.Place)
	}
	if p.Key != "" {
		b.WriteString(p.Key)
		if !strings.HasPrefix(p.Message, "[") { // of a list's item
			b.WriteByte(' ')
		}
	}
	return b.String() + p.Message + ": " + p.Remedy
}

// Problems is every problem of a configuration, as an error.
type Problems []Problem

func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems:", len(p))
	for _, problem := range p {
		b.WriteString("\n  " + problem.String())
	}
	return b.String()
}

// Add adds problems that were found later, but for those of keys of which one is known: the first has caused the second.
func (p Problems) Add(later Problems) Problems {
	known := map[string]bool{}
	for _, problem := range p {
		key, _, _ := strings.Cut(problem.Key, "[")
		known[key] = true
	}
	for _, problem := range later {
		if problem.Key == "" || !known[problem.Key] {
			p = append(p, problem)
		}
	}
	return p
}

// OrNil returns the problems as an error: nil if there are none.
func (p Problems) OrNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}
