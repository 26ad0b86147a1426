package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/relay"
)

// The exit codes. They are documented in the README, and never change.
const (
	exitOK       = 0
	exitFailure  = 1 // it was tried and failed
	exitUsage    = 2 // the command line or the configuration is wrong, or the store can't do this; nothing was tried
	exitHalted   = 3 // the relay stopped because of something that time doesn't mend
	exitWarning  = 4 // doctor has found a warning
	exitCritical = 5 // doctor has found something critical
	ExitSignal   = 128
)

// fault is an error with its remedy and the exit code that it makes.
type fault struct {
	what, remedy string
	code         int
	cause        error
}

func (f *fault) Error() string {
	if f.remedy == "" {
		return f.what
	}
	return f.what + ": " + f.remedy
}

func (f *fault) Unwrap() error { return f.cause }

func usage(what, remedy string) error { return &fault{what: what, remedy: remedy, code: exitUsage} }

func failed(what, remedy string) error { return &fault{what: what, remedy: remedy, code: exitFailure} }

// quiet ends with a code and says nothing more.
type quiet int

func (q quiet) Error() string { return fmt.Sprintf("exit code %d", int(q)) }

// fail tells an error and returns its exit code.
func (s *session) fail(err error) int {
	var q quiet
	if errors.As(err, &q) {
		return int(q)
	}
	told := Failure{Error: err.Error()}
	code := exitFailure
	var f *fault
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		code = exitUsage
		told = Failure{Error: fmt.Sprintf("the configuration has %s", plural(len(problems), "problem")),
			Remedy: "correct it; surepost config check looks at all of it", Problems: problems}
	case errors.As(err, &f):
		told, code = Failure{Error: f.what, Remedy: f.remedy}, f.code
	case errors.Is(err, relay.ErrHalt):
		code = exitHalted
	}
	told.Error, told.Remedy = s.inKeys(told.Error), s.inKeys(told.Remedy)
	s.tell(s.Err, told)
	return code
}

func (s *session) tell(w io.Writer, f Failure) {
	f.Error, f.Remedy, f.Problems = config.MaskText(f.Error), config.MaskText(f.Remedy), slices.Clone(f.Problems)
	for i := range f.Problems {
		f.Problems[i].Message = config.MaskText(f.Problems[i].Message)
	}
	if s.grammar.JSON {
		line, err := json.Marshal(f)
		if err == nil {
			fmt.Fprintf(w, "%s\n", line)
			return
		}
	}
	fmt.Fprintf(w, "surepost: %s", f.Error)
	if len(f.Problems) > 0 {
		fmt.Fprintln(w, ":")
		for _, p := range f.Problems {
			fmt.Fprintln(w, "  "+p.String())
		}
		return
	}
	if f.Remedy != "" {
		fmt.Fprintf(w, ": %s", f.Remedy)
	}
	fmt.Fprintln(w)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
