package cli

import (
	"bytes"
	"strings"
	"testing"
)

func TestOnATerminalOnlyYesMeansYes(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "YES\n": true, " yes \n": true, "n\n": false, "\n": false, "": false, "yess\n": false} {
		var asked bytes.Buffer
		s := &session{Process: Process{In: strings.NewReader(answer), Err: &asked, InTerminal: true}, grammar: &grammar{}}
		err := s.confirm(consent{}, "drop everything")
		if (err == nil) != want || !strings.Contains(asked.String(), "drop everything") {
			t.Errorf("%q: %v after %q", answer, err, asked.String())
		}
	}
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		env      []string
		want     bool
	}{{true, nil, true}, {false, nil, false}, {true, []string{"NO_COLOR=1"}, false}, {true, []string{"NO_COLOR="}, true}, {true, []string{"TERM=dumb"}, false}} {
		s := &session{Process: Process{OutTerminal: test.terminal, Environment: test.env}}
		if got := s.colour(); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
