package model

import "hash/maphash"

// The greatest scope. All of a state is uint8, without a pointer: it is copied, compared and hashed as a whole.
const (
	maxTransactions = 4
	maxNumbers      = 8
	maxDestinations = 2
	maxLanes        = 2
	maxSessions     = 2
	maxPages        = 2
)

// state is everything that PostgreSQL, the relays and the broker know.
type state struct {
	nextID    uint8 // the next transaction id to be assigned; the first is 1
	drawn     uint8 // the last number that the sequence has given out
	ended     uint8 // transactions that have ended, a bit each
	committed uint8 // and those that committed
	keysUsed  uint8
	takeovers uint8
	changes   uint8
	phase     retainPhase
	leaf      uint8 // that is being emptied
	rows      [maxNumbers]row
	writers   [maxTransactions]writer
	dest      [maxDestinations]destination
	sessions  [maxSessions]session
}

// row is one of the log's; its number is its place.
type row struct {
	tx   uint8 // 0: there is none, or it was rolled back
	key  uint8
	leaf uint8 // from 1 on; 0: the leaf was truncated
}

// writer is a producer's transaction.
type writer struct {
	over    bool
	id      uint8 // 0: none yet
	writes  uint8
	pending uint8 // number drawn for a row that isn't in a leaf yet
	key     uint8 // of that row
	cached  uint8 // number that its session keeps, if the sequence caches
}

// destination is what the tables know about one, and what its broker has.
type destination struct {
	lanes     uint8
	published uint8 // numbers, a bit each
	lease     [maxLanes]uint8
	place     [maxLanes]checkpoint
}

// checkpoint is a lane's newest one.
type checkpoint struct {
	there bool
	epoch uint8
	at    Cursor
}

type sessionPhase uint8

const (
	idle     sessionPhase = iota
	leased                // has a lease, hasn't opened the log
	ready                 // between reads
	snapped               // in a read, with its snapshot
	resnap                // the same, with a second snapshot (LaterSnapshot only)
	numbered              // and with the last number, or with the next id
)

// session is a relay that leads a lane, or thinks so.
type session struct {
	phase         sessionPhase
	dest          uint8
	lane, of      uint8
	epoch         uint8
	at            Cursor
	rowsSnap      Snapshot // what the running read sees
	snap          Snapshot // what it says it has seen: the same
	drawn, nextID uint8
	pages         [maxPages]page
	count         uint8 // of pages
}

// page was read and isn't settled.
type page struct {
	entries [maxNumbers]uint8 // not yet confirmed, in the order of reading; 0 behind them
	after   Cursor
}

type retainPhase uint8

const (
	retainIdle retainPhase = iota
	retainLocked
	retainChecked
)

// snapshot is pg_current_snapshot().
func (s *state) snapshot() Snapshot {
	snap := Snapshot{Xmax: 1}
	for id := s.nextID - 1; id >= 1; id-- {
		if s.ended&bit(id) != 0 {
			snap.Xmax = id + 1
			break
		}
	}
	for id := uint8(1); id < snap.Xmax; id++ {
		if s.ended&bit(id) == 0 {
			snap.Xip |= bit(id)
		}
	}
	return snap
}

// canonical makes states alike that differ in nothing that matters: which writer, which relay and which leaf is which, and what a
// cursor says of transactions that are over and have no rows.
func (s *state) canonical(m *model) {
	s.forget(m)
	for i := 1; i < m.Transactions; i++ {
		for j := i; j > 0 && s.writers[j].rank() < s.writers[j-1].rank(); j-- {
			s.writers[j], s.writers[j-1] = s.writers[j-1], s.writers[j]
		}
	}
	if m.Relays == 2 && s.sessions[0] != s.sessions[1] && hash(seeds[0], s.sessions[0]) > hash(seeds[0], s.sessions[1]) {
		s.sessions[0], s.sessions[1] = s.sessions[1], s.sessions[0]
	}
	if m.Leaves == 1 {
		return
	}
	first := s.leaf
	for _, r := range s.rows {
		if r.leaf != 0 {
			first = r.leaf
			break
		}
	}
	if first != 2 {
		return
	}
	for i, r := range s.rows {
		if r.leaf != 0 {
			s.rows[i].leaf = 3 - r.leaf
		}
	}
	if s.leaf != 0 {
		s.leaf = 3 - s.leaf
	}
}

// forget makes the cursors say of the transactions that left nothing behind what they would say if those had never been.
func (s *state) forget(m *model) {
	gone := s.ended
	for _, r := range s.rows {
		if r.tx != 0 && r.leaf != 0 {
			gone &^= bit(r.tx)
		}
	}
	if gone == 0 {
		return
	}
	for d := range m.Destinations {
		for i := range s.dest[d].lanes {
			s.dest[d].place[i].at.forget(gone)
		}
	}
	for i := range m.Relays {
		e := &s.sessions[i]
		if e.phase == idle {
			continue
		}
		e.at.forget(gone)
		e.snap.forget(gone)
		e.rowsSnap.forget(gone)
		for k := range e.count {
			e.pages[k].after.forget(gone)
		}
	}
}

func (s *Snapshot) forget(gone uint8) {
	s.Xip &^= gone
	for s.Xmax > 1 && gone&bit(s.Xmax-1) != 0 {
		s.Xmax--
	}
}

func (c *Cursor) forget(gone uint8) {
	c.Snap.forget(gone)
	for c.Next > c.Snap.Xmax && gone&bit(c.Next-1) != 0 {
		c.Next--
	}
	if c.Pin.Next != 0 {
		c.Pin.Snap.forget(gone)
		for c.Pin.Next > c.Pin.Snap.Xmax && gone&bit(c.Pin.Next-1) != 0 {
			c.Pin.Next--
		}
	}
}

// rank orders writers: it tells any two that differ apart.
func (w writer) rank() uint32 {
	over := uint32(0)
	if w.over {
		over = 1
	}
	return over<<20 | uint32(w.id)<<16 | uint32(w.writes)<<12 | uint32(w.pending)<<8 | uint32(w.key)<<4 | uint32(w.cached)
}

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func hash[T comparable](seed maphash.Seed, v T) uint64 { return maphash.Comparable(seed, v) }

// fingerprint stands for the state: 128 bits, so that no two of a billion are likely to share one.
func (s *state) fingerprint() [2]uint64 { return [2]uint64{hash(seeds[0], *s), hash(seeds[1], *s)} }
