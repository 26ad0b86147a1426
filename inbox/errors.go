package inbox

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Permanent marks a failure that trying again can't mend, such as an order for a product that doesn't exist. A
// handler returns it to send the event to the dead-letter queue at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether err, or an error that it wraps, was marked with [Permanent].
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// PanicError is a handler's panic.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("the handler panicked: %v", e.Value) }

func panicked(value any) error { return &PanicError{Value: value, Stack: debug.Stack()} }
