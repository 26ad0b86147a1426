package amqptest

import (
	"cmp"
	"slices"
	"time"
)

// write writes what there is to write, and heartbeats when there is nothing.
func (c *connection) write() {
	defer c.broker.work.Done()
	var spare []byte
	for {
		next := c.nextWrite(spare)
		switch {
		case next.gate != nil:
			select {
			case <-next.gate.open:
			case <-next.healed:
			case <-c.done:
				return
			}
		case len(next.bytes) > 0:
			if _, err := c.raw.Write(next.bytes); err != nil {
				c.end()
				return
			}
			spare = next.bytes
			c.written(len(next.bytes))
		case next.last:
			c.end()
			return
		default:
			if !c.idle(next.heartbeat) {
				return
			}
		}
	}
}

// toWrite is what the writing goroutine has to do next.
type toWrite struct {
	gate      *Gate // wait for this
	healed    <-chan struct{}
	bytes     []byte // write these
	last      bool   // close the socket
	heartbeat time.Duration
}

func (c *connection) nextWrite(spare []byte) toWrite {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if g := c.stalledWrites; g != nil && !g.passed() {
		return toWrite{gate: g, healed: c.healed}
	}
	next := toWrite{bytes: c.out, last: c.flushing, heartbeat: c.heartbeat}
	if len(c.out) == 0 {
		return next // and spare stays with the caller
	}
	if cap(spare) > 2*congestedBytes {
		spare = nil
	}
	c.out = spare[:0]
	return next
}

// written lets go on what has waited for room.
func (c *connection) written(n int) {
	if n <= congestedBytes {
		return
	}
	select {
	case c.drain <- struct{}{}:
	default:
	}
	c.broker.mu.Lock()
	defer c.broker.unlock()
	for _, ch := range c.sortedChannels() {
		ch.stirQueues()
	}
}

// idle waits for something to write; after half a heartbeat it sends one. False: the connection is over.
func (c *connection) idle(heartbeat time.Duration) bool {
	var beat <-chan time.Time
	if heartbeat > 0 {
		t := time.NewTimer(heartbeat / 2)
		defer t.Stop()
		beat = t.C
	}
	select {
	case <-c.wake:
	case <-c.done:
		return false
	case <-beat:
		c.broker.mu.Lock()
		defer c.broker.mu.Unlock()
		if !c.flushing {
			c.out = appendFrame(c.out, frameHeartbeat, 0, nil)
		}
	}
	return true
}

// end ends the connection from the writing goroutine.
func (c *connection) end() {
	c.broker.mu.Lock()
	defer c.broker.unlock()
	c.detach()
	c.cut()
}

func (c *connection) sortedChannels() []*channel {
	all := make([]*channel, 0, len(c.channels))
	for _, ch := range c.channels {
		all = append(all, ch)
	}
	slices.SortFunc(all, func(x, y *channel) int { return cmp.Compare(x.id, y.id) })
	return all
}
