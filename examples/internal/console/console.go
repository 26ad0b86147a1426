// Package console tells on the terminal what an example is at.
package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

// Console tells what happens: a line that is written over and over on a terminal, lines now and then elsewhere.
// Times are since the start. It is safe for concurrent use, and the services' logs go through it, so that they don't
// end up in the line.
type Console struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool // lines can be written over
	colour   bool
	began    time.Time
	shown    string // the line that stands on the terminal
	next     time.Time
}

// lineInterval is how often progress is told where lines can't be written over.
const lineInterval = 5 * time.Second

// New returns a console on w. Lines are written over, and coloured unless NO_COLOR is set (no-color.org), only if w is
// a terminal: a pipe or a file gets plain lines.
func New(w io.Writer) *Console {
	file, ok := w.(*os.File)
	terminal := ok && isatty.IsTerminal(file.Fd()) && os.Getenv("TERM") != "dumb"
	return &Console{
		w: w, terminal: terminal, colour: terminal && os.Getenv("NO_COLOR") == "",
		began: time.Now(), next: time.Now().Add(lineInterval),
	}
}

const eraseLine = "\r\x1b[K" // ECMA-48 §8.3.41, erase in line

// Say writes lines that stay, the first one with the time.
func (c *Console) Say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamp := c.stamp()
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n"+strings.Repeat(" ", len(stamp)))
	c.write(stamp + text + "\n")
}

// Print writes a line that stays, without the time.
func (c *Console) Print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write(fmt.Sprintf(format, args...) + "\n")
}

// Show shows how far things are.
func (c *Console) Show(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line := c.stamp() + fmt.Sprintf(format, args...)
	switch {
	case c.terminal:
		fmt.Fprint(c.w, eraseLine+line)
		c.shown = line
	case time.Now().After(c.next):
		fmt.Fprintln(c.w, line)
		c.next = time.Now().Add(lineInterval)
	}
}

// Done takes the line off the terminal.
func (c *Console) Done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = ""
	c.write("")
}

// Write takes the services' logs.
func (c *Console) Write(log []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write(string(log))
	return len(log), nil
}

func (c *Console) write(text string) {
	if c.terminal {
		text = eraseLine + text + c.shown
	}
	_, _ = io.WriteString(c.w, text)
}

func (c *Console) stamp() string { return fmt.Sprintf("%6.1fs  ", time.Since(c.began).Seconds()) }

// Bold, Green, Red and Faint return text in that style, or as it is where there are no colours.
func (c *Console) Bold(text string) string  { return c.style("1", text) }
func (c *Console) Green(text string) string { return c.style("32", text) }
func (c *Console) Red(text string) string   { return c.style("31", text) }
func (c *Console) Faint(text string) string { return c.style("2", text) }

// style selects a graphic rendition (ECMA-48 §8.3.117).
func (c *Console) style(code, text string) string {
	if !c.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
