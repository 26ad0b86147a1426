package relay

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// brokenLog is a log whose reads fail after a while.
type brokenLog struct {
	Log
	used, closed atomic.Int64 // after the read had failed
	failed       atomic.Bool
}

func (l *brokenLog) Read(context.Context, int) (Page, error) {
	time.Sleep(time.Millisecond)
	l.failed.Store(true)
	return Page{}, errInjected
}

func (l *brokenLog) Checkpoint(context.Context, Position, []Parked) error {
	if l.failed.Load() {
		l.used.Add(1)
	}
	return nil
}

func (l *brokenLog) Close(context.Context) error {
	l.closed.Add(1)
	return nil
}

// Log: after any error it is of no use any more. A checkpoint may have been asked for while a read was under way that fails.
func TestALogThatFailedIsNotUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &brokenLog{}
		c := newClerk(t.Context(), l, time.Second)
		c.read(1)
		c.store(settlement{at: 1})
		if result := <-c.results; result.err == nil {
			t.Error("the read didn't fail")
		}
		time.Sleep(time.Second)
		c.close()
		if l.used.Load() != 0 || l.closed.Load() != 1 {
			t.Errorf("after its error the log was used %d times and closed %d times, want 0 and 1", l.used.Load(), l.closed.Load())
		}
	})
}
