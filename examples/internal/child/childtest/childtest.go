// Package childtest looks for processes that should have ended.
package childtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surepost/surepost/examples/internal/child"
)

// Left returns the command lines of services that this program has started and that still run. Where there is no /proc
// it finds none.
func Left(tb testing.TB) []string {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		tb.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		line, _ := os.ReadFile(path) // it may have ended meanwhile
		if args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"); args[0] == self && child.Is(args) {
			found = append(found, strings.Join(args, " "))
		}
	}
	return found
}
