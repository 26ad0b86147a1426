// Package diagnosis says what is wrong with a system and how to mend it, in the words of `surepost doctor`. The stores and
// package amqp have a Diagnose each, which return findings; a service may print them at its start.
package diagnosis

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

// Finding is one thing that was looked at.
type Finding struct {
	// Code names the check for programs, such as "straggler" or "exchange-missing". It never changes.
	Code     string
	Severity Severity
	// Subject is what it is about: a lane, a queue, a backend's pid.
	Subject string
	// Cause says what was found, and Remedy what to do: a command where there is one. Remedy is empty where Severity is Good.
	Cause, Remedy string
}
