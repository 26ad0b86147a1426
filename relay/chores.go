package relay

import (
	"context"
	"sync"
)

// chores are what a relay does beside publishing, on standby too. Each may be done by several relays at once: the store
// sees to it that they don't get in each other's way. It returns a function that ends them and waits
// for it.
func (r *Relay) chores(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for _, chore := range []func(context.Context){r.moveDue, r.retain} {
		group.Go(func() { chore(ctx) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}
