package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress tells what happens: a line that is written over and over on a terminal, lines now and then elsewhere.
// Times are since the start. It is safe for concurrent use, and the services' logs go through it, so that they don't
// end up in the line.
type progress struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	began    time.Time
	shown    string // the line that stands on the terminal
	next     time.Time
}

// lineInterval is how often progress is told where lines can't be written over.
const lineInterval = 5 * time.Second

func newProgress(w io.Writer) *progress {
	return &progress{w: w, terminal: isTerminal(w), began: time.Now(), next: time.Now().Add(lineInterval)}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

const eraseLine = "\r\x1b[K" // ECMA-48 §8.3.41, erase in line

// say writes a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(p.stamp() + fmt.Sprintf(format, args...) + "\n")
}

// show shows how far things are.
func (p *progress) show(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.stamp() + fmt.Sprintf(format, args...)
	switch {
	case p.terminal:
		fmt.Fprint(p.w, eraseLine+line)
		p.shown = line
	case time.Now().After(p.next):
		fmt.Fprintln(p.w, line)
		p.next = time.Now().Add(lineInterval)
	}
}

// done takes the line off the terminal.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown = ""
	p.write("")
}

// Write takes the services' logs.
func (p *progress) Write(log []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(string(log))
	return len(log), nil
}

func (p *progress) write(text string) {
	if p.terminal {
		text = eraseLine + text + p.shown
	}
	_, _ = io.WriteString(p.w, text)
}

func (p *progress) stamp() string { return fmt.Sprintf("%6.1fs  ", time.Since(p.began).Seconds()) }
