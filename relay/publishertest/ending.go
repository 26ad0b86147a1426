package publishertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/surepost/surepost/relay"
)

func closeWaits(t *testing.T, b *Broker) {
	const n = 50
	s := open(t, b)
	s.sendMany("e", n)
	if err := s.close(limit); err != nil {
		t.Fatalf("Close: %v", err)
	}
	s.want(0, s.wantEnd(), times(n, relay.Confirmed)...)
	wantCause(t, s.Err(), false, false)
}

func closeWaitsForLate(t *testing.T, b *Broker) {
	const n = 5
	s := open(t, b)
	release := b.Hold(t)
	s.sendMany("e", n)
	closed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
		defer cancel()
		closed <- s.Session.Close(ctx)
	}()
	select {
	case err := <-closed:
		t.Fatalf("Close returned (%v) before the events had their outcomes", err)
	case <-time.After(100 * time.Millisecond): // time enough for one that doesn't wait
	}
	release()
	var err error
	within(t, limit, "Close", func() { err = <-closed })
	if err != nil {
		t.Errorf("Close: %v", err)
	}
	s.want(0, s.wantEnd(), times(n, relay.Confirmed)...)
}

func closeGivesUp(t *testing.T, b *Broker) {
	s := open(t, b)
	s.sendMany("first", 1)
	s.want(0, s.receive(1), relay.Confirmed)
	release := b.Hold(t)
	t.Cleanup(release)
	s.sendMany("e", 5)
	if s.close(100*time.Millisecond) == nil {
		t.Error("Close gave up and returned no error: who called it takes all outcomes for told")
	}
	if got := s.wantEnd(); len(got) > 0 {
		t.Errorf("after Close gave up, %d outcomes are told that the broker didn't tell", len(got))
	}
	wantCause(t, s.Err(), false, false)
}

func closeReturnsWhateverHangs(t *testing.T, b *Broker) {
	s := open(t, b)
	b.Hang(t)
	s.sendMany("e", min(b.window(), 100))
	if s.close(200*time.Millisecond) == nil {
		t.Error("Close gave up and returned no error")
	}
	if got := s.wantEnd(); len(got) > 0 {
		t.Errorf("a broker that hangs has told %d outcomes", len(got))
	}
	wantCause(t, s.Err(), false, false)
}

func closeAgain(t *testing.T, b *Broker) {
	s := open(t, b)
	s.sendMany("e", 3)
	for range 2 {
		if err := s.close(limit); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	s.want(0, s.wantEnd(), times(3, relay.Confirmed)...)
	s.Blocked() // may be asked at any time

	s = open(t, b)
	b.Drop(t)
	s.wantEnd()
	began := time.Now()
	_ = s.close(limit) // it may tell why the session had ended
	if took := time.Since(began); took > soon {
		t.Errorf("Close of a session that had ended took %v", took)
	}
}

func lost(t *testing.T, b *Broker) {
	s := open(t, b)
	s.sendMany("e", 10)
	got := s.receive(10)
	s.want(0, got, times(10, relay.Confirmed)...)
	b.Drop(t)
	if more := s.wantEnd(); len(more) > 0 {
		t.Errorf("%d outcomes more than events", len(more))
	}
	wantCause(t, s.Err(), false, false)
	s = open(t, b) // the publisher itself is as good as before
	s.wantLasting()
}

func lostUnknown(t *testing.T, b *Broker) {
	s := open(t, b)
	release := b.Hold(t)
	s.sendMany("e", 10)
	b.Drop(t)
	got := s.wantEnd()
	release()
	if len(got) > 0 {
		t.Errorf("outcomes are told that the broker didn't tell, the first is %+v", got[0])
	}
	wantCause(t, s.Err(), false, false)
	s.wantConfirmedArrived(got)
}

func killed(t *testing.T, b *Broker) {
	s := open(t, b)
	s.sendMany("before", 3)
	s.want(0, s.receive(3), times(3, relay.Confirmed)...)
	s.send(event(t, "culprit", b.Kill))
	if got := s.wantEnd(); len(got) > 0 {
		t.Errorf("the event that ended the session has the outcome %s", got[0].Status)
	}
	wantCause(t, s.Err(), true, false)
}

func blamed(t *testing.T, b *Broker) {
	s := open(t, b)
	s.sendMany("before", 3)
	s.want(0, s.receive(3), times(3, relay.Confirmed)...)
	s.send(event(t, "culprit", b.Blame))
	if got := s.wantEnd(); len(got) > 0 {
		t.Errorf("the event that ended the session has the outcome %s", got[0].Status)
	}
	wantCause(t, s.Err(), true, true)
	if got := b.Published(t, 3); !slices.Equal(got, ids(s.sent[:3])) {
		t.Errorf("%v arrived, want the three before the culprit", got)
	}
}
