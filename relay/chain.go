package relay

// chain is the unsettled events of one key, oldest first.
//
// With StrictPerKey only the first is ever on its way. With Pipelined they follow each other at once until one of
// them fails. Then the chain stalls: nothing more of it is sent until everything of it that is in flight has its
// outcome; after a pause its first event goes alone, and only its confirm lets the others go on. So an event can be
// overtaken by what was in flight together with it, and by nothing else.
type chain struct {
	first, last *item
	flying      int
	stalled     bool
	refused     bool // some can never be published: the first of them and what is behind it will be parked
}

// itemState is where an item is.
type itemState uint8

const (
	unsent  itemState = iota // waits for its turn in the chain
	queued                   // in stream.ready
	flying                   // sent, without an outcome
	failed                   // its last try failed: it will be sent again
	paused                   // so, and in stream.waiting
	held                     // in stream.held
	settled                  // confirmed or parked
)

func (c *chain) append(it *item) {
	it.chain, it.prev = c, c.last
	if c.last == nil {
		c.first = it
	} else {
		c.last.next = it
	}
	c.last = it
}

func (c *chain) remove(it *item) {
	if it.prev == nil {
		c.first = it.next
	} else {
		it.prev.next = it.next
	}
	if it.next == nil {
		c.last = it.prev
	} else {
		it.next.prev = it.prev
	}
}

// mayGo reports whether a queued item may be sent now: one that was made ready before the chain stalled may stand in the
// ready queue before those that come first in the chain.
func (c *chain) mayGo(it *item) bool {
	return c == nil || c.first == it || !c.stalled && it.prev.state == flying
}
