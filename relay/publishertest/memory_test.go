package publishertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
)

func TestThePublisherInMemoryConforms(t *testing.T) {
	Run(t, func(*testing.T) *Broker { return memory(relaytest.NewPublisher(), nil) })
}

// memory describes relaytest's publisher. With wrap the suite gets another one, on top of it.
func memory(p *relaytest.Publisher, wrap func(relay.Publisher) relay.Publisher) *Broker {
	var mu sync.Mutex
	fates := map[string]relaytest.Fate{}
	held := make(chan struct{})
	close(held)
	p.Decide(func(e relay.Entry) relaytest.Fate {
		mu.Lock()
		fate, wait := fates[e.Event.ID], held
		mu.Unlock()
		<-wait
		return fate
	})
	decide := func(fate relaytest.Fate) func(testing.TB, *surepost.Event) {
		return func(_ testing.TB, e *surepost.Event) {
			mu.Lock()
			defer mu.Unlock()
			fates[e.ID] = fate
		}
	}
	b := &Broker{
		Publisher: p,
		Published: func(t testing.TB, n int) []string {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			events, err := p.Await(ctx, n)
			if err != nil {
				t.Fatal(err)
			}
			return ids(events)
		},
		Reject: decide(relaytest.Reject), Unroutable: decide(relaytest.Return), Refuse: decide(relaytest.Refuse),
		Kill: decide(relaytest.Kill), Blame: decide(relaytest.Blame),
		Hold: func(testing.TB) func() {
			mu.Lock()
			defer mu.Unlock()
			gate := make(chan struct{})
			held = gate
			return sync.OnceFunc(func() { close(gate) })
		},
		Drop:    func(testing.TB) { p.Drop() },
		Hang:    func(t testing.TB) { p.Hang(); t.Cleanup(p.Resume) },
		Stop:    func(testing.TB) { p.Stop(errors.New("connection refused")) },
		Start:   func(testing.TB) { p.Start() },
		Block:   func(testing.TB) { p.Block("memory") },
		Unblock: func(testing.TB) { p.Unblock() },
	}
	if wrap != nil {
		b.Publisher = wrap(p)
	}
	return b
}
