package amqp

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/outbox"
)

// TestPlantedBugsAreFound: each of these consumers breaks a promise, and the simulation says which.
func TestPlantedBugsAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		plant simPlant
		want  []string // what is said, one of these
	}{
		"acknowledges before the commit": {simPlant{handler: func(in *inbox.Inbox[*simTx]) Handler {
			return simHandler{in, func(ctx context.Context, e surepost.Event) (inbox.Result, error) {
				go in.Handle(context.WithoutCancel(ctx), e)
				return inbox.Handled, nil
			}}
		}}, []string{"before its effects were committed"}},
		"acknowledges after a failure": {simPlant{handler: func(in *inbox.Inbox[*simTx]) Handler {
			return simHandler{in, func(ctx context.Context, e surepost.Event) (inbox.Result, error) {
				_, _ = in.Handle(ctx, e)
				return inbox.Handled, nil
			}}
		}}, []string{"before its effects were committed"}},
		"dedupes without the consumer's name": {simPlant{store: func(s simStore) inbox.Store[*simTx] {
			return simTransact{s, func(ctx context.Context, _ string, ids []string, work simWork) error {
				return s.Transact(ctx, "", ids, work)
			}}
		}}, []string{"before its effects were committed", "is lost to"}},
		"dedupes nothing": {simPlant{store: func(s simStore) inbox.Store[*simTx] {
			return simTransact{s, func(ctx context.Context, consumer string, ids []string, work simWork) error {
				return s.Transact(ctx, consumer, ids, func(tx *simTx, _ []bool) error {
					return work(tx, slices.Repeat([]bool{true}, len(ids)))
				})
			}}
		}}, []string{"took effect 2 times"}},
		"takes a failed commit for a commit": {simPlant{store: func(s simStore) inbox.Store[*simTx] {
			return simTransact{s, func(ctx context.Context, consumer string, ids []string, work simWork) error {
				worked := false
				err := s.Transact(ctx, consumer, ids, func(tx *simTx, first []bool) error {
					err := work(tx, first)
					worked = err == nil
					return err
				})
				if worked {
					return nil
				}
				return err
			}}
		}}, []string{"before its effects were committed"}},
		"doesn't serialise keys": {simPlant{message: func(m *message) { m.event.Key = "" }},
			[]string{"after a later one"}},
		"writes what follows outside the transaction": {simPlant{outbox: func(s simStore) outbox.Store[*simTx] {
			return simAppend{s, func(_ context.Context, _ *simTx, events []surepost.Event) error {
				s.Look(func() { s.followUps = append(s.followUps, events...) })
				return nil
			}}
		}}, []string{"was written twice", "follow from what took effect"}},
		"loses the cause of what follows": {simPlant{outbox: func(s simStore) outbox.Store[*simTx] {
			return simAppend{s, func(ctx context.Context, tx *simTx, events []surepost.Event) error {
				events = slices.Clone(events)
				for i := range events {
					events[i].CausationID = ""
				}
				return s.Append(ctx, tx, events)
			}}
		}}, []string{"is of the flow"}},
		"acknowledges past what isn't finished": {simPlant{channel: func(c simChannel) simChannel {
			return simAcks(func(tag uint64, _ bool) error { return c.Ack(tag, true) })
		}}, []string{"before its effects were committed", "acknowledged the delivery tag"}},
		"handles all keys in one order": {simPlant{message: func(m *message) { m.event.Key = "all" }},
			[]string{"all other events are settled"}},
		"loses dead letters": {simPlant{letters: func(func() error) error { return nil }},
			[]string{"before its effects were committed"}},
		"goes on after its context has ended": {simPlant{handler: func(in *inbox.Inbox[*simTx]) Handler {
			return simHandler{in, func(ctx context.Context, e surepost.Event) (inbox.Result, error) {
				return in.Handle(context.WithoutCancel(ctx), e)
			}}
		}}, []string{"stopped with an error", "to stop, its ShutdownTimeout"}},
		"takes an outage for the event's fault": {simPlant{config: func(c *ConsumerConfig) {
			c.ErrorIsOutage = func(error) bool { return false }
		}}, []string{`for "attempts-spent", it deserves ""`}},
	} {
		t.Run(name, func(t *testing.T) {
			found := sim.Hunt(t, sim.Budget{Least: 3000}, func(w *sim.World) { simulate(w, c.plant) })
			says := func(want string) bool { return strings.Contains(found.Why.Error(), want) }
			if !slices.ContainsFunc(c.want, says) {
				t.Errorf("it broke another promise: %v", found.Why)
			}
		})
	}
}

// simHandler is an inbox with a bug in front.
type simHandler struct {
	*inbox.Inbox[*simTx]
	handle func(ctx context.Context, e surepost.Event) (inbox.Result, error)
}

func (h simHandler) Handle(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	return h.handle(ctx, e)
}

// simWork is what is done in a transaction.
type simWork = func(tx *simTx, first []bool) error

// simTransact is a store whose transactions have a bug.
type simTransact struct {
	simStore
	transact func(ctx context.Context, consumer string, ids []string, work simWork) error
}

func (s simTransact) Transact(ctx context.Context, consumer string, ids []string, work simWork) error {
	return s.transact(ctx, consumer, ids, work)
}

// simAppend is an outbox's store with a bug.
type simAppend struct {
	simStore
	append func(ctx context.Context, tx *simTx, events []surepost.Event) error
}

func (s simAppend) Append(ctx context.Context, tx *simTx, events []surepost.Event) error {
	return s.append(ctx, tx, events)
}

// simAcks is a channel whose acknowledgements have a bug.
type simAcks func(tag uint64, multiple bool) error

func (f simAcks) Ack(tag uint64, multiple bool) error { return f(tag, multiple) }
