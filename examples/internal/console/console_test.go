package console

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestFilesAndPipesGetPlainLines(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var pipe bytes.Buffer
	for _, c := range []*Console{New(file), New(&pipe)} {
		c.Show("on the way")
		c.Say("%s", c.Bold("first\nsecond"))
		c.Done()
	}
	written, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	const want = "   0.0s  first\n         second\n"
	if string(written) != want || pipe.String() != want {
		t.Errorf("the file got %q, the pipe %q, want %q", written, pipe.String(), want)
	}
}

func TestTerminalsLineIsWrittenOver(t *testing.T) {
	var out bytes.Buffer
	c := New(&out)
	c.terminal, c.colour = true, true
	c.Show("on the way")
	c.Say("%s", c.Bold("arrived"))
	c.Done()
	const line = eraseLine + "   0.0s  on the way"
	const want = line + eraseLine + "   0.0s  \x1b[1marrived\x1b[0m\n" + "   0.0s  on the way" + eraseLine
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
