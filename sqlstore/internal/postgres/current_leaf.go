package postgres

import (
	"context"
	"sync/atomic"
	"time"
)

// currentLeaf is which leaf of the ring producers write to, as the database said not long ago. To look it up in each INSERT
// costs a twentieth of the whole transaction, and it changes every few days; where an event lies never matters for
// correctness (retain.go). So one INSERT in a while asks, and tells. An event that is written to a leaf in the second after the ring
// moved on may go that second before its retention is over.
type currentLeaf struct {
	seen atomic.Pointer[leafSeen]
}

type leafSeen struct {
	leaf  int64
	until time.Time
}

const leafMemory = time.Second

// get returns the leaf, or false if that was asked too long ago.
func (c *currentLeaf) get() (int64, bool) {
	seen := c.seen.Load()
	if seen == nil || time.Now().After(seen.until) {
		return 0, false
	}
	return seen.leaf, true
}

func (c *currentLeaf) forget() { c.seen.Store(nil) }

// ask runs an INSERT that returns the leaf that it took, from a transaction that may yet roll back: that's no matter.
func (c *currentLeaf) ask(ctx context.Context, q Querier, sql string, args []any) error {
	var leaf int64
	found, err := queryRow(ctx, q, sql, args, &leaf)
	if found && err == nil {
		c.seen.Store(&leafSeen{leaf, time.Now().Add(leafMemory)})
	}
	return err
}
