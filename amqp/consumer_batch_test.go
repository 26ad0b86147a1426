package amqp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// batchLedger is a ledger that handles batches too, all or nothing.
type batchLedger struct {
	*ledger
	mu     sync.Mutex
	sizes  []int // of the batches that came
	failed int   // batches
}

var _ BatchHandler = (*batchLedger)(nil)

func newBatchLedger(t *testing.T, work func(context.Context, surepost.Event) error) *batchLedger {
	return &batchLedger{ledger: newLedger(t, work)}
}

func (b *batchLedger) HandleBatch(ctx context.Context, events []surepost.Event) ([]inbox.Result, error) {
	b.mu.Lock()
	b.sizes = append(b.sizes, len(events))
	b.mu.Unlock()
	l := b.ledger
	l.mu.Lock()
	l.running++
	l.most = max(l.most, l.running)
	keys := map[string]bool{}
	for _, e := range events {
		if e.Key != "" && l.busy[e.Key] && !keys[e.Key] {
			l.t.Errorf("a batch with %s was started while another event of its key was handled", e.ID)
		}
		keys[e.Key], l.busy[e.Key] = true, true
	}
	l.mu.Unlock()
	results, err := b.workOn(ctx, events)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	for key := range keys {
		l.busy[key] = false
	}
	if err != nil {
		b.mu.Lock()
		b.failed++
		b.mu.Unlock()
		return nil, err
	}
	for i, e := range events {
		if results[i] != inbox.Handled {
			continue
		}
		var number int
		if err := e.Decode(&number); err != nil {
			l.t.Error(err)
		}
		l.done[e.ID] = true
		if e.Key != "" && number < l.last[e.Key] {
			l.t.Errorf("%s was handled after number %d of its key", e.ID, l.last[e.Key])
		}
		l.last[e.Key] = number
	}
	return results, nil
}

func (b *batchLedger) workOn(ctx context.Context, events []surepost.Event) (results []inbox.Result, err error) {
	for _, e := range events {
		b.ledger.mu.Lock()
		b.calls[e.ID]++
		known := b.done[e.ID]
		b.ledger.mu.Unlock()
		if known {
			results = append(results, inbox.Duplicate)
			continue
		}
		if b.work != nil {
			if err := b.work(ctx, e); err != nil {
				return nil, err
			}
		}
		results = append(results, inbox.Handled)
	}
	return results, nil
}

// TestBatchesKeepTheOrderPerKey through random latencies, failures, outages and lost connections, with random sizes
// and lingers. The ledger checks each call.
func TestBatchesKeepTheOrderPerKey(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 5))
				var mu sync.Mutex
				choose := func(n int) int {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n)
				}
				l := newBatchLedger(t, func(_ context.Context, e surepost.Event) error {
					time.Sleep(time.Duration(choose(100)) * time.Millisecond)
					switch n := choose(1000); {
					case n < 10:
						return errors.New("now and then")
					case n < 20:
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
				stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 1 + choose(4), BatchSize: 2 + choose(20),
					BatchLinger: time.Duration(choose(2)) * 200 * time.Millisecond})
				for l.committed() < keys*each+100 {
					time.Sleep(time.Duration(choose(20000)) * time.Millisecond)
					q.cut()
				}
				if err := stop(); err != nil {
					t.Errorf("Run: %v", err)
				}
				if dead := q.deadLetters(); len(dead) != 0 {
					t.Errorf("%d dead letters, the first by %v", len(dead), dead[0].err)
				}
				if l.failed == 0 || len(l.sizes) < 5 {
					t.Errorf("%d batches, %d failed: the test didn't test", len(l.sizes), l.failed)
				}
				waiting, unacked, acked := q.count()
				if unacked != 0 || waiting+acked < keys*each+100 {
					t.Errorf("%d waiting, %d unacknowledged, %d acknowledged", waiting, unacked, acked)
				}
			})
		})
	}
}

// TestPoisonInABatchCostsOneBatch: the others of the batch are handled at once and alone, nobody's attempts are spent,
// and later messages are in batches again.
func TestPoisonInABatchCostsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newBatchLedger(t, func(_ context.Context, e surepost.Event) error {
			if e.ID == "key7/1" {
				return errors.New("poison")
			}
			return nil
		})
		q := newFakeQueue(t, 100)
		var mu sync.Mutex
		sizes, failed := map[int]int{}, 0
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 1, BatchSize: 20, BatchLinger: time.Second,
			MaxAttempts: 3, Backoff: Backoff{Min: time.Hour, Max: time.Hour}, Hooks: ConsumerHooks{
				OnHandled: func(h HandledMessage) {
					mu.Lock()
					defer mu.Unlock()
					sizes[h.BatchSize]++
					if h.Attempt != 1 {
						t.Errorf("%s: attempt %d", h.Event.ID, h.Attempt)
					}
				},
				OnBatchFailed: func(f FailedBatch) {
					failed++
					if f.BatchSize != 20 || f.Err == nil {
						t.Errorf("%+v", f)
					}
				},
			}})
		for k := range 20 {
			q.put(fmt.Sprintf("key%d", k), 1)
		}
		synctest.Wait()
		if l.committed() != 19 || failed != 1 || sizes[1] != 19 {
			t.Errorf("%d handled at once, %d batches failed, sizes %v; want 19 alone after 1", l.committed(), failed, sizes)
		}
		for k := range 20 {
			q.put(fmt.Sprintf("key%d", k+100), 1)
		}
		synctest.Wait()
		if sizes[20] != 20 || failed != 1 {
			t.Errorf("sizes %v, %d batches failed: later messages aren't in a batch", sizes, failed)
		}
		pass(10 * time.Hour)
		dead := q.deadLetters()
		if len(dead) != 1 || dead[0].event.ID != "key7/1" || dead[0].tries.total != 3 || l.calls["key7/1"] != 4 {
			t.Errorf("%d dead letters after %d calls, want key7/1 after 3 attempts and a batch", len(dead), l.calls["key7/1"])
		}
		stop()
	})
}

// TestAKeysMessagesShareABatchInOrder, and those behind the batch wait for all of it.
func TestAKeysMessagesShareABatchInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		release := make(chan struct{})
		l := newBatchLedger(t, func(_ context.Context, e surepost.Event) error {
			order = append(order, e.ID)
			<-release
			return nil
		})
		q := newFakeQueue(t, 100)
		q.put("a", numbers(1, 4)...)
		q.put("b", numbers(1, 3)...)
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, Workers: 2, BatchSize: 6, BatchLinger: time.Second})
		synctest.Wait()
		q.put("b", 4)
		pass(time.Minute)
		if len(l.sizes) != 1 || l.sizes[0] != 6 {
			t.Errorf("batches %v; want one of six while a and b are handled", l.sizes)
		}
		close(release)
		pass(time.Minute)
		want := []string{"a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "b/3", "b/4"}
		if !slices.Equal(order, want) || !slices.Equal(l.sizes, []int{6, 2}) {
			t.Errorf("order %v in batches %v", order, l.sizes)
		}
		stop()
	})
}

// TestUnwantedEventsOfABatchAreDeadLettered, and the batch's others are acknowledged.
func TestUnwantedEventsOfABatchAreDeadLettered(t *testing.T) {
	for policy, want := range map[UnhandledPolicy]int{AckUnhandled: 0, DeadLetterUnhandled: 2} {
		synctest.Test(t, func(t *testing.T) {
			q := newFakeQueue(t, 100)
			q.put("a", 1, 2, 3, 4)
			q.put("b", 1)
			stop := startConsumer(t, q, ConsumerConfig{Handler: skipEven{newBatchLedger(t, nil)}, BatchSize: 10,
				BatchLinger: time.Second, Unhandled: policy})
			pass(time.Minute)
			if dead := q.deadLetters(); len(dead) != want || want > 0 && dead[0].reason != NoHandler {
				t.Errorf("policy %d: %d dead letters, want %d", policy, len(dead), want)
			}
			if waiting, unacked, acked := q.count(); waiting+unacked != 0 || acked != 5 {
				t.Errorf("policy %d: %d waiting, %d unacknowledged, %d acknowledged", policy, waiting, unacked, acked)
			}
			stop()
		})
	}
}

// skipEven has no handler for even numbers.
type skipEven struct{ *batchLedger }

func (s skipEven) HandleBatch(ctx context.Context, events []surepost.Event) ([]inbox.Result, error) {
	results, err := s.batchLedger.HandleBatch(ctx, events)
	for i, e := range events {
		var number int
		if err := e.Decode(&number); err != nil {
			return nil, err
		}
		if number%2 == 0 {
			results[i] = inbox.Skipped
		}
	}
	return results, err
}

// TestWrongBatchHandlersDoNoHarm: one that forgets results, or panics, has failed.
func TestWrongBatchHandlersDoNoHarm(t *testing.T) {
	for name, handle := range map[string]func([]surepost.Event) []inbox.Result{
		"too few results": func([]surepost.Event) []inbox.Result { return make([]inbox.Result, 1) },
		"panic":           func([]surepost.Event) []inbox.Result { panic("oh") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t, nil)
				q := newFakeQueue(t, 100)
				q.put("a", numbers(1, 10)...)
				stop := startConsumer(t, q, ConsumerConfig{Handler: oddBatches{l, handle}, BatchSize: 10, BatchLinger: time.Second})
				pass(time.Minute)
				if _, _, acked := q.count(); l.committed() != 10 || acked != 10 {
					t.Errorf("%d handled, %d acknowledged", l.committed(), acked)
				}
				stop()
			})
		})
	}
}

type oddBatches struct {
	*ledger
	handle func([]surepost.Event) []inbox.Result
}

func (o oddBatches) HandleBatch(_ context.Context, events []surepost.Event) ([]inbox.Result, error) {
	return o.handle(events), nil
}

// TestAShutdownFinishesTheBatchOrLeavesIt: in time it is committed and acknowledged; else all of it goes back, and
// none of it is tried alone.
func TestAShutdownFinishesTheBatchOrLeavesIt(t *testing.T) {
	for _, test := range []struct {
		takes time.Duration
		acked int
	}{{10 * time.Second, 10}, {time.Hour, 0}} {
		synctest.Test(t, func(t *testing.T) {
			l := newBatchLedger(t, func(ctx context.Context, e surepost.Event) error {
				if e.ID != "a/5" {
					return nil
				}
				select {
				case <-time.After(test.takes):
				case <-ctx.Done():
				}
				return ctx.Err()
			})
			q := newFakeQueue(t, 100)
			q.put("a", numbers(1, 10)...)
			stop := startConsumer(t, q, ConsumerConfig{Handler: l, BatchSize: 10, BatchLinger: time.Second,
				Hooks: ConsumerHooks{OnBatchFailed: func(f FailedBatch) { t.Errorf("reported as a failure: %v", f.Err) }}})
			pass(2 * time.Second)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if waiting, _, acked := q.count(); acked != test.acked || waiting != 10-test.acked {
				t.Errorf("a batch of %v: %d acknowledged, %d given back", test.takes, acked, waiting)
			}
			if l.calls["a/5"] != 1 {
				t.Errorf("it was tried %d times", l.calls["a/5"])
			}
		})
	}
}

// TestRedeliveredMessagesAreInNoBatch, since one of them may be why they are.
func TestRedeliveredMessagesAreInNoBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newBatchLedger(t, nil)
		q := newFakeQueue(t, 100)
		q.put("a", numbers(1, 5)...)
		for i := range q.waiting {
			q.waiting[i].Redelivered = true
		}
		q.put("b", 1, 2)
		q.waiting[5].Headers = map[string]any{headerDeliveryCount: int64(1)}
		stop := startConsumer(t, q, ConsumerConfig{Handler: l, BatchSize: 10, BatchLinger: time.Second})
		pass(time.Minute)
		if len(l.sizes) != 0 || l.committed() != 7 {
			t.Errorf("batches %v, %d handled", l.sizes, l.committed())
		}
		stop()
	})
}
