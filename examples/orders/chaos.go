package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/surepost/surepost/examples/internal/child"
)

// kill is one planned SIGKILL.
type kill struct {
	at      float64 // share of the orders that are posted
	service string
}

// killPlan kills the relay three times and the inventory service twice. The inventory comes last: a relay that was
// killed publishes its last events again, and that would make up for what a consumer lost before.
var killPlan = []kill{{0.15, "relay"}, {0.30, "inventory"}, {0.40, "relay"}, {0.50, "relay"}, {0.80, "inventory"}}

// chaos carries out the plan while orders are posted.
type chaos struct {
	orders   int
	posted   func() int64
	services map[string]*child.Service
	say      func(format string, args ...any)
	killed   []chan struct{} // closed when the kill of the plan was carried out
}

func newChaos(orders int, posted func() int64, services map[string]*child.Service, say func(string, ...any)) *chaos {
	c := &chaos{orders: orders, posted: posted, services: services, say: say}
	for range killPlan {
		c.killed = append(c.killed, make(chan struct{}))
	}
	return c
}

// place returns at how many posted orders a kill is due.
func (c *chaos) place(k int) int { return int(killPlan[k].at * float64(c.orders)) }

// gate holds an order back while the last kill but one is outstanding, so that a run with few orders has all of its
// kills in the midst of work, too. In a long run nobody waits here.
func (c *chaos) gate(ctx context.Context, order int) error {
	for k := range killPlan[:len(killPlan)-1] {
		if order < c.place(k+1) {
			return nil
		}
		select {
		case <-c.killed[k]:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

const (
	// workLimit is how long a service may take to be at work. A relay that was killed waits for the lease of its
	// predecessor, which is 2 s.
	workLimit = 30 * time.Second
	// burst is the time in which a few events show that a service is at work. A single one may be a late copy, after
	// which all is quiet again.
	burst = 250 * time.Millisecond
)

// run carries out the plan. It returns an error if a service didn't work when it was to be killed: a kill of an idle
// process shows nothing.
func (c *chaos) run(ctx context.Context) error {
	for k, due := range killPlan {
		for c.posted() < int64(c.place(k)) {
			if err := pause(ctx); err != nil {
				return err
			}
		}
		victim := c.services[due.service]
		if err := c.awaitWork(ctx, victim); err != nil {
			return err
		}
		pid, done := victim.Kill()
		at := c.posted()
		if _, err := victim.Start(ctx); err != nil {
			return err
		}
		c.say("killed %s (pid %d) at %s orders, after %s events of its own; started it again", due.service, pid, thousands(at), thousands(done))
		close(c.killed[k])
	}
	return nil
}

// awaitWork waits until the service has got on by a random number of events and is at work, and then for a random
// moment: it is hit in the midst of something.
func (c *chaos) awaitWork(ctx context.Context, s *child.Service) error {
	ctx, cancel := context.WithTimeoutCause(ctx, workLimit, fmt.Errorf("%s was to be killed, but did no work within %v", s.Name, workLimit))
	defer cancel()
	enough := s.Done() + rand.Int64N(1+int64(c.orders)/20)
	for since, before := time.Now(), s.Done(); s.Done() < max(enough, before+3); {
		if time.Since(since) > burst {
			since, before = time.Now(), s.Done()
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	time.Sleep(rand.N(child.TellInterval))
	return nil
}

// pause waits for a moment, or for the end of ctx.
func pause(ctx context.Context) error {
	select {
	case <-time.After(2 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
