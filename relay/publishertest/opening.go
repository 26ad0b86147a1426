package publishertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/relay"
)

func openConcurrently(t *testing.T, b *Broker) {
	const sessions, n = 8, 20
	opened := make([]relay.Session, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
			defer cancel()
			s, err := b.Publisher.Open(ctx)
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			opened[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	all := make([]*session, sessions)
	for i, s := range opened {
		all[i] = &session{Session: s, t: t, broker: b}
		all[i].sendMany(fmt.Sprintf("session-%d", i), n) // all of them before any outcome is received
	}
	for _, s := range all {
		s.want(0, s.receive(n), times(n, relay.Confirmed)...)
		if err := s.close(limit); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if got := b.Published(t, sessions*n); len(got) != sessions*n {
		t.Errorf("%d events arrived, want %d", len(got), sessions*n)
	}
}

func sessionsAreSeparate(t *testing.T, b *Broker) {
	one, other := open(t, b), open(t, b)
	one.sendMany("one", 3)
	other.sendMany("other", 3)
	if err := one.close(limit); err != nil {
		t.Fatalf("Close: %v", err)
	}
	one.want(0, one.wantEnd(), times(3, relay.Confirmed)...)
	other.want(0, other.receive(3), times(3, relay.Confirmed)...)
	other.wantLasting()
	if got := b.Published(t, 7); len(slices.Compact(slices.Sorted(slices.Values(got)))) != 7 {
		t.Errorf("what arrived is %v, want seven events", got)
	}
}

func openFails(t *testing.T, b *Broker) {
	s := open(t, b)
	b.Stop(t)
	started := sync.OnceFunc(func() { b.Start(t) })
	t.Cleanup(started)
	s.wantEnd()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Second)
	defer cancel()
	if tryOpen(t, ctx, b, 2*time.Second+soon) == nil {
		t.Error("Open succeeds, and there is no broker")
	}
	started()
	open(t, b).wantLasting()
}

func openCancelled(t *testing.T, b *Broker) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if tryOpen(t, ctx, b, soon) == nil {
		t.Error("Open succeeds with a context that has ended")
	}
}

func openGivesUp(t *testing.T, b *Broker) {
	b.Hang(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 200*time.Millisecond)
	defer cancel()
	if tryOpen(t, ctx, b, 200*time.Millisecond+soon) == nil {
		t.Error("Open succeeds with a broker that answers nothing")
	}
}

// tryOpen returns Open's error, and demands that it comes in time.
func tryOpen(t testing.TB, ctx context.Context, b *Broker, most time.Duration) (err error) {
	t.Helper()
	within(t, most, "Open", func() { _, err = b.Publisher.Open(ctx) })
	return err
}
