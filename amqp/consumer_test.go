package amqp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// TestOrderPerKeyHolds runs many keys through random latencies, failures, outages and lost connections. The ledger
// checks at each call that no two events of a key are handled at once, and that first commits are in order.
func TestOrderPerKeyHolds(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				choose := make(chan int) // random is for one goroutine
				go func() {
					for {
						select {
						case choose <- random.IntN(1000):
						case <-t.Context().Done():
							return
						}
					}
				}()
				l := newLedger(t, func(ctx context.Context, e surepost.Event) error {
					time.Sleep(time.Duration(<-choose) * time.Millisecond)
					switch n := <-choose; {
					case n < 20:
						return errors.New("now and then")
					case n < 40:
						return io.ErrUnexpectedEOF
					}
					return nil
				})
				const keys, each = 30, 30
				q := newFakeQueue(t, 40)
				for n := range each {
					for k := range keys {
						q.put(fmt.Sprintf("key%d", k), n+1)
					}
				}
				q.put("", numbers(1, 100)...)
				stop := startConsumer(t, q, ConsumerConfig{Handler: l})
				for l.committed() < keys*each+100 {
					time.Sleep(time.Duration(<-choose) * 10 * time.Millisecond)
					q.cut()
				}
				if err := stop(); err != nil {
					t.Errorf("Run: %v", err)
				}
				if dead := q.deadLetters(); len(dead) != 0 {
					t.Errorf("%d dead letters, the first by %v", len(dead), dead[0].err)
				}
				if l.most > 8 {
					t.Errorf("%d events were handled at once, Workers is 8", l.most)
				}
				// What is left was handled, but lost its acknowledgement with the last session.
				waiting, unacked, acked := q.count()
				if unacked != 0 || waiting+acked < keys*each+100 {
					t.Errorf("%d waiting, %d unacknowledged, %d acknowledged", waiting, unacked, acked)
				}
			})
		})
	}
}

// TestRedeliveryWaitsForTheOldHandler cuts the connection while an event is handled: its redelivery, and the rest of
// its key, wait until the old call has returned, and its commit counts.
func TestRedeliveryWaitsForTheOldHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := newLedger(t, func(ctx context.Context, e surepost.Event) error {
			if e.ID == "a/1" {
				<-release
			}
			return nil
		})
		q := newFakeQueue(t, 10)
		q.put("a", 1, 2, 3)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		q.cut()
		pass(time.Minute)
		q.put("b", 1)
		synctest.Wait()
		if l.calls["a/1"] != 1 || l.calls["a/2"] != 0 {
			t.Errorf("calls while the old handler runs: %v", l.calls)
		}
		if l.calls["b/1"] != 1 {
			t.Error("another key was held up")
		}
		close(release)
		synctest.Wait()
		if l.calls["a/1"] != 2 || !l.done["a/3"] {
			t.Errorf("calls after the old handler returned: %v", l.calls)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestFailureOfALostSessionIsLeftToTheRedelivery: else the message would be dead-lettered twice, and acknowledged
// never.
func TestFailureOfALostSessionIsLeftToTheRedelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := newLedger(t, func(context.Context, surepost.Event) error {
			<-release
			return inbox.Permanent(errors.New("never"))
		})
		q := newFakeQueue(t, 10)
		q.put("a", 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		q.cut()
		pass(time.Minute)
		close(release)
		pass(time.Minute)
		if dead := q.deadLetters(); len(dead) != 1 || l.calls["a/1"] != 2 {
			t.Errorf("%d dead letters after %d calls, want 1 after 2", len(dead), l.calls["a/1"])
		}
		if waiting, unacked, acked := q.count(); waiting != 0 || unacked != 0 || acked != 1 {
			t.Errorf("%d waiting, %d unacknowledged, %d acknowledged", waiting, unacked, acked)
		}
		stop()
	})
}

// TestPoisonKeyDoesNotBlockOthers has more failing keys than workers; the good ones are handled without any pause.
func TestPoisonKeyDoesNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(_ context.Context, e surepost.Event) error {
			if strings.HasPrefix(e.Key, "bad") {
				return errors.New("poison")
			}
			return nil
		})
		q := newFakeQueue(t, 100)
		for k := range 20 {
			q.put(fmt.Sprintf("bad%d", k), 1, 2)
		}
		q.put("good", numbers(1, 50)...)
		slow := Backoff{Min: time.Hour, Max: time.Hour}
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 2, Backoff: slow})
		synctest.Wait()
		if l.last["good"] != 50 {
			t.Errorf("the good key has come to %d, want 50", l.last["good"])
		}
		pass(20 * time.Hour)
		if dead := q.deadLetters(); len(dead) != 40 {
			t.Errorf("%d dead letters, want 40", len(dead))
		}
		stop()
	})
}

// TestUnreachableDeadLetterQueueHoldsUpItsKeysOnly: the message stays unacknowledged until its letter is confirmed.
func TestUnreachableDeadLetterQueueHoldsUpItsKeysOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(_ context.Context, e surepost.Event) error {
			if e.ID == "bad/1" {
				return inbox.Permanent(errors.New("no such product"))
			}
			return nil
		})
		q := newFakeQueue(t, 100)
		q.buryErr = errors.New("no majority")
		q.buryDelay = time.Second
		q.put("bad", 1, 2)
		q.put("good", numbers(1, 50)...)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 1})
		pass(time.Hour)
		if l.last["good"] != 50 || l.calls["bad/2"] != 0 {
			t.Errorf("good has come to %d, want 50; bad/2 was called %d times, want 0", l.last["good"], l.calls["bad/2"])
		}
		if _, unacked, _ := q.count(); unacked != 2 {
			t.Errorf("%d messages are unacknowledged, want the letter's and the one behind it", unacked)
		}
		q.mu.Lock()
		q.buryErr = nil
		q.mu.Unlock()
		pass(2 * reconnectBackoff.Max)
		if l.calls["bad/1"] != 1 || l.calls["bad/2"] != 1 || len(q.deadLetters()) != 1 {
			t.Errorf("calls %v, %d dead letters", l.calls, len(q.deadLetters()))
		}
		stop()
	})
}

// TestAttemptsAndOutages: failures count up to MaxAttempts, outages don't count however long they last, conflicts
// count late.
func TestAttemptsAndOutages(t *testing.T) {
	for _, test := range []struct {
		name   string
		err    error
		until  int // the failing call after which the handler succeeds; 0: never
		calls  int
		reason DeadLetterReason // empty: handled in the end
	}{
		{"plain failure", errors.New("no"), 0, 5, AttemptsSpent},
		{"failure that heals", errors.New("no"), 4, 5, ""},
		{"permanent failure", inbox.Permanent(errors.New("no")), 0, 1, PermanentFailure},
		{"permanent outage error", inbox.Permanent(io.ErrUnexpectedEOF), 0, 1, PermanentFailure},
		{"outage", io.ErrUnexpectedEOF, 1000, 1001, ""},
		{"conflicts", sqlError("40001"), 90, 91, ""},
		{"endless conflicts", sqlError("40P01"), 0, maxConflicts + 5, AttemptsSpent},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				l := newLedger(t, func(context.Context, surepost.Event) error {
					if calls++; test.until > 0 && calls > test.until {
						return nil
					}
					return fmt.Errorf("handle: %w", test.err)
				})
				q := newFakeQueue(t, 10)
				q.put("a", 1)
				var retries, counted int
				stop := startConsumer(t, q, ConsumerConfig{Handler: l, Hooks: ConsumerHooks{OnRetry: func(r RetriedMessage) {
					retries++
					if !r.Outage {
						counted++
					}
				}}})
				pass(10 * time.Hour)
				if calls != test.calls || retries != test.calls-1 {
					t.Errorf("%d calls, %d retries; want %d calls", calls, retries, test.calls)
				}
				if IsOutage(test.err) && counted > 0 {
					t.Errorf("%d tries of an outage were counted", counted)
				}
				dead := q.deadLetters()
				switch {
				case test.reason == "" && len(dead) > 0:
					t.Errorf("dead-lettered: %v", dead[0].err)
				case test.reason != "" && (len(dead) != 1 || dead[0].reason != test.reason):
					t.Errorf("dead letters %v, want one by %s", dead, test.reason)
				}
				if _, unacked, acked := q.count(); unacked != 0 || acked != 1 {
					t.Errorf("%d unacknowledged, %d acknowledged", unacked, acked)
				}
				stop()
			})
		})
	}
}

// TestHangingHandlerSpendsItsAttempts: HandlerTimeout counts, even where the driver reports it as "safe to retry".
func TestHangingHandlerSpendsItsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(ctx context.Context, e surepost.Event) error {
			<-ctx.Done()
			return safeToRetry{errors.New("conn closed")}
		})
		q := newFakeQueue(t, 10)
		q.put("a", 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		pass(30 * time.Minute)
		if dead := q.deadLetters(); len(dead) != 1 || !strings.Contains(dead[0].err.Error(), "HandlerTimeout of 5m0s") {
			t.Errorf("dead letters: %+v", dead)
		}
		stop()
	})
}

func TestWhateverTheHandlerDoesTheOthersGoOn(t *testing.T) {
	for name, test := range map[string]struct {
		do     func() error
		reason DeadLetterReason
	}{
		"panic":  {func() error { panic("boom") }, AttemptsSpent},
		"goexit": {func() error { runtime.Goexit(); return nil }, AttemptsSpent},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := handlerFunc(func(_ context.Context, e surepost.Event) (inbox.Result, error) {
					if e.Key == "bad" {
						return 0, test.do()
					}
					return inbox.Handled, nil
				})
				q := newFakeQueue(t, 10)
				q.put("bad", 1)
				q.put("good", 1)
				stop := startConsumer(t, q, ConsumerConfig{Handler: handler, Workers: 1})
				pass(time.Hour)
				if _, unacked, acked := q.count(); unacked != 0 || acked != 2 {
					t.Errorf("%d unacknowledged, %d acknowledged, want 2", unacked, acked)
				}
				if dead := q.deadLetters(); len(dead) != 1 || dead[0].reason != test.reason {
					t.Errorf("dead letters: %+v", dead)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestBodyThatIsNoEventIsDeadLetteredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, nil)
		q := newFakeQueue(t, 10)
		q.putBody("m1", "hello")
		q.put("a", 1)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		dead := q.deadLetters()
		if len(dead) != 1 || dead[0].reason != NotAnEvent || dead[0].delivery.MessageId != "m1" {
			t.Errorf("dead letters: %+v", dead)
		}
		if !l.done["a/1"] {
			t.Error("the event behind it wasn't handled")
		}
		stop()
	})
}

func TestUnhandledTypes(t *testing.T) {
	skip := handlerFunc(func(context.Context, surepost.Event) (inbox.Result, error) { return inbox.Skipped, nil })
	for policy, want := range map[UnhandledPolicy]int{AckUnhandled: 0, DeadLetterUnhandled: 1} {
		synctest.Test(t, func(t *testing.T) {
			q := newFakeQueue(t, 10)
			q.put("a", 1)
			stop := startConsumer(t, q, ConsumerConfig{Handler: skip, Unhandled: policy})
			synctest.Wait()
			if dead := q.deadLetters(); len(dead) != want || want == 1 && dead[0].reason != NoHandler {
				t.Errorf("policy %d: dead letters %+v", policy, dead)
			}
			if _, _, acked := q.count(); acked != 1 {
				t.Errorf("policy %d: %d acknowledged", policy, acked)
			}
			stop()
		})
	}
}

// TestShutdownFinishesWhatItStarted: started handlers finish and are acknowledged, the rest goes back in order.
func TestShutdownFinishesWhatItStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(ctx context.Context, e surepost.Event) error {
			time.Sleep(10 * time.Second)
			return ctx.Err()
		})
		q := newFakeQueue(t, 20)
		q.put("a", numbers(1, 10)...)
		q.put("b", numbers(1, 10)...)
		q.put("", numbers(1, 10)...)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 2})
		pass(time.Second)
		began := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 9*time.Second {
			t.Errorf("the shutdown took %v, want 9s", took)
		}
		waiting, _, acked := q.count()
		if waiting != 28 || acked != 2 {
			t.Errorf("%d waiting, %d acknowledged", waiting, acked)
		}
		for i, want := range []string{"a/2", "a/3", "a/4"} {
			if got := q.waiting[i].MessageId; got != want {
				t.Errorf("given back in position %d: %s, want %s", i, got, want)
			}
		}
	})
}

// TestShutdownEndsHandlersThatTakeTooLong: their contexts end in time to roll back and give back.
func TestShutdownEndsHandlersThatTakeTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(ctx context.Context, e surepost.Event) error {
			<-ctx.Done()
			return ctx.Err()
		})
		q := newFakeQueue(t, 20)
		q.put("a", 1, 2)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, MaxAttempts: 1})
		synctest.Wait()
		began := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 24*time.Second {
			t.Errorf("the shutdown took %v, want 24s", took)
		}
		if waiting, _, acked := q.count(); waiting != 2 || acked != 0 || len(q.dead) != 0 {
			t.Errorf("%d waiting, %d acknowledged, %d dead", waiting, acked, len(q.dead))
		}
	})
}

// TestShutdownDoesNotWaitForDeafHandlers: Run returns in time and names their events.
func TestShutdownDoesNotWaitForDeafHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(context.Context, surepost.Event) error {
			time.Sleep(time.Hour)
			return nil
		})
		q := newFakeQueue(t, 20)
		q.put("a", 1, 2)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		began := time.Now()
		err := stop()
		if err == nil || !strings.Contains(err.Error(), "a/1") {
			t.Errorf("Run returned %v, want an error that names a/1", err)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the shutdown took %v", took)
		}
		if waiting, _, _ := q.count(); waiting != 2 {
			t.Errorf("%d messages went back, want 2", waiting)
		}
		pass(time.Hour) // the handler returns, its report finds room, and synctest sees no goroutine left
	})
}

func TestShutdownWhileTheConnectionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, func(context.Context, surepost.Event) error {
			time.Sleep(10 * time.Second)
			return nil
		})
		q := newFakeQueue(t, 20)
		q.put("a", 1, 2)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l})
		synctest.Wait()
		q.mu.Lock()
		q.openErr = errors.New("nobody there")
		q.mu.Unlock()
		q.cut()
		pass(time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if !l.done["a/1"] || l.calls["a/2"] != 0 {
			t.Errorf("calls %v, committed %v", l.calls, l.done)
		}
	})
}

// TestReconnectsForEver with pauses that grow to 30 s and no more.
func TestReconnectsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newFakeQueue(t, 20)
		q.openErr = errors.New("nobody there")
		l := newLedger(t, nil)
		var longest time.Duration
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Hooks: ConsumerHooks{
			OnDisconnect: func(d Disconnect) { longest = max(longest, d.Pause) }}})
		pass(24 * time.Hour)
		if q.openings < 24*60*2 || q.openings > 24*60*5 || longest > 30*time.Second {
			t.Errorf("%d attempts in a day, the longest pause was %v", q.openings, longest)
		}
		q.mu.Lock()
		q.openErr = nil
		q.mu.Unlock()
		q.put("a", 1)
		pass(30 * time.Second)
		if !l.done["a/1"] {
			t.Error("it didn't consume after the broker had come back")
		}
		stop()
	})
}

// TestMistakesEndTheFirstConnectOnly: later they may be somebody's work in progress.
func TestMistakesEndTheFirstConnectOnly(t *testing.T) {
	refused := func(code int) error {
		return fmt.Errorf("declare: %w", &amqp091.Error{Code: code, Reason: "by the test", Server: true})
	}
	for _, test := range []struct {
		err  error
		mode Mode
		ends bool
	}{
		{refused(amqp091.PreconditionFailed), Declare, true},
		{refused(amqp091.AccessRefused), Declare, true},
		{refused(amqp091.NotFound), Verify, true},
		{refused(amqp091.NotFound), Declare, false},
		{refused(amqp091.NotAllowed), Declare, true},
		{refused(amqp091.ConnectionForced), Declare, false},
		{refused(amqp091.InternalError), Declare, false},
		{io.EOF, Declare, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newFakeQueue(t, 20)
			q.openErr = test.err
			stop := startConsumer(t, q, ConsumerConfig{Handler: newLedger(t, nil), Mode: test.mode})
			pass(time.Hour)
			if ended := q.openings == 1; ended != test.ends {
				t.Errorf("%v in Mode %v: ended %v, want %v", test.err, test.mode, ended, test.ends)
			}
			if err := stop(); (err != nil) != test.ends {
				t.Errorf("%v in Mode %v: Run returned %v", test.err, test.mode, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q := newFakeQueue(t, 20)
		q.openErr = amqp091.ErrCredentials // what the library says whenever the socket is lost during login
		stop := startConsumer(t, q, ConsumerConfig{Handler: newLedger(t, nil)})
		pass(time.Hour)
		if q.openings != mostRefusals {
			t.Errorf("%d logins, want %d", q.openings, mostRefusals)
		}
		if err := stop(); !errors.Is(err, amqp091.ErrCredentials) {
			t.Errorf("Run returned %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		q := newFakeQueue(t, 20)
		stop := startConsumer(t, q, ConsumerConfig{Handler: newLedger(t, nil)})
		synctest.Wait()
		q.mu.Lock()
		q.openErr = refused(amqp091.AccessRefused)
		q.mu.Unlock()
		q.cut()
		pass(time.Hour)
		if q.openings < 100 {
			t.Errorf("%d attempts in an hour after a mistake that came later", q.openings)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// pass lets time pass, and then everything that it set off come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

type handlerFunc func(context.Context, surepost.Event) (inbox.Result, error)

func (f handlerFunc) Handle(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	return f(ctx, e)
}

type sqlError string

func (e sqlError) Error() string    { return "SQLSTATE " + string(e) }
func (e sqlError) SQLState() string { return string(e) }

type safeToRetry struct{ error }

func (safeToRetry) SafeToRetry() bool { return true }
func (e safeToRetry) Unwrap() error   { return e.error }
