package main

import "sync"

// logs keep the end of what the services log, to be shown if something goes wrong. On a good run the story is enough.
type logs struct {
	mu   sync.Mutex
	last []byte
}

const mostLogBytes = 16 << 10

// Write implements io.Writer. It is called by several goroutines.
func (l *logs) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last, text...)
	l.last = l.last[max(0, len(l.last)-mostLogBytes):]
	return len(text), nil
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.last)
}
