package publishertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// limit is how long anything may take that isn't kept from happening. soon is how much longer than its context a call may
// take: time to say good-bye over a slow network, and not for an operator to notice.
var (
	limit = 20 * time.Second
	soon  = 8 * time.Second
)

// session is a session with what the tests ask of it.
type session struct {
	relay.Session
	t      testing.TB
	broker *Broker
	sent   []surepost.Event // by tag - firstTag
	closed bool             // Outcomes is
}

// firstTag isn't 0: a publisher must take any.
const firstTag = 1000

func open(t testing.TB, b *Broker) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	s, err := b.Publisher.Open(ctx)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	if err := s.Err(); err != nil {
		t.Fatalf("Err of a new session is %v, want nil", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.Close(ctx) // its tests are elsewhere
	})
	return &session{Session: s, t: t, broker: b}
}

// window is how many events may be without an outcome.
func (b *Broker) window() int {
	if w, ok := b.Publisher.(interface{ Window() int }); ok {
		return w.Window()
	}
	return 1024 // the relay's default
}

// event returns an event, changed as the test wants it.
func event(t testing.TB, id string, change func(testing.TB, *surepost.Event)) surepost.Event {
	t.Helper()
	e := surepost.Event{
		ID: id, Type: "Tested", Source: "publishertest", Version: "1.0", CorrelationID: id, Key: "key",
		Time: time.Date(2024, 1, 15, 10, 30, 0, 0, time.UTC), Data: []byte(`{"text":"abc"}`),
	}
	if change != nil {
		change(t, &e)
	}
	return e
}

// send sends an event, under the next tag.
func (s *session) send(e surepost.Event) {
	s.t.Helper()
	if err := s.trySend(e); err != nil {
		s.t.Fatalf("Send of event %d: %v", len(s.sent), err)
	}
}

func (s *session) trySend(e surepost.Event) (err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), limit)
	defer cancel()
	s.sent = append(s.sent, e)
	entry := relay.Entry{Seq: int64(len(s.sent)), Event: e}
	within(s.t, limit, "Send", func() { err = s.Session.Send(ctx, firstTag+uint64(len(s.sent)-1), &entry) })
	return err
}

// sendMany sends so many events with ids that begin with prefix.
func (s *session) sendMany(prefix string, n int) {
	s.t.Helper()
	for i := range n {
		s.send(event(s.t, fmt.Sprintf("%s-%04d", prefix, i), nil))
	}
}

// receive returns the next n outcomes; fewer only if the session ends.
func (s *session) receive(n int) (all []relay.Outcome) {
	s.t.Helper()
	timeout := time.After(limit)
	for len(all) < n {
		select {
		case batch, ok := <-s.Outcomes():
			if !ok {
				s.closed = true
				return all
			}
			all = append(all, batch...)
		case <-timeout:
			s.t.Fatalf("%d of %d outcomes within %v (Err is %v)", len(all), n, limit, s.Err())
		}
	}
	return all
}

// want checks that the outcomes are those of the first events, or of those from a place on, in order and with their statuses.
func (s *session) want(from int, got []relay.Outcome, statuses ...relay.Status) {
	s.t.Helper()
	if len(got) != len(statuses) {
		s.t.Fatalf("%d outcomes, want %d (Err is %v)", len(got), len(statuses), s.Err())
	}
	for i, o := range got {
		if want := firstTag + uint64(from+i); o.Tag != want {
			s.t.Fatalf("outcome %d has tag %d, want %d: outcomes come in the order of sending, one for each event", i, o.Tag, want)
		}
		if o.Status != statuses[i] {
			s.t.Fatalf("the outcome of event %s is %s (%s), want %s", s.sent[from+i].ID, o.Status, o.Reason, statuses[i])
		}
		if (o.Reason == "") != (o.Status == relay.Confirmed) {
			s.t.Fatalf("the outcome of event %s is %s with the reason %q: a reason is for people, and empty only if confirmed", s.sent[from+i].ID, o.Status, o.Reason)
		}
	}
}

// wantLasting checks that the session is fit for more.
func (s *session) wantLasting() {
	s.t.Helper()
	if err := s.Err(); err != nil {
		s.t.Fatalf("the session has ended: %v", err)
	}
	from := len(s.sent)
	s.send(event(s.t, fmt.Sprint("after-", from), nil))
	s.want(from, s.receive(1), relay.Confirmed)
	if err := s.Err(); err != nil {
		s.t.Fatalf("the session has ended: %v", err)
	}
}

// wantEnd checks that the session has ended, or does so now, and returns the outcomes that it told before.
func (s *session) wantEnd() []relay.Outcome {
	s.t.Helper()
	last := s.receive(len(s.sent) + 1)
	if !s.closed {
		s.t.Fatalf("%d outcomes for %d events", len(last), len(s.sent))
	}
	if s.Err() == nil {
		s.t.Fatal("Outcomes is closed and Err is nil: it says why the session ended")
	}
	if s.trySend(event(s.t, "late", nil)) == nil {
		s.t.Fatal("Send succeeds after the session's end: the event is lost")
	}
	s.sent = s.sent[:len(s.sent)-1]
	return last
}

// wantConfirmedArrived checks that nothing was confirmed that didn't arrive, of outcomes from the first event on.
func (s *session) wantConfirmedArrived(got []relay.Outcome) {
	s.t.Helper()
	for i, o := range got {
		if o.Tag != firstTag+uint64(i) {
			s.t.Fatalf("outcome %d has tag %d, want %d", i, o.Tag, firstTag+i)
		}
		if o.Status == relay.Confirmed && !slices.Contains(s.broker.Published(s.t, i+1), s.sent[i].ID) {
			s.t.Fatalf("event %s is confirmed and didn't arrive", s.sent[i].ID)
		}
	}
}

// close closes the session with a context that lasts for so long, and demands that it returns soon after.
func (s *session) close(patience time.Duration) (err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), patience)
	defer cancel()
	within(s.t, patience+soon, "Close", func() { err = s.Session.Close(ctx) })
	return err
}

// within fails the test if call takes longer. A call that comes back later must not use t.
func within(t testing.TB, most time.Duration, what string, call func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		call()
	}()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("%s didn't return within %v", what, most)
	}
}

func times(n int, status relay.Status) []relay.Status {
	return slices.Repeat([]relay.Status{status}, n)
}

func ids(events []surepost.Event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.ID
	}
	return all
}

func wantCause(t testing.TB, err error, refused, unpublishable bool) {
	t.Helper()
	if got := errors.Is(err, relay.ErrRefused); got != refused {
		t.Fatalf("Err matches relay.ErrRefused: %v, want %v: %v", got, refused, err)
	}
	if got := errors.Is(err, relay.ErrUnpublishable); got != unpublishable {
		t.Fatalf("Err matches relay.ErrUnpublishable: %v, want %v: %v", got, unpublishable, err)
	}
}
