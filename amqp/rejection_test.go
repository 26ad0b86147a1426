package amqp

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/relay"
)

// What a channel rejects again and again is tried on another one: some channels reject for ever.
func TestASessionEndsWhenAnEventIsRejectedForLong(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	b.Inject(amqptest.Fault{When: published("stuck"), Do: amqptest.Nack()})
	s := openSession(t, b, PublisherConfig{})
	s.rejections.wait = 50 * time.Millisecond
	var rejected, confirmed int
	for tag := uint64(0); s.Err() == nil; tag += 2 {
		if tag > 10_000 {
			t.Fatal("the session goes on")
		}
		for i, id := range []string{"stuck", fmt.Sprint("other", tag)} {
			if err := s.Send(t.Context(), tag+uint64(i), &relay.Entry{Event: testEvent(id)}); err != nil {
				break
			}
			for _, o := range receive(t, s, 1) {
				switch o.Status {
				case relay.Rejected:
					rejected++
				case relay.Confirmed:
					confirmed++
				}
			}
		}
		time.Sleep(time.Millisecond) // a relay pauses before it sends a rejected event again
	}
	if rejected < minRejections || confirmed < minRejections-1 {
		t.Errorf("%d rejected, %d confirmed before the end", rejected, confirmed)
	}
	if !strings.Contains(s.Err().Error(), "event stuck was rejected") || errors.Is(s.Err(), relay.ErrRefused) {
		t.Errorf("it ended with %v", s.Err())
	}
	if wait, culprit := s.rejections.patience.get(); wait != 2*rejectionPatience || culprit != "stuck" {
		t.Errorf("the next session waits %v for %q", wait, culprit)
	}
}

func TestPatienceWithRejectionsDoublesUntilTheEventIsConfirmed(t *testing.T) {
	var p patience
	p.reset()
	now := time.Now()
	for session, want := range []time.Duration{3 * time.Second, 6 * time.Second, 12 * time.Second} {
		r := newRejections(&p)
		r.confirmed("other")
		for try := range 10 {
			if err := r.rejected("e", now.Add(time.Duration(try)*want/10)); err != nil {
				t.Fatalf("session %d ended after %d tries: %v", session, try, err)
			}
		}
		if err := r.rejected("e", now.Add(want)); err == nil {
			t.Errorf("session %d goes on after %v", session, want)
		}
	}
	r := newRejections(&p)
	r.confirmed("e")
	if wait, _ := p.get(); wait != rejectionPatience {
		t.Errorf("%v after the confirm, want %v", wait, rejectionPatience)
	}
	for range 2 { // a long pause between two tries says nothing
		if err := r.rejected("f", now.Add(time.Hour)); err != nil {
			t.Error(err)
		}
		now = now.Add(time.Hour)
	}
	r.confirmed("f")
	if err := r.rejected("f", now.Add(2*time.Hour)); err != nil || len(r.events) != 1 {
		t.Errorf("after its confirm, a rejection counted with those before: %v", err)
	}
}
