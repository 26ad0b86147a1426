package amqp

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// fakeAcks is a channel's side of acknowledgements at the broker: it knows which messages it waits for, and takes an
// acknowledgement of any other as the channel error that it is (AMQP 0-9-1 §1.8.3.13: unknown delivery tag).
type fakeAcks struct {
	t  *testing.T
	mu sync.Mutex

	unacked  []uint64
	finished map[uint64]bool
	acked    int
	frames   int
	stalled  chan struct{} // while it isn't nil: the socket accepts nothing until it is closed
	err      error
}

func (f *fakeAcks) Ack(tag uint64, multiple bool) error {
	f.mu.Lock()
	stalled := f.stalled
	f.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frames++
	i := slices.Index(f.unacked, tag)
	if i < 0 {
		f.t.Errorf("406: unknown delivery tag %d", tag)
		return nil
	}
	from := i
	if multiple {
		from = 0
	}
	for _, covered := range f.unacked[from : i+1] {
		if !f.finished[covered] {
			f.t.Errorf("message %d was acknowledged, by tag %d, before it was finished", covered, tag)
		}
		f.acked++
	}
	f.unacked = slices.Delete(f.unacked, from, i+1)
	return f.err
}

// TestExactlyWhatIsFinishedIsAcknowledged, each once, in whatever order it is finished: not less, not more.
func TestExactlyWhatIsFinishedIsAcknowledged(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 3))
		broker := &fakeAcks{t: t, finished: map[uint64]bool{}}
		var window ackWindow
		var inHand []uint64
		tag := uint64(0)
		for range 200 {
			for range random.IntN(10) {
				tag++
				window.unacked = append(window.unacked, tag)
				broker.unacked = append(broker.unacked, tag)
				inHand = append(inHand, tag)
			}
			var finished []uint64
			for range random.IntN(10) {
				if len(inHand) > 0 {
					// Mostly the oldest, as a consumer does, but one is slow and stays behind.
					i := min(1+random.IntN(1+random.IntN(len(inHand))), len(inHand)-1)
					if random.IntN(30) == 0 {
						i = 0
					}
					finished = append(finished, inHand[i])
					broker.finished[inHand[i]] = true
					inHand = slices.Delete(inHand, i, i+1)
				}
			}
			for _, a := range window.take(finished) {
				_ = broker.Ack(a.tag, a.multiple)
			}
			if broker.acked != len(broker.finished) {
				t.Fatalf("seed %d: %d are acknowledged of %d that are finished", seed, broker.acked, len(broker.finished))
			}
			if !slices.Equal(window.unacked, broker.unacked) {
				t.Fatalf("seed %d: the window is %v, the broker waits for %v", seed, window.unacked, broker.unacked)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestContiguousMessagesAreOneAcknowledgement, and what lies behind a gap doesn't wait for it.
func TestContiguousMessagesAreOneAcknowledgement(t *testing.T) {
	w := ackWindow{unacked: []uint64{1, 2, 3, 4, 5, 6, 7}}
	for _, step := range []struct {
		finished []uint64
		want     []ack
	}{
		{[]uint64{3, 1, 2}, []ack{{3, true}}},
		{[]uint64{6, 5}, []ack{{5, false}, {6, false}}}, // 4 is slow
		{nil, nil},
		{[]uint64{4}, []ack{{4, false}}},
		{[]uint64{7}, []ack{{7, false}}},
	} {
		if got := w.take(step.finished); !slices.Equal(got, step.want) {
			t.Errorf("finished %v: %v, want %v", step.finished, got, step.want)
		}
	}
}

func startAcker(t *testing.T, broker *fakeAcks) (a *acker, ended func() error) {
	ctx, end := context.WithCancelCause(t.Context())
	a = &acker{channel: broker, fail: end, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	go a.run(ctx)
	return a, func() error { return context.Cause(ctx) }
}

func (f *fakeAcks) deliver(a *acker, tags ...uint64) (messages []*message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tag := range tags {
		f.unacked = append(f.unacked, tag)
		f.finished[tag] = true
		a.delivered(tag)
		messages = append(messages, &message{delivery: amqp091.Delivery{DeliveryTag: tag}})
	}
	return messages
}

// TestAcknowledgementsGatherWhileOneIsWritten: nobody waits for the socket, and once it accepts bytes again one frame
// says it all. A flush waits for it.
func TestAcknowledgementsGatherWhileOneIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &fakeAcks{t: t, finished: map[uint64]bool{}, stalled: make(chan struct{})}
		a, _ := startAcker(t, broker)
		messages := broker.deliver(a, 1, 2, 3, 4, 5, 6)
		for _, m := range messages {
			a.finish([]*message{m})
			synctest.Wait()
		}
		close(broker.stalled)
		a.flush(t.Context())
		if broker.acked != 6 || broker.frames != 2 {
			t.Errorf("%d are acknowledged by %d frames, want 6 by 2", broker.acked, broker.frames)
		}
	})
}

// TestAFailedAcknowledgementEndsTheSession, since what the broker knows isn't known any more.
func TestAFailedAcknowledgementEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &fakeAcks{t: t, finished: map[uint64]bool{}, err: errors.New("broken pipe")}
		a, ended := startAcker(t, broker)
		a.finish(broker.deliver(a, 1))
		synctest.Wait()
		if err := ended(); err == nil || !strings.Contains(err.Error(), "acknowledge: broken pipe") {
			t.Errorf("the session ended by %v", err)
		}
		a.finish(broker.deliver(a, 2)) // of a handler that took longer than the session
		a.flush(t.Context())
		if broker.frames != 1 {
			t.Errorf("%d frames, want nothing after the error", broker.frames)
		}
	})
}

// TestAFlushIsBounded though the socket accepts nothing.
func TestAFlushIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &fakeAcks{t: t, finished: map[uint64]bool{}, stalled: make(chan struct{})}
		a, _ := startAcker(t, broker)
		a.finish(broker.deliver(a, 1))
		ctx, cancel := context.WithTimeout(t.Context(), closeGrace)
		defer cancel()
		a.flush(ctx) // synctest fails if this waits for ever
		if broker.acked != 0 {
			t.Error("a socket that accepts nothing has accepted an acknowledgement")
		}
		close(broker.stalled)
	})
}
