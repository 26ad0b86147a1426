package amqp

import (
	"fmt"
	"sync"
	"time"
)

// A nack is taken for something that passes: the event is sent again, for as long as it takes. There is one kind that
// doesn't pass while the channel lives: RabbitMQ (seen with 3.10.8, on a cluster) rejects everything that a channel
// publishes to a quorum queue if the first of it came while the queue had no leader, although it has one soon after, and
// other channels publish to it. So a session ends when an event was rejected for long, and the next one has a new channel.
//
// A queue that is full (x-overflow reject-publish) rejects in the same way, and there a new session is of no use and
// costs repetitions. So each session that ends for the same event is given twice the time of the one before.
const (
	rejectionPatience    = 3 * time.Second // an election takes a second or two
	maxRejectionPatience = 5 * time.Minute
	minRejections        = 3 // tries
)

// patience is how long a publisher's sessions put up with the rejection of an event.
type patience struct {
	mu      sync.Mutex
	now     time.Duration
	culprit string // the event that a session was ended for, until it is confirmed
}

// get returns how long a new session waits, and the event whose confirm resets that.
func (p *patience) get() (wait time.Duration, culprit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.culprit
}

func (p *patience) lost(culprit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.culprit = min(2*p.now, maxRejectionPatience), culprit
}

func (p *patience) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.culprit = rejectionPatience, ""
}

// rejections are the events that a session's channel has rejected and not confirmed yet. One goroutine's.
type rejections struct {
	patience *patience
	wait     time.Duration
	culprit  string
	events   map[string]*rejection // by id
}

type rejection struct {
	since time.Time
	tries int
}

func newRejections(p *patience) rejections {
	wait, culprit := p.get()
	return rejections{patience: p, wait: wait, culprit: culprit, events: map[string]*rejection{}}
}

// confirmed forgets an event.
func (r *rejections) confirmed(id string) {
	if len(r.events) > 0 {
		delete(r.events, id)
	}
	if r.culprit != "" && r.culprit == id {
		r.culprit = ""
		r.patience.reset()
	}
}

// rejected returns an error when it is time for another channel.
func (r *rejections) rejected(id string, now time.Time) error {
	e := r.events[id]
	if e == nil {
		e = &rejection{since: now}
		r.events[id] = e
	}
	e.tries++
	if e.tries < minRejections || now.Sub(e.since) < r.wait {
		return nil
	}
	r.patience.lost(id)
	return fmt.Errorf("amqp: event %s was rejected %d times within %v: trying a new channel, since RabbitMQ may reject all that "+
		"a channel publishes to a quorum queue that had no leader once; if a queue is full, this goes on until there is room",
		id, e.tries, now.Sub(e.since).Round(time.Millisecond))
}
