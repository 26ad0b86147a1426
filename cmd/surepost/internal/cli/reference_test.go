package cli

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the README's reference anew")

const readme, begin, end = "../../README.md", "<!-- The rest is written by: go test ./internal/cli -update -->\n", "<!-- end -->\n"

func TestTheReadmeSaysWhatTheProgramPrints(t *testing.T) {
	data, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the reference", readme)
	}
	want := before + begin + "\n" + Reference() + "\n" + end + after
	if *update {
		if err := os.WriteFile(readme, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(data) != want {
		t.Errorf("the README's reference is out of date: go test ./internal/cli -update")
	}
}

func TestEveryShapeIsDescribed(t *testing.T) {
	for line := range strings.Lines(Reference()) {
		if strings.HasSuffix(strings.TrimSpace(line), "|  |") {
			t.Errorf("a field or a key has no meaning: %s", line)
		}
	}
}

// golden is what a program may rely on. Lines are added here, never removed or changed.
func TestNoFieldOfAShapeIsRenamedOrRemoved(t *testing.T) {
	data, err := os.ReadFile("testdata/fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]bool{}
	for _, f := range fields() {
		now[f] = true
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.TrimSpace(line); !now[f] {
			t.Errorf("%s isn't there any more: programs read it", f)
		}
		delete(now, strings.TrimSpace(line))
	}
	for f := range now {
		t.Errorf("%s is new: add it to testdata/fields.txt, and never change it again", f)
	}
}
