package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

// console tells how a run goes: a line that is written over and over on a terminal, lines now and then elsewhere. It is safe
// for concurrent use.
type console struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	began    time.Time
	shown    string
	next     time.Time
}

const (
	lineInterval = 5 * time.Second
	eraseLine    = "\r\x1b[K" // ECMA-48 §8.3.41, erase in line
)

func newConsole(w io.Writer) *console {
	file, ok := w.(*os.File)
	terminal := ok && isatty.IsTerminal(file.Fd()) && os.Getenv("TERM") != "dumb"
	return &console{w: w, terminal: terminal, began: time.Now(), next: time.Now().Add(lineInterval)}
}

// begin sets the time that lines are told by.
func (c *console) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began = time.Now()
}

// say writes a line that stays.
func (c *console) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write(fmt.Sprintf(format, args...) + "\n")
}

// show shows how far things are.
func (c *console) show(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line := fmt.Sprintf("%6.1fs  ", time.Since(c.began).Seconds()) + fmt.Sprintf(format, args...)
	switch {
	case c.terminal:
		fmt.Fprint(c.w, eraseLine+line)
		c.shown = line
	case time.Now().After(c.next):
		fmt.Fprintln(c.w, line)
		c.next = time.Now().Add(lineInterval)
	}
}

// done takes the line off the terminal.
func (c *console) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = ""
	c.write("")
}

func (c *console) write(text string) {
	if c.terminal {
		text = eraseLine + text + c.shown
	}
	_, _ = io.WriteString(c.w, text)
}
