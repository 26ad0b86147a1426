package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/surepost/surepost"
)

// producers write events, in transactions that may have their id early, run for long, and roll back. The writers of a key wait
// for each other before they write, as promise 3 asks for.
type producers struct {
	*run
	locked map[string]int // keys, by the number of the transaction
	begun  int
	events int
}

var keys = []string{"", "", "a", "b", "c", "d", "e", "f", "g"}

// work writes until the world is calm.
func (p *producers) work(rnd *rand.Rand) {
	for !p.calm() {
		p.transaction(rnd, time.Duration(rnd.IntN(int(p.quiet))))
		sleepUpTo(rnd, p.quiet)
	}
}

func sleepUpTo(rnd *rand.Rand, most time.Duration) { time.Sleep(1 + upTo(rnd, most)) }

// transaction is one, which lasts for that long when it has written.
func (p *producers) transaction(rnd *rand.Rand, lasts time.Duration) {
	var (
		number, server int
		id             uint64
		rows           []*row
		gone           bool
	)
	// do runs a statement, unless the transaction has ended with its server.
	do := func(statement func()) {
		p.w.Look(func() {
			if gone = gone || p.db.server != server || p.db.down; !gone {
				statement()
			}
		})
	}
	assign := func() {
		if id == 0 {
			id = p.db.assign()
		}
	}
	p.w.Look(func() {
		p.begun++
		number, server = p.begun, p.db.server
	})
	if rnd.IntN(3) == 0 { // it has written something else before
		do(assign)
		sleepUpTo(rnd, 20*time.Millisecond)
	}
	key := keys[rnd.IntN(len(keys))]
	if !p.lock(rnd, key, number, server) {
		return
	}
	for range 1 + rnd.IntN(3) {
		do(assign)
		if rnd.IntN(2) == 0 {
			sleepUpTo(rnd, 3*time.Millisecond)
		}
		cause := p.cause(rnd)
		do(func() { rows = append(rows, p.insert(id, key, cause)) })
		if rnd.IntN(3) == 0 {
			sleepUpTo(rnd, 20*time.Millisecond)
		}
	}
	time.Sleep(lasts)
	commits := rnd.IntN(6) > 0
	do(func() {
		p.db.end(id, commits)
		if commits {
			p.ledger.committed(rows)
			p.db.flushed()
		}
	})
	p.w.Look(func() {
		if p.locked[key] == number {
			delete(p.locked, key)
		}
	})
	switch {
	case gone:
		p.w.Note("producer", "transaction %d was ended by the database's crash", id)
	case commits:
		p.w.Note("producer", "transaction %d commits", id)
	default:
		p.w.Note("producer", "transaction %d rolls back", id)
	}
}

// lock waits for the key's lock.
func (p *producers) lock(rnd *rand.Rand, key string, number, server int) (got bool) {
	if key == "" {
		return true
	}
	for range 100 {
		p.w.Look(func() {
			if holder := p.locked[key]; holder == 0 && p.db.server == server {
				p.locked[key], got = number, true
			}
		})
		if got || p.calm() {
			return got
		}
		sleepUpTo(rnd, 20*time.Millisecond)
	}
	return false
}

// insert writes an event: its row has the transaction's id, and then draws its number.
func (p *producers) insert(id uint64, key string, c cause) *row {
	p.events++
	p.db.drawn++
	r := &row{tx: id, seq: p.db.drawn, cause: c, event: surepost.Event{ID: fmt.Sprint("e", p.events), Type: "T", Key: key}}
	r.slot = r.event.Slot()
	p.db.rows = append(p.db.rows, r)
	p.w.NoteIn("producer", "transaction %d writes %s, seq %d, key %q, cause %d", id, r.event.ID, r.seq, key, c)
	return r
}

// upTo draws a duration below most.
func upTo(rnd *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(most)))
}
