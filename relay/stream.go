package relay

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"fmt"
	"time"
)

// stream decides what is sent next and what is settled. It is a state machine: no clock, no goroutine, no I/O. The
// shell (run.go) feeds it with pages and outcomes, sends what next returns, and stores what settled returns.
//
// Its rules:
//   - At most one event of a key is unconfirmed, so that neither a nack nor a return lets a later one overtake; with
//     Pipelined only those may overtake that were in flight at the same time (see chain).
//   - An event is sent again, after a pause, for as long as the broker rejects it; its key waits, others don't.
//   - An event that can't be published is parked, and the later ones of its key behind it; unless the policy is that they
//     go on, or that the lane halts.
//   - A page is settled when each of its entries is confirmed or parked, and pages are settled in the order of
//     reading: a checkpoint says that nothing before it is open.
type stream struct {
	policy   policy
	pages    []*page
	open     int               // entries that are neither confirmed nor parked
	span     int               // entries of pages
	bytes    int               // of data of the open entries
	keys     map[string]*chain // of each key with unsettled items
	ready    queue
	waiting  waitingHeap
	held     []*item // suspects, until an event is published
	proven   bool    // one was
	flying   map[uint64]*item
	lastTag  uint64
	parked   map[string]bool // keys with parked events, stored or about to be, whose later ones wait
	halted   error           // with ParkHalts: the lane stops here
	suspects *suspects
}

// policy is what a stream needs of the configuration.
type policy struct {
	order                  Order
	unroutable             UnroutablePolicy
	unroutableTries        int
	parking                ParkingPolicy
	backoffMin, backoffMax time.Duration
	jitter                 func() float64 // in [0,1)
}

func (c Config) policy(jitter func() float64) policy {
	return policy{c.Order, c.Unroutable, c.UnroutableTries, c.Parking, c.BackoffMin, c.BackoffMax, jitter}
}

// page is a batch of entries that is settled as a whole.
type page struct {
	after    Position
	count    int
	released bool // entries that were parked before: settled by Unpark, not by a checkpoint
	open     int
	entries  []Entry
	parked   []Parked
}

// item is an entry on its way.
type item struct {
	entry      *Entry
	page       *page
	tries      int
	returns    int // tries that found no queue: only these count against UnroutableTries
	state      itemState
	chain      *chain // nil without a key
	prev, next *item  // of the chain
	wakeAt     time.Time
	sentAt     time.Time
	freed      bool   // a suspect that is to be held back no more
	refusal    string // why it can never be published
}

func newStream(p policy, suspects *suspects, parkedKeys []string) *stream {
	s := &stream{policy: p, keys: map[string]*chain{}, flying: map[uint64]*item{}, parked: map[string]bool{}, suspects: suspects}
	if p.parking != ParkKeyGoesOn {
		for _, k := range parkedKeys {
			s.parked[k] = true
		}
	}
	return s
}

// add takes in a page that was read. Pages without entries need no place, for the next one's position is behind theirs:
// unless they are on the way through rows that aren't for this log, which may take long, or at its end.
func (s *stream) add(p Page) {
	if len(p.Entries) == 0 && !p.Full && !p.Done {
		return
	}
	pg := &page{after: p.After, count: len(p.Entries), entries: p.Entries}
	s.pages = append(s.pages, pg)
	s.span += pg.count
	items := make([]item, len(pg.entries))
	for i := range pg.entries {
		it := &items[i]
		it.entry, it.page = &pg.entries[i], pg
		if s.parked[it.entry.Event.Key] {
			s.park(it, true, "waits behind a parked event of its key")
			continue
		}
		s.begin(it)
	}
}

// addReleased takes in entries that were parked and may be tried again. Their keys stay parked for newly read ones
// until unparked is called.
func (s *stream) addReleased(entries []Entry) {
	pg := &page{released: true, count: len(entries), entries: entries}
	s.pages = append(s.pages, pg)
	s.span += pg.count
	for i := range pg.entries {
		delete(s.suspects.doomed, entries[i].identity()) // an operator asked for another try
		s.begin(&item{entry: &pg.entries[i], page: pg})
	}
}

// unparked says that no parked event of the keys is stored any more. A key of which one is about to be stays parked:
// it will be released in its turn.
func (s *stream) unparked(keys []string) {
	coming := map[string]bool{}
	for _, pg := range s.pages {
		for _, p := range pg.parked {
			coming[p.Event.Key] = true
		}
	}
	for _, k := range keys {
		if !coming[k] {
			delete(s.parked, k)
		}
	}
}

// begin takes in an item that is to be sent.
func (s *stream) begin(it *item) {
	s.open++
	s.bytes += it.entry.bytes()
	it.page.open++
	s.enqueue(it)
}

// enqueue puts the item behind those of its key, and makes it ready if it needn't wait for them.
func (s *stream) enqueue(it *item) {
	key := it.entry.Event.Key
	if key == "" {
		s.push(it)
		return
	}
	c := s.keys[key]
	if c == nil {
		c = &chain{}
		s.keys[key] = c
	}
	c.append(it)
	if c.first == it || s.policy.order == Pipelined && !c.stalled {
		s.push(it)
	}
}

func (s *stream) push(it *item) {
	it.state = queued
	s.ready.push(it)
}

// next returns the entry to be sent now, under a new tag, or nil if none is.
func (s *stream) next(now time.Time) (uint64, *Entry) {
	if s.halted != nil {
		return 0, nil
	}
	for len(s.waiting) > 0 && !s.waiting[0].wakeAt.After(now) {
		s.push(heap.Pop(&s.waiting).(*item))
	}
	for it := s.ready.pop(); it != nil; it = s.ready.pop() {
		if it.state != queued {
			continue // parked meanwhile
		}
		if !it.chain.mayGo(it) {
			it.state = unsent // resume makes it ready again, or the one before it when it is sent
			continue
		}
		if reason, doomed := s.suspects.doomed[it.entry.identity()]; doomed {
			s.refuse(it, reason)
			if s.halted != nil {
				return 0, nil
			}
			continue
		}
		if !s.proven && !it.freed && s.suspects.hold(it.entry) {
			s.hold(it)
			continue
		}
		it.state, it.sentAt = flying, now
		if it.chain != nil {
			it.chain.flying++
			if s.policy.order == Pipelined {
				s.follow(it.chain, it.next)
			}
		}
		s.lastTag++
		s.flying[s.lastTag] = it
		return s.lastTag, it.entry
	}
	return 0, nil
}

// follow makes an item ready whose turn came before that of what is in front of it, and which may go now.
func (s *stream) follow(c *chain, it *item) {
	if it != nil && it.state == unsent && c.mayGo(it) {
		s.push(it)
	}
}

// hold keeps the item, and what is behind it, back until release.
func (s *stream) hold(it *item) {
	it.state = held
	s.held = append(s.held, it)
	if it.chain != nil {
		it.chain.stalled = true
	}
}

// release lets the held entries go.
func (s *stream) release() {
	for _, it := range s.held {
		it.freed = true
		if it.chain != nil && it.chain.first != it {
			it.state = unsent // it goes when those before it are settled
			continue
		}
		s.push(it) // alone in its chain, which stays stalled until it is confirmed
	}
	s.held = nil
}

// resume lets a chain go on of which nothing is in flight.
func (s *stream) resume(c *chain) {
	c.stalled = false
	for it := c.first; it != nil; it = it.next {
		switch it.state {
		case held:
			c.stalled = true
			return
		case unsent, failed:
			s.push(it)
		}
		if s.policy.order == StrictPerKey {
			return
		}
	}
}

// wakeAt returns when a waiting entry is due; zero if none waits.
func (s *stream) wakeAt() time.Time {
	if len(s.waiting) == 0 {
		return time.Time{}
	}
	return s.waiting[0].wakeAt
}

// settle takes in an outcome. It returns the entry and whether it will be sent again.
func (s *stream) settle(o Outcome, now time.Time) (entry *Entry, again bool, err error) {
	it := s.flying[o.Tag]
	if it == nil {
		return nil, false, fmt.Errorf("relay: the publisher reported an outcome (%s) for tag %d, which isn't in flight", o.Status, o.Tag)
	}
	delete(s.flying, o.Tag)
	if it.chain != nil {
		it.chain.flying--
	}
	it.tries++
	if o.Status == Unroutable {
		it.returns++
	}
	switch {
	case o.Status == Confirmed, o.Status == Unroutable && s.policy.unroutable == AcceptUnroutable:
		s.finish(it)
	case o.Status == Rejected,
		o.Status == Unroutable && it.returns < s.policy.unroutableTries:
		s.fail(it, now)
		return it.entry, true, nil
	case o.Status == Unroutable:
		s.refuse(it, fmt.Sprintf("unroutable after %d tries: %s", it.returns, o.Reason))
	case o.Status == Refused:
		s.refuse(it, o.Reason)
	default:
		return nil, false, fmt.Errorf("relay: the publisher reported an unknown outcome %d", o.Status)
	}
	return it.entry, false, nil
}

// fail lets the item be sent again after a pause, and stalls its chain.
func (s *stream) fail(it *item, now time.Time) {
	it.state = failed
	it.wakeAt = now.Add(s.backoff(it.tries))
	if it.chain == nil {
		s.pause(it)
		return
	}
	it.chain.stalled = true
	s.landed(it.chain)
}

func (s *stream) pause(it *item) {
	it.state = paused
	heap.Push(&s.waiting, it)
}

// landed goes on with a stalled chain once nothing of it is in flight any more.
func (s *stream) landed(c *chain) {
	if c.flying > 0 {
		return
	}
	if c.refused {
		s.parkRest(c)
	}
	if c.first != nil && c.first.state == failed {
		s.pause(c.first)
	}
}

// backoff returns the pause after a number of tries: it doubles, with jitter of a half, so that keys that failed
// together don't come back together.
func (s *stream) backoff(tries int) time.Duration {
	d := doubled(s.policy.backoffMin, s.policy.backoffMax, tries-1)
	return d/2 + time.Duration(s.policy.jitter()*float64(d/2))
}

// finish settles a confirmed item and lets its chain go on.
func (s *stream) finish(it *item) {
	s.close(it)
	it.entry.Event.Data, it.entry.Event.Headers = nil, nil // its page may stay for long, behind one that isn't settled
	s.proven = true
	s.release()
	if it.chain != nil {
		s.leave(it)
	}
}

// leave takes a confirmed item out of its chain and lets that go on.
func (s *stream) leave(it *item) {
	c := it.chain
	wasFirst := c.first == it
	c.remove(it)
	switch {
	case c.first == nil:
		delete(s.keys, it.entry.Event.Key)
	case wasFirst && c.flying == 0 && !c.refused && (c.stalled || s.policy.order == StrictPerKey):
		s.resume(c)
	case c.stalled:
		s.landed(c)
	}
}

// refuse parks an item that can never be published, and everything that has been read of its key behind it: as soon
// as nothing of the key is in flight, since what is may yet be confirmed. Or what the policy is instead.
func (s *stream) refuse(it *item, reason string) {
	reason = cmp.Or(reason, "the publisher gave no reason")
	it.refusal = reason
	c := it.chain
	switch {
	case s.policy.parking == ParkHalts:
		it.state = failed // and open: no checkpoint passes it
		s.halted = halt(it.entry, reason)
		return
	case c == nil:
		s.close(it)
		s.park(it, false, reason)
		return
	case s.policy.parking == ParkKeyGoesOn:
		s.close(it)
		s.park(it, false, reason)
		s.leaveBehind(it)
		return
	}
	it.state = failed
	c.stalled, c.refused = true, true
	s.landed(c)
}

// leaveBehind takes a parked item out of its chain, which goes on without it. A chain that has stalled stays so: a refusal
// doesn't show that the broker takes the key's events again, and the next one goes alone as this one did.
func (s *stream) leaveBehind(it *item) {
	c := it.chain
	c.remove(it)
	first := c.first
	switch {
	case first == nil:
		delete(s.keys, it.entry.Event.Key)
	case c.flying > 0:
		s.follow(c, it.next)
	case first.state == unsent:
		s.push(first)
	case first.state == failed:
		s.pause(first)
	}
}

// parkRest parks a chain from its first refused item on.
func (s *stream) parkRest(c *chain) {
	culprit := c.first
	for culprit.refusal == "" { // the last one to be refused needn't be the first of the chain
		culprit = culprit.next
	}
	c.refused, c.last = false, culprit.prev
	if c.last == nil {
		c.first = nil
		delete(s.keys, culprit.entry.Event.Key)
	} else {
		c.last.next = nil
	}
	for it := culprit; it != nil; it = it.next {
		s.close(it)
		if it.refusal != "" {
			s.park(it, false, it.refusal)
		} else {
			s.park(it, true, "waits behind event "+culprit.entry.Event.ID)
		}
	}
}

func (s *stream) park(it *item, behind bool, reason string) {
	it.page.parked = append(it.page.parked, Parked{Entry: *it.entry, Behind: behind, Reason: reason})
	s.suspects.forget(it.entry)
	if key := it.entry.Event.Key; key != "" && s.policy.parking != ParkKeyGoesOn {
		s.parked[key] = true
	}
}

func (s *stream) close(it *item) {
	it.state = settled
	s.open--
	s.bytes -= it.entry.bytes()
	it.page.open--
	if it.page.open == 0 && !it.page.released {
		it.page.entries = nil
	}
}

// settlement is what the front of the stream has come to.
type settlement struct {
	at     Position // nil: only released entries were settled
	parked []Parked // before at

	// Of released entries:
	published []Entry
	again     []Parked
	keys      []string
}

func (s settlement) empty() bool { return s.at == nil && !s.released() }

// released reports whether it has anything about released entries.
func (s settlement) released() bool { return len(s.published)+len(s.again)+len(s.keys) > 0 }

// urgent reports whether it is more than a new position: an operator looks for it, or others wait for it.
func (s settlement) urgent() bool { return len(s.parked) > 0 || s.released() }

// settled takes the settled pages off the front.
func (s *stream) settled() settlement {
	var done settlement
	for len(s.pages) > 0 && s.pages[0].open == 0 {
		pg := s.pages[0]
		s.pages[0] = nil
		s.pages = s.pages[1:]
		s.span -= pg.count
		if !pg.released {
			done.at = pg.after
			done.parked = append(done.parked, pg.parked...)
			continue
		}
		failed := map[int64]bool{}
		for _, p := range pg.parked {
			failed[p.Seq] = true
			done.again = append(done.again, p)
		}
		seen := map[string]bool{}
		for _, e := range pg.entries {
			if !failed[e.Seq] {
				done.published = append(done.published, e)
			}
			if k := e.Event.Key; k != "" && !seen[k] {
				seen[k] = true
				done.keys = append(done.keys, k)
			}
		}
	}
	return done
}

// join adds a later settlement.
func (s settlement) join(later settlement) settlement {
	if later.at != nil {
		s.at = later.at
	}
	s.parked = append(s.parked, later.parked...)
	s.published = append(s.published, later.published...)
	s.again = append(s.again, later.again...)
	s.keys = append(s.keys, later.keys...)
	return s
}

// maxSpan is how many entries may lie between the oldest unsettled one and the newest, in buffers. One key that a
// full queue rejects for hours must not hold up the others soon, but all that was published since that entry is
// published again after a crash.
const maxSpan = 32

// room reports whether another page may be read.
func (s *stream) room(page int, config *Config) bool {
	return s.open+page <= config.BufferEvents && s.span+page <= config.BufferEvents*maxSpan && s.bytes < config.BufferBytes
}

// bytes returns the size of the entry's data.
func (e *Entry) bytes() int {
	raw, _ := e.Event.Data.(json.RawMessage) // as every store's entries have it
	return len(raw)
}

// inFlight returns the entries without an outcome.
func (s *stream) inFlight() []*Entry {
	entries := make([]*Entry, 0, len(s.flying))
	for _, it := range s.flying {
		entries = append(entries, it.entry)
	}
	return entries
}

// releasing reports whether released entries are on their way.
func (s *stream) releasing() bool {
	for _, pg := range s.pages {
		if pg.released {
			return true
		}
	}
	return false
}

// queue is a FIFO of items.
type queue struct {
	items []*item
	head  int
}

func (q *queue) push(it *item) {
	if q.head > 1024 && q.head*2 > len(q.items) { // give the used half back
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	q.items = append(q.items, it)
}

func (q *queue) pop() *item {
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		return nil
	}
	it := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	return it
}

// waitingHeap orders items by the time at which they are sent again.
type waitingHeap []*item

func (h waitingHeap) Len() int           { return len(h) }
func (h waitingHeap) Less(i, j int) bool { return h[i].wakeAt.Before(h[j].wakeAt) }
func (h waitingHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *waitingHeap) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *waitingHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}
