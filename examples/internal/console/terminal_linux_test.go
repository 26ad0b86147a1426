package console

import (
	"os"
	"strings"
	"testing"
)

func TestColoursAreForTerminalsAndCanBeRefused(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("a pseudo-terminal is needed: %v", err)
	}
	defer terminal.Close()
	t.Setenv("TERM", "xterm")
	for _, refused := range []bool{false, true} {
		if refused {
			t.Setenv("NO_COLOR", "1")
		} else {
			t.Setenv("NO_COLOR", "")
		}
		c := New(terminal)
		if !c.terminal {
			t.Error("a terminal isn't taken for one")
		}
		if coloured := strings.Contains(c.Green("x"), "\x1b"); coloured == refused {
			t.Errorf("NO_COLOR set: %v, coloured: %v", refused, coloured)
		}
	}
	t.Setenv("TERM", "dumb")
	if New(terminal).terminal {
		t.Error("a dumb terminal is taken for one that can write lines over")
	}
}
