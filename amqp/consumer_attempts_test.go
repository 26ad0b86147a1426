package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surepost/surepost"
)

// countingLedger is a ledger that counts attempts in memory, as a database would.
type countingLedger struct {
	*batchLedger

	mu                sync.Mutex
	started, finished map[string]int
	calls             []string
	startErr, endErr  error
}

var _ AttemptCounter = (*countingLedger)(nil)

func newCountingLedger(t *testing.T, work func(context.Context, surepost.Event) error) *countingLedger {
	return &countingLedger{batchLedger: newBatchLedger(t, work), started: map[string]int{}, finished: map[string]int{}}
}

func (c *countingLedger) StartAttempt(ctx context.Context, id string, limit int) (int, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "start "+id)
	unfinished := c.started[id] - c.finished[id]
	if c.startErr == nil && unfinished < limit {
		c.started[id]++
	}
	return unfinished, c.startErr
}

func (c *countingLedger) FinishAttempt(ctx context.Context, id string, _ error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "finish "+id)
	if c.endErr == nil {
		c.finished[id]++
	}
	return c.endErr
}

func (c *countingLedger) ForgetAttempts(ctx context.Context, id string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "forget "+id)
	if c.endErr == nil {
		delete(c.started, id)
		delete(c.finished, id)
	}
	return c.endErr
}

// putAgain adds redelivered events, of which so many attempts were never finished.
func (c *countingLedger) putAgain(q *fakeQueue, key string, unfinished int, numbers ...int) {
	q.put(key, numbers...)
	for i := len(q.waiting) - len(numbers); i < len(q.waiting); i++ {
		q.waiting[i].Redelivered = true
		if unfinished > 0 {
			c.started[q.waiting[i].MessageId] = unfinished
		}
	}
}

// begun returns how many events with an unfinished attempt are being attempted again.
func (c *countingLedger) begun() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.started {
		if c.started[id]-c.finished[id] > 1 {
			n++
		}
	}
	return n
}

// TestOnlyRedeliveredMessagesAreCounted, started before the handler and forgotten after it.
func TestOnlyRedeliveredMessagesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *countingLedger
		l = newCountingLedger(t, func(_ context.Context, e surepost.Event) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.calls = append(l.calls, "handle "+e.ID)
			return nil
		})
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		q.put("a", 2)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		want := []string{"start a/1", "handle a/1", "forget a/1", "handle a/2"}
		if !slices.Equal(l.calls, want) {
			t.Errorf("calls %v, want %v", l.calls, want)
		}
		stop()
	})
}

// TestAFailureIsAFinishedAttempt: an event that fails often is no killer, even where its end can't be noted at first.
func TestAFailureIsAFinishedAttempt(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newCountingLedger(t, func(context.Context, surepost.Event) error { return errors.New("no stock") })
			if lost {
				l.endErr = errors.New("no connection")
			}
			q := newFakeQueue(t, 100)
			l.putAgain(q, "a", 0, 1)
			stop := startConsumer(t, q, ConsumerConfig{Handler: l, MaxAttempts: 10, HandlerTimeout: time.Minute})
			pass(time.Hour)
			dead := q.deadLetters()
			if len(dead) != 1 || dead[0].reason != AttemptsSpent || l.batchLedger.ledger.calls["a/1"] != 10 {
				t.Errorf("end lost %v: %d calls, dead letters %v", lost, l.batchLedger.ledger.calls["a/1"], dead)
			}
			if open := l.started["a/1"] - l.finished["a/1"]; open > 1 || !lost && len(l.started) != 0 {
				t.Errorf("end lost %v: %d attempts are open, %d events are on record", lost, open, len(l.started))
			}
			stop()
		})
	}
}

// TestAnEventThatKillsTheProcessIsDeadLettered without another call, with its reason, and its record goes with it.
func TestAnEventThatKillsTheProcessIsDeadLettered(t *testing.T) {
	for unfinished, want := range map[int]bool{0: false, 1: false, 2: true, 7: true} {
		synctest.Test(t, func(t *testing.T) {
			l := newCountingLedger(t, nil)
			q := newFakeQueue(t, 100)
			l.putAgain(q, "a", unfinished, 1)
			q.put("a", 2)
			stop := startConsumer(t, q, ConsumerConfig{Handler: l, MaxUnfinished: 2, HandlerTimeout: time.Minute})
			pass(2 * time.Minute)
			dead := q.deadLetters()
			if killed := len(dead) == 1 && dead[0].reason == KillsProcess && dead[0].tries.total == 0; killed != want {
				t.Errorf("%d unfinished: dead letters %v", unfinished, dead)
			}
			if called := l.batchLedger.ledger.calls["a/1"] > 0; called == want || !l.done["a/2"] {
				t.Errorf("%d unfinished: calls %v", unfinished, l.batchLedger.ledger.calls)
			}
			if _, _, acked := q.count(); acked != 2 || len(l.started) != 0 {
				t.Errorf("%d unfinished: %d acknowledged, on record %v", unfinished, acked, l.started)
			}
			stop()
		})
	}
}

// TestSuspectsAreHandledOneAtATime, though workers are free, while others go on: of all that ran beside each other when
// the process died, one only is there when it dies again.
func TestSuspectsAreHandledOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most := 0, 0
		l := newCountingLedger(t, func(_ context.Context, e surepost.Event) error {
			if e.Key == "fresh" {
				return nil
			}
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Minute)
			mu.Lock()
			defer mu.Unlock()
			running--
			return nil
		})
		q := newFakeQueue(t, 100)
		for k := range 6 {
			l.putAgain(q, fmt.Sprint("suspect", k), 1, 1)
		}
		q.put("fresh", numbers(1, 10)...)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 4, BatchSize: 5})
		pass(time.Second)
		open, fresh := l.begun(), l.lastOf("fresh")
		if open != 1 || fresh != 10 {
			t.Errorf("%d suspects have begun, fresh has come to %d; want 1 and 10", open, fresh)
		}
		pass(10 * time.Minute)
		if l.committed() != 16 || most != 1 || len(l.started) != 0 {
			t.Errorf("%d handled, at most %d at once, on record %v", l.committed(), most, l.started)
		}
		stop()
	})
}

// TestACounterThatFailsIsAnOutage: it says nothing about the event, which waits, and no handler runs uncounted.
func TestACounterThatFailsIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCountingLedger(t, nil)
		l.startErr = errors.New("permission denied for table surepost_inbox_attempt")
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		q.put("b", 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		pass(10 * time.Hour)
		if len(q.deadLetters()) != 0 || l.done["a/1"] || !l.done["b/1"] {
			t.Errorf("handled %v, %d dead letters", l.done, len(q.deadLetters()))
		}
		l.mu.Lock()
		l.startErr = nil
		l.mu.Unlock()
		pass(time.Minute)
		if !l.done["a/1"] {
			t.Error("it wasn't handled after the counter had recovered")
		}
		stop()
	})
}

// TestAHandlerThatCannotCountGoesWithout, like one that lacks the methods.
func TestAHandlerThatCannotCountGoesWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCountingLedger(t, nil)
		l.startErr = fmt.Errorf("a store in memory: %w", errors.ErrUnsupported)
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1, 2)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		if l.committed() != 2 || slices.Contains(l.calls, "forget a/1") {
			t.Errorf("%d handled, calls %v", l.committed(), l.calls)
		}
		stop()
	})
}

// TestACutOffHandlerIsNoKiller: a shutdown that runs out of time ends the handler's context, and the attempt's end is
// noted all the same.
func TestACutOffHandlerIsNoKiller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCountingLedger(t, func(ctx context.Context, _ surepost.Event) error {
			<-ctx.Done()
			return ctx.Err()
		})
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if l.started["a/1"] != 1 || l.finished["a/1"] != 1 {
			t.Errorf("started %v, finished %v", l.started, l.finished)
		}
	})
}

// TestAnAttemptThatIsUnderWayElsewhereIsNoDeath: a process that has lost its connection may still handle the event, for
// as long as HandlerTimeout. Only attempts that outlast that are those of dead processes.
func TestAnAttemptThatIsUnderWayElsewhereIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCountingLedger(t, nil)
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 3, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, MaxUnfinished: 3, HandlerTimeout: 2 * time.Minute})
		pass(time.Minute)
		if len(q.deadLetters()) != 0 || l.done["a/1"] {
			t.Fatalf("after a minute: handled %v, dead letters %v", l.done, q.deadLetters())
		}
		if err := l.FinishAttempt(t.Context(), "a/1", errors.New("it took long")); err != nil { // in another process
			t.Fatal(err)
		}
		pass(time.Hour)
		if len(q.deadLetters()) != 0 || !l.done["a/1"] {
			t.Errorf("handled %v, dead letters %v", l.done, q.deadLetters())
		}
		stop()
	})
}

// lossy is a counter that can't be relied on: answers to starts that it has recorded get lost, and ends don't reach it.
type lossy struct {
	*countingLedger
	starts, ends int    // still to be lost
	lose         func() // called when an end doesn't reach it
}

var errAnswerLost = errors.New("the connection was cut")

func (c *lossy) StartAttempt(ctx context.Context, id string, limit int) (int, error) {
	unfinished, err := c.countingLedger.StartAttempt(ctx, id, limit)
	if unfinished < limit && c.starts > 0 {
		c.starts--
		return 0, errAnswerLost
	}
	return unfinished, err
}

func (c *lossy) ForgetAttempts(ctx context.Context, id string) error {
	if c.ends > 0 {
		c.ends--
		c.lose()
		return errAnswerLost
	}
	return c.countingLedger.ForgetAttempts(ctx, id)
}

// TestALostAnswerIsNoDeath: that an attempt was recorded and the answer lost, as by a database's failover, says nothing
// about the event, however often it happens.
func TestALostAnswerIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lossy{countingLedger: newCountingLedger(t, nil), starts: 5}
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, HandlerTimeout: time.Minute})
		pass(time.Hour)
		if len(q.deadLetters()) != 0 || !l.done["a/1"] || l.starts > 0 {
			t.Errorf("handled %v, dead letters %v, %d answers not lost", l.done, q.deadLetters(), l.starts)
		}
		stop()
	})
}

// TestAHandledEventIsNoKiller: its record couldn't be removed, nor its message acknowledged, and it comes again.
func TestAHandledEventIsNoKiller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newFakeQueue(t, 100)
		l := &lossy{countingLedger: newCountingLedger(t, nil), ends: 5, lose: q.cut}
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, HandlerTimeout: time.Minute})
		pass(time.Hour)
		if len(q.deadLetters()) != 0 || len(l.started) != 0 || l.ends > 0 {
			t.Errorf("dead letters %v, on record %v, %d ends not lost", q.deadLetters(), l.started, l.ends)
		}
		stop()
	})
}

// TestAnAttemptOutlivesItsSession: what a process couldn't have noted as finished before its connection was lost is
// its own when the event comes again.
func TestAnAttemptOutlivesItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCountingLedger(t, func(context.Context, surepost.Event) error { return syscall.ECONNREFUSED })
		l.endErr = errAnswerLost
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, HandlerTimeout: time.Minute})
		for range 5 {
			pass(time.Minute)
			q.cut()
		}
		pass(time.Hour)
		if len(q.deadLetters()) != 0 || l.started["a/1"] != 1 {
			t.Errorf("%d attempts on record, dead letters %v", l.started["a/1"], q.deadLetters())
		}
		stop()
	})
}

// TestAConsumerThatIsStoppedLeavesNoAttemptOpen: neither one whose end couldn't be noted, nor one whose beginning is in doubt, may count
// as a death once somebody else has the event (simulation of consumers, seed 2104905).
func TestAConsumerThatIsStoppedLeavesNoAttemptOpen(t *testing.T) {
	stopped := func(t *testing.T, l *lossy, mend func()) {
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, HandlerTimeout: time.Minute})
		pass(time.Minute)
		mend()
		stop()
		if n := l.started["a/1"]; n == 0 || n != l.finished["a/1"] {
			t.Errorf("%d attempts were started, and %d finished", n, l.finished["a/1"])
		}
	}
	synctest.Test(t, func(t *testing.T) {
		away := newCountingLedger(t, func(context.Context, surepost.Event) error { return syscall.ECONNREFUSED })
		away.endErr = errAnswerLost
		stopped(t, &lossy{countingLedger: away}, func() { away.endErr = nil })
	})
	synctest.Test(t, func(t *testing.T) {
		stopped(t, &lossy{countingLedger: newCountingLedger(t, nil), starts: 1000}, func() {})
	})
}

// TestAConsumerWhoseConnectionWasLostLeavesNoAttemptOpen: the event may go to another process, which takes it for a death (simulation of
// consumers, seed 2244866).
func TestAConsumerWhoseConnectionWasLostLeavesNoAttemptOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lossy{countingLedger: newCountingLedger(t, nil), starts: 1}
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, HandlerTimeout: time.Minute})
		synctest.Wait() // its start is in doubt, and it waits for another try
		q.cut()
		q.mu.Lock()
		q.waiting = nil // another process gets it
		q.mu.Unlock()
		pass(10 * time.Second)
		if l.started["a/1"] != 1 || l.finished["a/1"] != 1 || l.done["a/1"] {
			t.Errorf("%d attempts were started, and %d finished; handled here: %v", l.started["a/1"], l.finished["a/1"], l.done)
		}
		stop()
	})
}

// hangingEnds is a counter that hangs when an attempt's end is to be noted, until it is told to give up.
type hangingEnds struct{ *countingLedger }

func (hangingEnds) FinishAttempt(ctx context.Context, _ string, _ error) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestACounterThatHangsDoesNotOutlastAShutdown: the handler took all the time it had, the note takes its own, and still Run
// returns in time and blames no handler.
func TestACounterThatHangsDoesNotOutlastAShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newCountingLedger(t, func(ctx context.Context, _ surepost.Event) error {
			<-ctx.Done()
			time.Sleep(time.Second) // it rolls back
			return ctx.Err()
		})
		q := newFakeQueue(t, 100)
		l.putAgain(q, "a", 0, 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: hangingEnds{l}, ShutdownTimeout: 30 * time.Second})
		synctest.Wait()
		began := time.Now()
		if err := stop(); err != nil || time.Since(began) > 30*time.Second {
			t.Errorf("stopped after %v: %v", time.Since(began), err)
		}
	})
}
