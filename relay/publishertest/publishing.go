package publishertest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

func inOrder(t *testing.T, b *Broker) {
	const n = 300
	s := open(t, b)
	s.sendMany("e", n)
	s.want(0, s.receive(n), times(n, relay.Confirmed)...)
	if got := b.Published(t, n); !slices.Equal(got, ids(s.sent)) {
		t.Errorf("the events arrived as %v, want them in the order of sending", got)
	}
	s.wantLasting()
}

func confirmedHasArrived(t *testing.T, b *Broker) {
	s := open(t, b)
	for i := range 20 {
		s.send(event(t, fmt.Sprintf("e-%02d", i), nil))
		s.want(i, s.receive(1), relay.Confirmed)
		if got := b.Published(t, i+1); !slices.Equal(got, ids(s.sent)) {
			t.Fatalf("event %d is confirmed, and what arrived is %v", i, got)
		}
	}
}

func sendDoesNotWait(t *testing.T, b *Broker) {
	n := min(b.window(), 1024)
	s := open(t, b)
	s.sendMany("e", n) // nobody receives: the relay's one goroutine does both
	s.want(0, s.receive(n), times(n, relay.Confirmed)...)
}

func sendTakesAWindow(t *testing.T, b *Broker) {
	n := min(b.window(), 1024)
	s := open(t, b)
	release := b.Hold(t)
	s.sendMany("e", n)
	release()
	s.want(0, s.receive(n), times(n, relay.Confirmed)...)
	s.wantLasting()
}

// between sends an event of the kind between two others.
func between(t *testing.T, b *Broker, kind func(testing.TB, *surepost.Event), status relay.Status) *session {
	t.Helper()
	s := open(t, b)
	s.send(event(t, "before", nil))
	s.send(event(t, "it", kind))
	s.send(event(t, "behind", nil))
	s.want(0, s.receive(3), relay.Confirmed, status, relay.Confirmed)
	s.wantLasting()
	return s
}

func rejected(t *testing.T, b *Broker) {
	between(t, b, b.Reject, relay.Rejected)
	if got := b.Published(t, 3); slices.Contains(got, "it") {
		t.Errorf("the rejected event arrived: %v", got)
	}
}

func unroutable(t *testing.T, b *Broker) { between(t, b, b.Unroutable, relay.Unroutable) }

func refused(t *testing.T, b *Broker) { between(t, b, b.Refuse, relay.Refused) }

// mixed sends what the broker can do, in turns.
func mixed(t *testing.T, b *Broker) {
	type kind struct {
		change func(testing.TB, *surepost.Event)
		status relay.Status
	}
	kinds := []kind{{nil, relay.Confirmed}}
	for _, k := range []struct {
		Ability
		kind
	}{{Reject, kind{b.Reject, relay.Rejected}}, {Unroutable, kind{b.Unroutable, relay.Unroutable}}, {Refuse, kind{b.Refuse, relay.Refused}}} {
		if b.can(k.Ability) {
			kinds = append(kinds, k.kind)
		}
	}
	const n = 60
	s := open(t, b)
	var want []relay.Status
	for i := range n {
		k := kinds[i*7%11%len(kinds)] // in no simple order
		s.send(event(t, fmt.Sprintf("e-%02d", i), k.change))
		want = append(want, k.status)
	}
	s.want(0, s.receive(n), want...)
	s.wantLasting()
}

func blocked(t *testing.T, b *Broker) {
	s := open(t, b)
	is, _, changed := s.Blocked()
	if is {
		t.Fatal("a new session is blocked")
	}
	b.Block(t)
	t.Cleanup(func() { b.Unblock(t) })
	s.send(event(t, "first", nil)) // a broker may tell only those who publish
	within(t, limit, "the announcement of being blocked", func() { <-changed })
	is, reason, changed := s.Blocked()
	if !is || reason == "" {
		t.Fatalf("after the announcement Blocked is %v, with the reason %q", is, reason)
	}
	select {
	case <-changed:
		t.Fatal("the channel that came with being blocked is closed already: nothing has changed since")
	default:
	}
	b.Unblock(t)
	within(t, limit, "the announcement of not being blocked", func() { <-changed })
	if is, reason, _ := s.Blocked(); is {
		t.Fatalf("still blocked (%s) after the second announcement", reason)
	}
	s.want(0, s.receive(1), relay.Confirmed)
	s.wantLasting()
}
