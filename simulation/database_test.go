package simulation

import (
	"maps"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/relay"
)

// database is PostgreSQL as far as the log's cut, leases and checkpoints rest on it. Its methods are called while an effect
// takes place, or from World.Look.
type database struct {
	w      *sim.World
	plant  plant
	ledger *ledger
	pooled bool // behind a pooler, which hides that the server was restarted

	*state
	skew   time.Duration // of its clock
	down   bool
	server int    // changes when it is restarted or another is promoted
	kept   *state // what a crash to come will leave
	sync   bool   // commits of business transactions are in kept, as after a crash of the server and unlike a failover
}

// state is what the database has stored.
type state struct {
	nextID    uint64   // next transaction id to be assigned
	running   []uint64 // transactions with an id
	completed uint64   // the highest id of one that has ended
	committed map[uint64]bool
	drawn     int64 // the last number that the sequence gave out
	rows      []*row

	lanes       int // of the destination; 0: it isn't there
	leases      map[int]lease
	relays      map[string]member
	checkpoints map[int][]checkpoint // by lane, oldest first
	parked      map[int64]parkedRow
	discards    map[int64]discard
}

// row is a row of the log. What becomes of its event isn't the database's business, but what the promises are about.
type row struct {
	tx    uint64
	seq   int64
	slot  int
	event surepost.Event
	cause cause // for not publishing it

	committed bool
	place     int  // among its key's committed rows
	lost      bool // by a failover, after it was committed
	taken     bool // the broker has had it
	refused   bool // the broker didn't want it
	discarded bool // by an operator
}

type lease struct {
	owner   string
	epoch   int64
	expires time.Duration
	at      time.Duration // when it was taken or renewed last, by the world's clock
	astray  bool          // it was taken or renewed after who had asked for it had given up, so that nobody may know of it
}

type member struct {
	instance string
	expires  time.Duration
}

type checkpoint struct {
	epoch, n int64
	at       cursor
}

type parkedRow struct {
	*row
	behind, retry bool
	reason        string
}

// discard is an operator's, of an event that was parked.
type discard struct {
	event string        // its id: a number may be drawn twice
	at    time.Duration // by the world's clock
}

func newDatabase(w *sim.World, p plant) *database {
	return &database{w: w, plant: p, state: &state{
		nextID: 3, completed: 2, committed: map[uint64]bool{},
		leases: map[int]lease{}, relays: map[string]member{}, checkpoints: map[int][]checkpoint{}, parked: map[int64]parkedRow{},
		discards: map[int64]discard{},
	}}
}

// clock is the database's, which isn't the relays'.
func (db *database) clock() time.Duration { return db.w.Now() + db.skew }

// assign gives out a transaction id.
func (db *database) assign() uint64 {
	id := db.nextID
	db.nextID++
	db.running = append(db.running, id)
	return id
}

// end ends a transaction that has an id.
func (db *database) end(id uint64, commit bool) {
	db.running = slices.DeleteFunc(db.running, func(x uint64) bool { return x == id })
	db.completed = max(db.completed, id)
	db.committed[id] = commit
}

// writes is a transaction of one statement: it gets an id and ends.
func (db *database) writes() { db.end(db.assign(), true) }

// snapshot is a pg_snapshot: a transaction is seen if it has committed, its id is below xmax and isn't in xip. Running ones
// may be at or above xmax, which is the highest completed id plus one.
type snapshot struct {
	xmax uint64
	xip  []uint64
}

func (db *database) snapshot() snapshot {
	s := snapshot{xmax: db.completed + 1}
	for _, id := range db.running {
		if id < s.xmax {
			s.xip = append(s.xip, id)
		}
	}
	return s
}

// decided reports whether a transaction had ended when the snapshot was taken.
func (s snapshot) decided(id uint64) bool { return id < s.xmax && !slices.Contains(s.xip, id) }

func (db *database) sees(s snapshot, id uint64) bool { return s.decided(id) && db.committed[id] }

// newest returns the checkpoint that whoever takes the lane over begins at.
func (db *database) newest(lane int) (c checkpoint, found bool) {
	for _, other := range db.checkpoints[lane] {
		if !found || other.epoch > c.epoch || other.epoch == c.epoch && other.n > c.n || db.plant.noFencing {
			c, found = other, true
		}
	}
	return c, found
}

func (db *database) addCheckpoint(lane int, c checkpoint) {
	const keep = 16
	list := append(db.checkpoints[lane], c)
	db.checkpoints[lane] = slices.Clone(list[max(0, len(list)-keep):])
}

// held reports whether the lease is the newest of its lane.
func (db *database) held(l relay.Lease) bool {
	now := db.leases[l.Lane.Index]
	return now.epoch == l.Epoch && now.owner == l.Owner
}

// keep notes what a crash will leave: what is there now and, if that was flushed, what business transactions commit until then.
func (db *database) keep(flushed bool) { db.kept, db.sync = db.clone(), flushed }

// flushed is called after the commit of a business transaction.
func (db *database) flushed() {
	if db.kept != nil && db.sync {
		db.kept = db.clone()
	}
}

// crash restarts the database with what was kept. Whatever was running is rolled back; what had been committed after it was
// kept is lost.
func (db *database) crash() (lost int) {
	before := db.state
	db.state, db.kept = db.kept, nil
	for _, id := range db.running {
		db.committed[id] = false
		db.completed = max(db.completed, id)
	}
	db.running = nil
	db.server++
	for _, r := range before.rows {
		if r.committed && !r.lost && !db.committed[r.tx] {
			r.lost = true
			lost++
		}
	}
	return lost
}

// discard takes a parked event out for good, and records it.
func (db *database) discard(seq int64) {
	p := db.parked[seq]
	p.discarded = true
	delete(db.parked, seq)
	db.discards[seq] = discard{p.event.ID, db.w.Now()}
	db.w.NoteIn("operator", "discards %s, seq %d", p.event.ID, seq)
}

// discarded reports whether the row's event was.
func (db *database) discarded(r *row) bool { return db.discards[r.seq].event == r.event.ID }

func (s *state) clone() *state {
	c := *s
	c.running, c.rows = slices.Clone(s.running), slices.Clone(s.rows)
	c.committed, c.leases, c.relays = maps.Clone(s.committed), maps.Clone(s.leases), maps.Clone(s.relays)
	c.checkpoints, c.parked, c.discards = maps.Clone(s.checkpoints), maps.Clone(s.parked), maps.Clone(s.discards)
	return &c
}
