package relaytest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
)

// commit writes events named e1 to en, of the keys in turns.
func commit(t testing.TB, store *memstore.Store, n int, keys ...string) {
	t.Helper()
	box, err := outbox.New(store, outbox.Config{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	from := len(store.Events())
	err = store.Do(t.Context(), func(tx *memstore.Tx) error {
		for i := range n {
			e := surepost.Event{ID: fmt.Sprint("e", from+i+1), Type: "T"}
			if len(keys) > 0 {
				e.Key = keys[i%len(keys)]
			}
			if err := box.Write(t.Context(), tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ids(events ...surepost.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %s, want %s", what, got, want)
	}
}

func TestEachStepDoesOneThing(t *testing.T) {
	store := memstore.New()
	commit(t, store, 6)
	r := relaytest.New(t, store)
	want(t, "published", ids(r.PublishNext()), "e1")
	want(t, "failed before", ids(r.FailBefore()), "e2")
	want(t, "so far", ids(r.Published()...), "e1")
	want(t, "failed after", ids(r.FailAfter()), "e2")
	want(t, "failed after again", ids(r.FailAfter()), "e2")
	want(t, "so far", ids(r.Published()...), "e1 e2 e2")
	want(t, "published", ids(r.PublishNext()), "e2")
	want(t, "published and crashed", ids(r.PublishAndCrash()), "e3")
	want(t, "published by the next", ids(r.PublishNext()), "e3")
	r.Crash()
	r.Crash() // a dead relay can't die
	want(t, "published after the crash", ids(r.PublishNext()), "e4")
	r.Stop()
	want(t, "drained", ids(r.Drain()...), "e5 e6")
	want(t, "all", ids(r.Published()...), "e1 e2 e2 e2 e3 e3 e4 e5 e6")
	want(t, "drained again", ids(r.Drain()...), "")
	commit(t, store, 1)
	want(t, "what was committed later", ids(r.PublishNext()), "e7")
}

// A crash between the steps repeats nothing, since each step waits until the relay has stored it; over and over, as
// chance must not decide.
func TestWhatAStepHasPublishedIsStored(t *testing.T) {
	store := memstore.New()
	const n = 200
	commit(t, store, n, "a", "b", "")
	r := relaytest.NewWithConfig(t, store, relay.Config{Logger: slog.New(slog.DiscardHandler)})
	for i := range n {
		want(t, "published", ids(r.PublishNext()), fmt.Sprint("e", i+1))
		r.Crash()
	}
	want(t, "left", ids(r.Drain()...), "")
}

// The relay that dies in a test leaves what a relay that dies leaves: a lease, which only its own name gets at once.
func TestACrashLeavesTheLeaseBehind(t *testing.T) {
	store := memstore.New()
	commit(t, store, 2)
	r := relaytest.New(t, store)
	r.PublishNext()
	epoch := r.Report().Epoch
	r.Crash()
	var held *relay.LeaseHeldError
	_, err := store.Acquire(t.Context(), relay.Lane{Destination: relay.DefaultDestination, Of: 1}, "another", time.Minute)
	if !errors.As(err, &held) {
		t.Errorf("another relay's attempt at the lease: %v, want it to be held", err)
	}
	r.PublishNext()
	if now := r.Report(); now.Epoch != epoch+1 || now.State != relay.Leading {
		t.Errorf("the next relay: %+v, want epoch %d", now, epoch+1)
	}
	r.Stop()
	if r.Report().State != relay.Stopped {
		t.Error("a stopped relay isn't")
	}
	if _, err := store.Acquire(t.Context(), relay.Lane{Destination: relay.DefaultDestination, Of: 1}, "another", time.Minute); err != nil {
		t.Errorf("after Stop the lease is free: %v", err)
	}
}

func TestWhatTheBrokerDoesntTakeComesAgainOrIsParked(t *testing.T) {
	store := memstore.New()
	commit(t, store, 2, "a", "b")
	r := relaytest.NewWithConfig(t, store, relay.Config{UnroutableTries: 2})
	want(t, "rejected", ids(r.Step(relaytest.Reject)), "e1")
	for came := false; !came; { // after its pause; those of the other key don't wait for it
		e := r.PublishNext()
		came = e.ID == "e1"
		if !came && e.Key != "b" {
			t.Fatalf("%s overtook e1, which is of its key", e.ID)
		}
	}
	commit(t, store, 4, "a", "b")
	want(t, "refused", ids(r.Step(relaytest.Refuse)), "e3") // and e5 behind it
	want(t, "returned", ids(r.Step(relaytest.Return)), "e4")
	want(t, "returned again", ids(r.Step(relaytest.Return)), "e4") // and e6 behind it
	want(t, "left", ids(r.Drain()...), "")
	parked, err := store.Parked(t.Context(), relay.ParkedFilter{}, 10)
	if err != nil || len(parked) != 4 {
		t.Fatalf("parked: %v, %v, want e3 to e6", parked, err)
	}
	if _, err := store.RetryParked(t.Context(), relay.ParkedFilter{Key: "a"}, "test"); err != nil {
		t.Fatal(err)
	}
	want(t, "retried", ids(r.Drain()...), "e3 e5")
}

// slow is a store whose reads take longer than a step is willing to look away.
type slow struct{ relay.Store }

func (s slow) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	l, err := s.Store.Open(ctx, lease)
	return slowLog{l}, err
}

type slowLog struct{ relay.Log }

func (l slowLog) Read(ctx context.Context, limit int) (relay.Page, error) {
	p, err := l.Log.Read(ctx, limit)
	time.Sleep(20 * time.Millisecond) // what is committed now isn't in the page
	return p, err
}

func TestWhatWasJustCommittedIsntOverlooked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		r := relaytest.New(t, slow{store})
		for i := range 20 {
			want(t, "left", ids(r.Drain()...), "")
			time.Sleep(time.Duration(i) * time.Millisecond)
			commit(t, store, 1)
			want(t, "just committed", ids(r.PublishNext()), fmt.Sprint("e", i+1))
		}
	})
}

func TestABrokerThatFallsSilentKeepsOutcomesToItself(t *testing.T) {
	store := memstore.New()
	commit(t, store, 2)
	r := relaytest.New(t, store)
	want(t, "taken in silence", ids(r.Step(relaytest.Silence)), "e1")
	if report := r.Report(); report.Published != 0 {
		t.Errorf("%+v, want nothing published that the relay knows of", report)
	}
	r.Publisher.Drop()
	want(t, "drained", ids(r.Drain()...), "e1 e2")
	want(t, "killed over", ids(commitOne(t, store, r, relaytest.Kill)), "e3")
	want(t, "then", ids(r.Drain()...), "e3") // a single strike is no proof
	want(t, "all", ids(r.Published()...), "e1 e1 e2 e3")
}

func commitOne(t testing.TB, store *memstore.Store, r *relaytest.Relay, fate relaytest.Fate) surepost.Event {
	t.Helper()
	commit(t, store, 1)
	return r.Step(fate)
}

func TestABrokerThatIsAwayIsNamed(t *testing.T) {
	store := memstore.New()
	commit(t, store, 1)
	for name, c := range map[string]struct {
		do   func(*relaytest.Publisher)
		want string
	}{
		"blocked": {func(p *relaytest.Publisher) { p.Block("memory") }, "is blocked: call Publisher.Unblock"},
		"stopped": {func(p *relaytest.Publisher) { p.Stop(errors.New("refused")) }, "is stopped: call Publisher.Start"},
		"hanging": {func(p *relaytest.Publisher) { p.Hang() }, "hangs: call Publisher.Resume"},
	} {
		report := testspy.Run(t, func(t testing.TB) {
			r := relaytest.New(t, store)
			c.do(r.Publisher)
			r.PublishNext()
		})
		if !report.Failed || !strings.Contains(report.Text, c.want) {
			t.Errorf("%s: %+v, want %q", name, report, c.want)
		}
	}
}

func TestAStepThatCantBeTakenSaysWhy(t *testing.T) {
	store := memstore.New()
	commit(t, store, 1)
	for name, c := range map[string]struct {
		test func(t testing.TB)
		want string
	}{
		"nothing left": {func(t testing.TB) {
			r := relaytest.New(t, store)
			r.Drain()
			r.PublishNext()
		}, "no event is left to be published: was the transaction committed? Published so far: T e1"},
		"nothing at all": {func(t testing.TB) { relaytest.New(t, memstore.New()).FailAfter() }, "Published so far: nothing"},
		"crash":          {func(t testing.TB) { relaytest.New(t, memstore.New()).PublishAndCrash() }, "Published so far: nothing"},
		"config": {func(t testing.TB) {
			relaytest.NewWithConfig(t, store, relay.Config{PageEvents: -1})
		}, "PageEvents is -1"},
		"halted": {func(t testing.TB) { relaytest.New(t, unmigrated{store}).PublishNext() }, "the relay ended: relay: lane halted: migrate"},
	} {
		if r := testspy.Run(t, c.test); !r.Failed || !strings.Contains(r.Text, c.want) {
			t.Errorf("%s: %+v, want %q", name, r, c.want)
		}
	}
}

type unmigrated struct{ relay.Store }

func (unmigrated) Check(context.Context) error { return fmt.Errorf("%w: migrate", relay.ErrHalt) }

// With larger pages and windows the steps work as well: what was sent waits in the order of sending.
func TestStepsWithAWindow(t *testing.T) {
	store := memstore.New()
	commit(t, store, 20)
	r := relaytest.NewWithConfig(t, store, relay.Config{WindowEvents: 4, PageEvents: 5})
	for i := range 4 {
		want(t, "published", ids(r.PublishNext()), fmt.Sprint("e", i+1))
	}
	r.Crash() // in the middle of a page: all of it comes again
	want(t, "published by the next", ids(r.PublishNext()), "e1")
	want(t, "drained", ids(r.Drain()[:5]...), "e2 e3 e4 e5 e6")
	if n := len(r.Published()); n != 24 {
		t.Errorf("%d published, want 24", n)
	}
}

// The steps work in a bubble of testing/synctest, where pauses take no time.
func TestStepsInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		commit(t, store, 3)
		r := relaytest.New(t, store)
		r.FailAfter()
		time.Sleep(time.Minute)
		want(t, "drained", ids(r.Drain()...), "e1 e2 e3")
		want(t, "all", ids(r.Published()...), "e1 e1 e2 e3")
	})
}

func TestThePublisherAwaitsAndDecides(t *testing.T) {
	store := memstore.New()
	commit(t, store, 4, "a", "b", "c", "d")
	p := relaytest.NewPublisher()
	p.Next(relaytest.Confirm, relaytest.Reject, relaytest.LoseAfter)
	p.Decide(func(e relay.Entry) relaytest.Fate {
		if e.Event.ID == "e4" {
			return relaytest.Refuse
		}
		return relaytest.Confirm
	})
	r, err := relay.New(store, p, relay.Config{BackoffMin: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { _ = r.Run(ctx) }()
	events, err := p.Await(ctx, 4) // e1, e3; the connection lost; then those again and e2
	if err != nil {
		t.Fatal(err)
	}
	if got := ids(events[:2]...); got != "e1 e3" {
		t.Errorf("first arrived %s, want e1 e3", got)
	}
	later := strings.Fields(ids(events[2:]...))
	if slices.Contains(later, "e4") {
		t.Errorf("the refused event arrived: %v", later)
	}
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	if got, err := p.Await(short, 1000); err == nil || len(got) < 4 || !strings.Contains(err.Error(), "of 1000 events were published") {
		t.Errorf("%d, %v", len(got), err)
	}
	if p.Opened() < 2 {
		t.Errorf("%d sessions, want one after the loss", p.Opened())
	}
}
