package amqptest

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Confirms says how a broker sends confirms. The zero value: each at once, in order.
type Confirms struct {
	// Gather is how many confirms of a channel are gathered before they are sent together. Default 0: each at once.
	Gather int

	// Within is how long the first gathered confirm waits for others. Default 1 ms.
	Within time.Duration

	// Shuffle sends what was gathered in random order.
	Shuffle bool

	// Multiple sends what was gathered up to the oldest unconfirmed message as one confirm with the flag multiple.
	Multiple bool

	// Seed makes Shuffle the same in each run, per connection and channel.
	Seed uint64
}

const defaultWithin = time.Millisecond

// SetConfirms changes how confirms are sent, from the next one on.
func (b *Broker) SetConfirms(c Confirms) {
	b.mu.Lock()
	defer b.unlock()
	b.confirms = c
}

// outcome is a message's confirm that is due.
type outcome struct {
	number  uint64 // publishing number
	ack     bool
	message *stored // nil if it isn't stored
}

// confirmer sends the confirms of one channel.
type confirmer struct {
	ch       *channel
	gathered []outcome
	timer    *timer
	through  uint64          // all up to here were sent
	sent     map[uint64]bool // sent ahead of through
	shuffle  *rand.Rand
}

// settle sends a confirm, or gathers it.
func (f *confirmer) settle(o outcome) {
	b := f.ch.broker()
	f.gathered = append(f.gathered, o)
	if len(f.gathered) >= b.confirms.Gather {
		f.flush()
		return
	}
	if f.timer == nil {
		within := b.confirms.Within
		if within == 0 {
			within = defaultWithin
		}
		f.timer = b.after(within, func() {
			f.timer = nil
			f.flush()
		})
	}
}

// flush sends what was gathered.
func (f *confirmer) flush() {
	how := f.ch.broker().confirms
	f.ch.broker().stop(f.timer)
	f.timer = nil
	due := f.gathered
	f.gathered = nil
	if how.Shuffle {
		if f.shuffle == nil {
			f.shuffle = rand.New(rand.NewPCG(how.Seed, uint64(f.ch.conn.number)<<16|uint64(f.ch.id)))
		}
		f.shuffle.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	}
	upTo := uint64(0)
	if how.Multiple {
		upTo = f.contiguous(due)
	}
	for _, o := range due {
		if o.number > upTo {
			f.send(o, false)
		}
	}
	if upTo > 0 {
		for _, o := range due {
			if o.number <= upTo && o.message != nil {
				o.message.unconfirmed = false
			}
		}
		f.send(outcome{number: upTo, ack: true}, true)
	}
}

// contiguous returns the largest number up to which everything was sent or is due as an ack, 0 if nothing that is due
// is among it. A nack is never sent with others.
func (f *confirmer) contiguous(due []outcome) uint64 {
	numbers := make([]uint64, 0, len(due))
	for _, o := range due {
		if o.ack {
			numbers = append(numbers, o.number)
		}
	}
	slices.Sort(numbers)
	upTo, found := f.through, uint64(0)
	for _, n := range numbers {
		for f.sent[upTo+1] {
			upTo++
		}
		if n != upTo+1 {
			break
		}
		upTo, found = n, n
	}
	return found
}

// send sends one confirm.
func (f *confirmer) send(o outcome, multiple bool) {
	if f.ch.closing || f.ch.conn.detached {
		return
	}
	if o.message != nil {
		o.message.unconfirmed = false
	}
	if multiple {
		f.through = max(f.through, o.number)
		for n := range f.sent {
			if n <= f.through {
				delete(f.sent, n)
			}
		}
	} else {
		f.sent[o.number] = true
	}
	for f.sent[f.through+1] {
		delete(f.sent, f.through+1)
		f.through++
	}
	id := basicAck
	if !o.ack {
		id = basicNack
	}
	f.ch.sendMethod(id, begin(id).u64(o.number).bit(multiple))
}
