package simulation

import (
	"fmt"
	"slices"
	"time"

	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/relay"
)

// ledger knows what happened, whatever the database or a relay believe. Its methods are called while an effect takes place, or
// under World.Look.
type ledger struct {
	w    *sim.World
	db   *database
	rows map[string]*row   // by event id
	keys map[string][]*row // in the order of their commits

	order   relay.Order
	parking relay.ParkingPolicy
	allSure bool // no event is rejected, returned or refused
}

func newLedger(w *sim.World, db *database) *ledger {
	return &ledger{w: w, db: db, rows: map[string]*row{}, keys: map[string][]*row{}}
}

// committed takes in that a transaction's rows were committed.
func (l *ledger) committed(rows []*row) {
	for _, r := range rows {
		r.committed, r.place = true, len(l.keys[r.event.Key])
		l.rows[r.event.ID] = r
		if key := r.event.Key; key != "" {
			l.keys[key] = append(l.keys[key], r)
		}
	}
}

// find returns the row of an entry that is published. Promise 2: there is one.
func (l *ledger) find(e *relay.Entry) *row {
	r := l.rows[e.Event.ID]
	if r == nil {
		l.w.FailIn("promise 2, no ghost: %s was sent, and isn't committed", e.Event.ID)
		r = &row{seq: e.Seq, event: e.Event}
		l.rows[e.Event.ID] = r
	}
	return r
}

// published takes in that the broker has an event. Promise 3: it has all that was committed before it under its key, unless an
// operator discarded it, a failover lost it, or the policy is that it is passed by.
func (l *ledger) published(by string, r *row) {
	if r.taken {
		l.w.Detail("again")
		return
	}
	r.taken = true
	l.w.Detail("key %q, seq %d", r.event.Key, r.seq)
	if r.event.Key == "" || l.order == relay.Pipelined && !l.allSure {
		return
	}
	for _, earlier := range l.keys[r.event.Key][:r.place] {
		passedBy := l.parking == relay.ParkKeyGoesOn && earlier.refused
		if !earlier.taken && !earlier.lost && !earlier.discarded && !passedBy {
			l.w.FailIn("promise 3, order per key: %s published %s of key %q before %s, which was committed before it",
				by, r.event.ID, r.event.Key, earlier.event.ID)
			return
		}
	}
}

// handed takes in that the broker has an entry: what an operator had discarded before it was handed out isn't published. What was
// on its way is, and what a relay has read that had lost its lease by then.
func (l *ledger) handed(by string, e *relay.Entry, r *row) {
	if at := e.Event.Time; l.db.discarded(r) && !at.IsZero() && at.Sub(time.Unix(0, 0)) > l.db.discards[r.seq].at {
		l.w.FailIn("what was discarded stays so: %s published %s (seq %d), which was read at %v and discarded at %v",
			by, r.event.ID, r.seq, at.Sub(time.Unix(0, 0)), l.db.discards[r.seq].at)
	}
}

// settled reports whether the row's event is done with.
func (l *ledger) settled(r *row) bool {
	_, parked := l.db.parked[r.seq]
	return r.taken || r.discarded || parked
}

// checkPassed: a checkpoint that was stored is its lane's by the newest lease, and passes no event that is neither published
// nor parked.
func checkPassed(l *log, c cursor) {
	if !l.db.held(l.lease) {
		l.w().FailIn("a stale relay's write was accepted: %s wrote a checkpoint for %s with epoch %d, and the newest is %d",
			l.actor.Name(), l.name, l.lease.Epoch, l.db.leases[l.lease.Lane.Index].epoch)
	}
	for _, r := range l.db.rows {
		if l.mine(r) && l.db.passed(c, r) && !l.db.ledger.settled(r) {
			l.w().FailIn("promise 1, no loss: the checkpoint of %s passes %s (seq %d), which is neither published nor parked",
				l.name, r.event.ID, r.seq)
		}
	}
}

// checkParked: promise 6: nothing is parked but for a cause of its own, or behind such an event.
func checkParked(l *log, r *row, p relay.Parked) {
	w := l.w()
	if l.db.discarded(r) {
		w.FailIn("what was discarded stays so: %s (seq %d) was parked again: %s", r.event.ID, r.seq, p.Reason)
	}
	if !p.Behind {
		if r.cause == healthy {
			w.FailIn("promise 6, an outage costs latency only: %s was parked without a cause: %s", r.event.ID, p.Reason)
		}
		return
	}
	before := slices.ContainsFunc(l.db.rows, func(o *row) bool {
		return o.event.Key == r.event.Key && o.seq < r.seq && o.cause != healthy
	})
	// Where new lanes begin behind the parked event, what was published or discarded before it is read again, and parked until it
	// is published (once more).
	if !before && !r.taken && !r.discarded || l.db.ledger.parking == relay.ParkKeyGoesOn {
		w.FailIn("%s was parked behind another event, and there is none: %s", r.event.ID, p.Reason)
	}
}

// checkUnparked: what is taken out of parking was published.
func checkUnparked(l *log, seq int64) {
	if p, there := l.db.parked[seq]; there && !p.taken {
		l.w().FailIn("promise 1, no loss: %s is parked no more, and wasn't published", p.event.ID)
	}
}

func (l *log) w() *sim.World { return l.db.w }

// missing says what is left to be done.
func (l *ledger) missing() (list []string) {
	for _, r := range l.rows {
		if !r.taken && !r.lost && !r.discarded {
			list = append(list, fmt.Sprintf("%s (seq %d, key %q, slot %d)", r.event.ID, r.seq, r.event.Key, r.slot))
		}
	}
	for _, p := range l.db.parked {
		list = append(list, p.event.ID+" is parked: "+p.reason)
	}
	slices.Sort(list)
	return list
}
