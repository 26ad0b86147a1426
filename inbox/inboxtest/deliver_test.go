package inboxtest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/outbox/outboxtest"
)

// service reserves stock: its handler puts a row and writes an event.
type service struct {
	store *memstore.Store
	box   *outbox.Outbox[*memstore.Tx]
	in    *inbox.Inbox[*memstore.Tx]
}

func newService(t testing.TB) *service {
	t.Helper()
	s := &service{store: memstore.New()}
	var err error
	if s.box, err = outbox.New(s.store, outbox.Config{Source: "inventory"}); err != nil {
		t.Fatal(err)
	}
	if s.in, err = inbox.New(s.store, inbox.Config{Consumer: "inventory"}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) reserve(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
	reserved, err := tx.Get(ctx, "reserved")
	if err != nil {
		return err
	}
	n, _ := reserved.(int)
	if err := tx.Put(ctx, "reserved", n+3); err != nil {
		return err
	}
	return s.box.Write(ctx, tx, surepost.Event{Type: "StockReserved", Key: e.Key})
}

func (s *service) reserved() int {
	n, _ := s.store.Row("reserved").(int)
	return n
}

var created = surepost.Event{Type: "OrderCreated", Key: "7", Data: map[string]int{"quantity": 3}}

func (s *service) deliver(t testing.TB, options ...Option) surepost.Event {
	t.Helper()
	return Deliver(t, s.in, created, append([]Option{Effect("reserved", s.reserved), Timeout(time.Second)}, options...)...)
}

func TestAGoodHandlerPasses(t *testing.T) {
	s := newService(t)
	calls := 0
	s.in.On("OrderCreated", func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
		calls++
		if string(e.Data.(json.RawMessage)) != `{"quantity":3}` || e.Source == "" || e.Time.IsZero() {
			t.Errorf("the handler got %+v", e)
		}
		return s.reserve(ctx, tx, e)
	})
	for n := range 2 { // as often as one likes
		e := s.deliver(t, Writes(outboxtest.Event{Type: "StockReserved", Key: "7"}))
		if s.reserved() != 3*(n+1) || len(s.store.Events()) != n+1 || calls != 2*(n+1) {
			t.Errorf("%d reserved, %d events, %d calls", s.reserved(), len(s.store.Events()), calls)
		}
		if follow := s.store.Events()[n]; follow.CausationID != e.ID || follow.CorrelationID != e.CorrelationID {
			t.Errorf("the event that Deliver returns isn't the one that was handled: %+v, %+v", e, follow)
		}
	}
	batches := newService(t)
	batches.in.OnBatch("OrderCreated", func(ctx context.Context, tx *memstore.Tx, events []surepost.Event) error {
		for _, e := range events {
			if err := batches.reserve(surepost.WithHandling(ctx, e), tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	batches.deliver(t)
}

// Each of these handlers passes a test that delivers its event once.
func TestHandlersThatBreakInProductionAreFound(t *testing.T) {
	type handler = inbox.Handler[*memstore.Tx]
	for name, c := range map[string]struct {
		handler func(s *service) handler
		options []Option
		want    []string
	}{
		"works beside its transaction": {func(s *service) handler {
			return func(ctx context.Context, _ *memstore.Tx, e surepost.Event) error {
				return s.store.Do(ctx, func(other *memstore.Tx) error { return s.reserve(ctx, other, e) })
			}
		}, nil, []string{"reserved: 0 before, 3 after the transaction was rolled back", "outside of its transaction: use tx"}},
		"remembers in memory": {func(s *service) handler {
			seen := map[string]bool{}
			return func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
				if seen[e.ID] {
					return nil
				}
				seen[e.ID] = true
				return s.reserve(ctx, tx, e)
			}
		}, nil, []string{"reserved: still 0", "remembers the first attempt"}},
		"fails the second time": {func(s *service) handler {
			var calls atomic.Int32
			return func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
				if calls.Add(1) > 1 {
					return errors.New("already open")
				}
				return s.reserve(ctx, tx, e)
			}
		}, nil, []string{"the second attempt failed", "already open"}},
		"fails": {func(*service) handler {
			return func(context.Context, *memstore.Tx, surepost.Event) error { return errors.New("no such product") }
		}, nil, []string{"the handler failed", "no such product"}},
		"panics": {func(*service) handler {
			return func(context.Context, *memstore.Tx, surepost.Event) error { panic("oh") }
		}, nil, []string{"the handler failed", "panicked: oh"}},
		"goes on after an error": {func(s *service) handler {
			return func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
				over, cancel := context.WithCancel(ctx)
				cancel()
				_ = tx.Put(over, "reserved", 3)
				return nil
			}
		}, nil, []string{"the store can't tell what the handler has written", "gone on after an error"}},
		"loses the flow": {func(s *service) handler {
			return func(_ context.Context, tx *memstore.Tx, e surepost.Event) error {
				return s.reserve(context.Background(), tx, e)
			}
		}, nil, []string{`event StockReserved (key "7") has the causation id "", want`, "with the handler's context"}},
		"names no cause": {func(s *service) handler {
			return func(_ context.Context, tx *memstore.Tx, e surepost.Event) error {
				return s.reserve(surepost.WithCorrelationID(context.Background(), e.CorrelationID), tx, e)
			}
		}, nil, []string{`has the causation id ""`}},
		"starts another flow": {func(s *service) handler {
			return func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
				return s.reserve(surepost.WithCorrelationID(ctx, "mine"), tx, e)
			}
		}, nil, []string{`and the correlation id "mine", want "inboxtest-flow"`}},
		"writes another event": {func(s *service) handler { return s.reserve },
			[]Option{Writes(outboxtest.Event{Type: "StockMissing"})}, []string{"- StockMissing", "+ #1 StockReserved"}},
		"writes beside it": {func(s *service) handler { return s.reserve }, []Option{Writes()}, []string{"+ #1 StockReserved"}},
		"waits for itself": {func(s *service) handler {
			return func(ctx context.Context, tx *memstore.Tx, e surepost.Event) error {
				if err := s.reserve(ctx, tx, e); err != nil {
					return err
				}
				return s.store.Do(ctx, func(other *memstore.Tx) error { return other.Put(ctx, "reserved", 1) })
			}
		}, []Option{Timeout(50 * time.Millisecond)}, []string{"didn't end in time", "beside its transaction"}},
		"ignores its context": {func(*service) handler {
			return func(context.Context, *memstore.Tx, surepost.Event) error { select {} }
		}, []Option{Timeout(50 * time.Millisecond)}, []string{"didn't end in time"}},
		"does nothing that counts": {func(*service) handler {
			return func(context.Context, *memstore.Tx, surepost.Event) error { return nil }
		}, nil, []string{"reserved: still 0", "counts something else"}},
		"its effect grows with each delivery": {func(s *service) handler { return s.reserve },
			[]Option{Effect("asked", func() func() int { n := 0; return func() int { n++; return max(n-2, 0) } }())}, []string{"asked: "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.in.On("OrderCreated", c.handler(s))
			r := testspy.Run(t, func(t testing.TB) { s.deliver(t, c.options...) })
			for _, want := range c.want {
				if !r.Failed || !strings.Contains(r.Text, want) {
					t.Errorf("failed: %v, and it doesn't say %q:\n%s", r.Failed, want, r.Text)
				}
			}
		})
	}
}

func TestMistakesInTheTestAreExplained(t *testing.T) {
	s := newService(t)
	s.in.On("OrderCreated", s.reserve)
	effect := Effect("reserved", s.reserved)
	handled := created
	handled.ID = "e1"
	Deliver(t, s.in, handled, effect)
	for name, c := range map[string]struct {
		test func(t testing.TB)
		want string
	}{
		"no effect":  {func(t testing.TB) { Deliver(t, s.in, created) }, "has no effect to look at"},
		"no handler": {func(t testing.TB) { Deliver(t, s.in, surepost.Event{Type: "OrderLost"}, effect) }, `no handler for events of type "OrderLost", only for: OrderCreated`},
		"no type":    {func(t testing.TB) { Deliver(t, s.in, surepost.Event{}, effect) }, "no outbox would write this event"},
		"handled":    {func(t testing.TB) { Deliver(t, s.in, handled, effect) }, "event e1 was handled before: leave its id empty"},
	} {
		if r := testspy.Run(t, c.test); !r.Failed || !strings.Contains(r.Text, c.want) {
			t.Errorf("%s: %+v, want %q", name, r, c.want)
		}
	}
}

// broken is an inbox's store with a bug.
type broken struct {
	*memstore.Store
	transact func(s *memstore.Store, ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error) error
}

func (b broken) Transact(ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error) error {
	return b.transact(b.Store, ctx, consumer, ids, work)
}

func TestABrokenInboxIsFound(t *testing.T) {
	type transact = func(s *memstore.Store, ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error) error
	for name, c := range map[string]struct {
		transact transact
		want     string
	}{
		"dedupes nothing": {func(s *memstore.Store, ctx context.Context, _ string, ids []string, work func(*memstore.Tx, []bool) error) error {
			return s.Do(ctx, func(tx *memstore.Tx) error { return work(tx, slices.Repeat([]bool{true}, len(ids))) })
		}, "of two deliveries at once one was handled and one handled"},
		"commits what failed": {func(s *memstore.Store, ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error) error {
			var failed error
			err := s.Transact(ctx, consumer, ids, func(tx *memstore.Tx, first []bool) error {
				failed = work(tx, first)
				return nil
			})
			return errors.Join(failed, err)
		}, "3 after the transaction was rolled back"},
		"swallows errors": {func(s *memstore.Store, ctx context.Context, consumer string, ids []string, work func(*memstore.Tx, []bool) error) error {
			_ = s.Transact(ctx, consumer, ids, work)
			return nil
		}, "the transaction failed, and the inbox says that the event was handled"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			in, err := inbox.New(broken{s.store, c.transact}, inbox.Config{Consumer: "c"})
			if err != nil {
				t.Fatal(err)
			}
			in.On("OrderCreated", s.reserve)
			s.in = in
			if r := testspy.Run(t, func(t testing.TB) { s.deliver(t) }); !r.Failed || !strings.Contains(r.Text, c.want) {
				t.Errorf("%+v, want %q", r, c.want)
			}
		})
	}
}

// mute is a store that can't tell what a transaction has written.
type mute struct{ inbox.Store[*memstore.Tx] }

func TestAStoreThatCannotTellIsNamedWhereItMatters(t *testing.T) {
	s := newService(t)
	in, err := inbox.New(mute{s.store}, inbox.Config{Consumer: "c"})
	if err != nil {
		t.Fatal(err)
	}
	in.On("OrderCreated", s.reserve)
	s.in = in
	s.deliver(t)
	if r := testspy.Run(t, func(t testing.TB) { s.deliver(t, Writes()) }); !strings.Contains(r.Text, "implement outboxtest.Store") {
		t.Errorf("%+v", r)
	}
}
