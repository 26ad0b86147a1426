package surepost

import (
	"errors"
	"strconv"
	"strings"
)

// ErrInvalidEvent is what every error about an event's content matches with errors.Is: the fault is in the event, and
// trying again with the same event can't help.
var ErrInvalidEvent = errors.New("invalid event")

// FieldError says what is wrong with one field and what to do about it.
type FieldError struct {
	Field   string // name of the Go field: "Type", `Headers["tenant"]`
	Problem string // what is wrong, with the limit and the value found
	Remedy  string // what to change
	Err     error  // the cause, if there is one
}

func (e *FieldError) Error() string {
	return e.Field + " " + e.Problem + ": " + e.Remedy
}

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// Is makes every FieldError match [ErrInvalidEvent].
func (e *FieldError) Is(target error) bool { return target == ErrInvalidEvent }

// EventError collects everything that is wrong with one event.
type EventError struct {
	Index  int           // the event's place in the call, from 0
	ID     string        // as the caller gave it; empty if none was given
	Type   string        // as the caller gave it
	Fields []*FieldError // at least one
}

func (e *EventError) Error() string {
	var b strings.Builder
	b.WriteString("surepost: event ")
	switch {
	case e.ID != "":
		b.WriteString(quoteShort(e.ID))
	default:
		b.WriteString("#" + strconv.Itoa(e.Index))
	}
	if e.Type != "" {
		b.WriteString(" of type " + quoteShort(e.Type))
	}
	b.WriteString(": ")
	for i, f := range e.Fields {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Error())
	}
	return b.String()
}

// Unwrap returns the field errors.
func (e *EventError) Unwrap() []error {
	errs := make([]error, len(e.Fields))
	for i, f := range e.Fields {
		errs[i] = f
	}
	return errs
}
