package relay

import (
	"context"
	"errors"
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

// slowLog is a log whose reads take until they are told to end, whatever their context says.
type slowLog struct {
	brokenLog
	end chan struct{}
}

func (l *slowLog) Read(context.Context, int) (Page, error) {
	<-l.end
	return Page{}, nil
}

// A log that was given up is closed when the call that uses it has ended, and not before: two calls at once may break it.
func TestALogThatWasGivenUpIsClosedAfterItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &slowLog{end: make(chan struct{})}
		l.failed.Store(true) // what is asked of it is counted from now on
		c, began := newClerk(t.Context(), l, time.Second), time.Now()
		c.read(1)
		c.store(settlement{at: 1})
		if result := <-c.results; !errors.Is(result.err, errLogHangs) || time.Since(began) != time.Second+abandonAfter {
			t.Errorf("after %v: %v, want %v after %v", time.Since(began), result.err, errLogHangs, time.Second+abandonAfter)
		}
		synctest.Wait()
		select {
		case <-c.done:
		default:
			t.Error("who closes the clerk would wait for the log")
		}
		if n := l.closed.Load(); n != 0 {
			t.Errorf("it was closed %d times while it was read", n)
		}
		close(l.end)
		synctest.Wait()
		if n, used := l.closed.Load(), l.used.Load(); n != 1 || used != 0 || len(c.results) != 0 {
			t.Errorf("then it was closed %d times and used %d times, and %d results came late; want 1, 0 and 0", n, used, len(c.results))
		}
		c.close()
	})
}

// An answer that comes when the time has just run out is the request's all the same.
func TestAnAnswerAtTheLastMomentCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &slowLog{end: make(chan struct{})}
		c := newClerk(t.Context(), l, time.Second)
		c.read(1)
		time.AfterFunc(time.Second+abandonAfter/2, func() { close(l.end) })
		if result := <-c.results; result.err != nil || result.of != clerkRead {
			t.Errorf("%+v", result)
		}
		c.close()
		if n := l.closed.Load(); n != 1 {
			t.Errorf("closed %d times", n)
		}
	})
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
