package model

// model is a scope with what follows from it.
type model struct {
	Scope
	events             int
	stragglers, pinned int // reads that handed out stragglers, and that left a pin
}

func newModel(s Scope) *model {
	m := &model{Scope: s, events: s.Events}
	if m.events == 0 {
		m.events = min(s.Transactions*s.Writes, maxNumbers)
	}
	return m
}

// start is the state of tables that were just migrated, with destinations that no relay has led.
func (m *model) start() state {
	s := state{nextID: 1}
	for d := range m.Destinations {
		s.dest[d].lanes = uint8(m.FirstLanes)
	}
	for i := m.Transactions; i < maxTransactions; i++ {
		s.writers[i].over = true
	}
	s.canonical(m)
	return s
}

type stepKind uint8

const (
	getID stepKind = iota
	draw
	insert
	commit
	rollBack
	acquire
	open
	beginRead
	readAgain
	readNumber
	endRead
	publish
	store
	settle
	setLanes
	lock
	check
	truncate
)

// step is one that was taken: what of, and with what.
type step struct {
	kind stepKind
	who  uint8 // writer, session, destination or leaf: its place in the state that the step begins in
	what uint8
	more uint8
}

// steps calls yield with every step that can be taken from s and the state that it leads to, which isn't canonical yet, or
// the promise that it breaks.
func (m *model) steps(s *state, yield func(step, *state, string)) {
	for i := range s.writers {
		if !s.writers[i].over && (i == 0 || s.writers[i] != s.writers[i-1]) {
			m.write(s, uint8(i), yield)
		}
	}
	for i := range m.Relays {
		if i == 0 || s.sessions[i] != s.sessions[i-1] {
			m.relay(s, uint8(i), yield)
		}
	}
	m.operate(s, yield)
	if m.Leaves > 1 {
		m.retain(s, yield)
	}
}

// write is what a producer's transaction may do next.
func (m *model) write(s *state, i uint8, yield func(step, *state, string)) {
	w := s.writers[i]

	// Its first statement that needs one gets the transaction an id: the event's own INSERT, which evaluates the default of tx,
	// pg_current_xact_id(), or any other before. (GetNewTransactionId; migration 001)
	if w.id == 0 && (w.pending != 0 || m.Bug != NumberBeforeID) {
		n := *s
		n.writers[i].id = s.nextID
		n.nextID++
		if w.pending != 0 {
			m.placed(&n, i)
		}
		yield(step{getID, i, s.nextID, 0}, &n, "")
	}

	// INSERT INTO outbox evaluates the defaults of tx, then of seq: nextval, CACHE 1. (statements.append; migration 001) The
	// transaction has locked the key's aggregate, or waits until the one that has is over: UPDATE aggregate, or LockKeys.
	if w.pending == 0 && w.writes < uint8(m.Writes) && (w.id != 0 || m.Bug == NumberBeforeID) {
		keys := uint8(m.Keys)
		if m.Lanes == 1 { // which key is which tells only the lane
			keys = min(keys, s.keysUsed+1)
		}
		for key := range keys {
			number, room := w.cached, true
			if number == 0 {
				number, room = s.drawn+1, int(s.drawn) < m.events
			}
			if !room || m.keyLocked(s, i, key) {
				continue
			}
			n := *s
			n.keysUsed = max(s.keysUsed, key+1)
			if n.writers[i].cached = 0; w.cached == 0 {
				n.drawn = number
				if m.Bug == CachedNumbers && int(number) < m.events {
					n.drawn, n.writers[i].cached = number+1, number+1
				}
			}
			n.writers[i].pending, n.writers[i].key = number, key
			n.writers[i].writes++
			m.placed(&n, i)
			yield(step{draw, i, number, key}, &n, "")
		}
	}

	// The row is routed to the leaf that the default of ring said, and only now that leaf is locked, ROW EXCLUSIVE, until the
	// transaction ends: ExecFindPartition. It waits while somebody has it ACCESS EXCLUSIVE. (migration 007)
	if w.pending != 0 && w.id != 0 && m.Leaves > 1 {
		for leaf := uint8(1); leaf <= uint8(m.Leaves); leaf++ {
			if s.phase != retainIdle && s.leaf == leaf {
				continue
			}
			n := *s
			n.rows[w.pending-1] = row{w.id, w.key, leaf}
			n.writers[i].pending, n.writers[i].key = 0, 0
			yield(step{insert, i, w.pending, leaf}, &n, "")
		}
	}

	// ProcArrayEndTransaction: at once, all of it is visible or gone. What rolls back without an event is as what commits.
	if w.id != 0 && w.pending == 0 {
		n := *s
		n.writers[i] = writer{over: true}
		n.ended |= bit(w.id)
		n.committed |= bit(w.id)
		yield(step{commit, i, w.id, 0}, &n, "")
	}
	if w.id != 0 && w.writes > 0 {
		n := *s
		n.writers[i] = writer{over: true}
		n.ended |= bit(w.id)
		for j := range n.rows {
			if n.rows[j].tx == w.id {
				n.rows[j] = row{}
			}
		}
		yield(step{rollBack, i, w.id, 0}, &n, "")
	}
}

// placed puts the row that was drawn into the only leaf there is: with one, nobody takes notice of when.
func (m *model) placed(s *state, i uint8) {
	if w := &s.writers[i]; m.Leaves == 1 && w.id != 0 {
		s.rows[w.pending-1] = row{w.id, w.key, 1}
		w.pending, w.key = 0, 0
	}
}

// keyLocked reports whether another running transaction has written an event of the key.
func (m *model) keyLocked(s *state, i, key uint8) bool {
	for j, w := range s.writers {
		if uint8(j) == i || w.over {
			continue
		}
		if w.pending != 0 && w.key == key {
			return true
		}
		for _, r := range s.rows {
			if r.tx != 0 && r.tx == w.id && r.key == key {
				return true
			}
		}
	}
	return false
}

// relay is what one that leads a lane, or did, or wants to, may do next.
func (m *model) relay(s *state, i uint8, yield func(step, *state, string)) {
	e := &s.sessions[i]

	// A lease that is free or ran out, or is the same owner's, which has died and come back. What it had in memory is gone.
	// (statements.acquire)
	if int(s.takeovers) < m.Takeovers {
		for d := range uint8(m.Destinations) {
			for lane := range s.dest[d].lanes {
				n := *s
				n.takeovers++
				n.dest[d].lease[lane]++
				n.sessions[i] = session{phase: leased, dest: d, lane: lane, of: s.dest[d].lanes, epoch: n.dest[d].lease[lane]}
				if m.LaneChanges > 0 {
					yield(step{acquire, i, d, lane}, &n, "")
					continue
				}
				// Nothing that happens until it opens the log changes what it finds there, but for another that takes the lane and
				// stores a checkpoint.
				broken := m.open(&n, &n.sessions[i])
				yield(step{acquire, i, d, lane}, &n, broken)
			}
		}
	}

	switch e.phase {
	case leased:
		n := *s
		broken := m.open(&n, &n.sessions[i])
		yield(step{open, i, 0, 0}, &n, broken)

	case ready:
		// The statement's locks, ACCESS SHARE on all leaves, come before its snapshot (exec_bind_message: GetCachedPlan, then
		// PortalStart). It doesn't look at the lease. (readStatement)
		if int(e.count) < m.Ahead && s.phase == retainIdle {
			n := *s
			x := &n.sessions[i]
			x.snap, x.phase = s.snapshot(), snapped
			x.rowsSnap = x.snap
			yield(step{beginRead, i, 0, 0}, &n, "")
		}

	case snapped, resnap:
		n := *s
		x := &n.sessions[i]
		if m.Bug == LaterSnapshot && e.phase == snapped {
			x.snap, x.phase = s.snapshot(), resnap
			yield(step{readAgain, i, 0, 0}, &n, "")
			break
		}
		// The scan of the sequence fetches its tuple: the last number drawn.
		if x.phase, x.drawn = numbered, s.drawn; m.Bug == NextBeforeHot {
			x.drawn, x.nextID = 0, s.nextID
		}
		yield(step{readNumber, i, 0, 0}, &n, "")

	case numbered:
		// On that tuple, next is evaluated: xmax + age(xmax). The rows are those that the snapshot sees. (log.Read)
		n := *s
		x := &n.sessions[i]
		drawn, next := e.drawn, s.nextID
		if m.Bug == NextBeforeHot {
			drawn, next = s.drawn, e.nextID
		}
		p := m.read(s, e.at, e.rowsSnap, Read{Snap: e.snap, Next: next, Drawn: drawn}, e.dest, e.lane, e.of)
		if x.at, x.phase = p.after, ready; x.at.Pin.Next != 0 {
			m.pinned++
		}
		if p.entries[0] != 0 && p.entries[0] <= e.at.Hot {
			m.stragglers++
		}
		x.rowsSnap, x.snap, x.drawn, x.nextID = Snapshot{}, Snapshot{}, 0, 0
		x.pages[x.count] = p.page
		x.count++
		yield(step{endRead, i, 0, 0}, &n, "")
	}

	// Send and its confirm. Until the first event of a key is confirmed the next isn't sent. (stream.next, settle) One that is
	// published and whose confirm is lost is published by a relay that does nothing more.
	if e.count > 0 {
		var keys uint8
		for pg := range e.count {
			for k, number := range e.pages[pg].entries {
				if number == 0 {
					break
				}
				key := bit(s.rows[number-1].key)
				if keys&key != 0 && m.Bug != TogetherPerKey {
					continue
				}
				keys |= key
				n := *s
				n.sessions[i].pages[pg].remove(k)
				broken := publishTo(&n, e.dest, number)
				yield(step{publish, i, number, 0}, &n, broken)
			}
		}
	}

	// The first page is settled when all of it is confirmed; its position is stored, or a later one with it (stream.settled).
	// Under the epoch of the lease, whose row it locks for share. (statements.checkpoint) Whoever finds its lease lost does
	// nothing more, which a relay may do at any time.
	if e.count == 0 || e.pages[0].entries[0] != 0 && m.Bug != CheckpointUnsettled {
		return
	}
	if d := &s.dest[e.dest]; d.lease[e.lane] == e.epoch || m.Bug == UnfencedCheckpoint {
		n := *s
		// ORDER BY epoch DESC, n DESC: what is written late under an old epoch isn't the newest, if another is there.
		if p := &n.dest[e.dest].place[e.lane]; !p.there || p.epoch <= e.epoch {
			*p = checkpoint{true, e.epoch, e.pages[0].after}
		}
		if e.pages[0].entries[0] == 0 {
			n.sessions[i].shift()
		}
		yield(step{store, i, 0, 0}, &n, "")
	}
	if e.pages[0].entries[0] == 0 {
		n := *s
		n.sessions[i].shift()
		yield(step{settle, i, 0, 0}, &n, "")
	}
}

// open is log.load: the newest checkpoint, unless it is of a later epoch.
func (m *model) open(s *state, e *session) (broken string) {
	p := s.dest[e.dest].place[e.lane]
	switch {
	case !p.there:
		e.at, e.phase = Origin(), ready
	case p.epoch > e.epoch: // ErrLeaseLost
		*e = session{}
	default:
		e.at, e.phase = p.at, ready
		return m.alarm(s, p.at)
	}
	return ""
}

func (e *session) shift() {
	e.pages[0] = e.pages[1]
	e.pages[1] = page{}
	e.count--
}

func (p *page) remove(k int) {
	copy(p.entries[k:], p.entries[k+1:])
	p.entries[maxNumbers-1] = 0
}

// publishTo is an event's arrival at a destination's exchange.
func publishTo(s *state, d, number uint8) (broken string) {
	r := s.rows[number-1]
	pub := &s.dest[d].published
	if r.tx == 0 || s.committed&bit(r.tx) == 0 {
		return "a ghost: the transaction that wrote it hasn't committed"
	}
	if *pub&bit(number) == 0 {
		for later := number + 1; later <= s.drawn; later++ {
			if *pub&bit(later) != 0 && s.rows[later-1].key == r.key {
				return "out of order: a later event of its key was published before it"
			}
		}
	}
	*pub |= bit(number)
	return ""
}

// operate is SetLanes: one transaction, which has the destination's row and all of its leases locked from before it looks at the
// checkpoints. (setLanes: fence, places, forgetPlaces, place, setLanes)
func (m *model) operate(s *state, yield func(step, *state, string)) {
	if int(s.changes) >= m.LaneChanges {
		return
	}
	for d := range uint8(m.Destinations) {
		old := s.dest[d]
		lanes := 3 - old.lanes
		n := *s
		n.changes++
		c := &n.dest[d]
		var places []Cursor
		for i := range max(old.lanes, lanes) {
			c.lease[i] = max(old.lease[i]+1, old.place[i].epoch+1)
			if i < old.lanes && old.place[i].there {
				places = append(places, old.place[i].at)
			}
		}
		c.place, c.lanes = [maxLanes]checkpoint{}, lanes
		if len(places) == int(old.lanes) { // else the origin
			from := Oldest(places)
			if m.Bug == NewestLanes {
				from = newest(places)
			}
			for i := range lanes {
				c.place[i] = checkpoint{true, c.lease[i], from}
			}
		}
		yield(step{setLanes, d, lanes, 0}, &n, "")
	}
}

// retain is emptyLeaf's transaction. Another one waits for its advisory lock, so there is one.
func (m *model) retain(s *state, yield func(step, *state, string)) {
	switch s.phase {
	case retainIdle:
		for leaf := uint8(1); leaf <= uint8(m.Leaves); leaf++ {
			n := *s
			n.phase, n.leaf = retainLocked, leaf
			switch {
			case m.Bug == CheckWithoutLock:
				if n.phase = retainChecked; !m.behind(s, leaf) {
					yield(step{check, leaf, 0, 0}, &n, "")
				}
			case m.lockable(s, leaf):
				yield(step{lock, leaf, 0, 0}, &n, "")
			}
		}

	case retainLocked:
		n := *s
		n.phase = retainChecked
		if m.behind(s, s.leaf) {
			n.phase, n.leaf = retainIdle, 0
		}
		yield(step{check, s.leaf, 0, 0}, &n, "")

	case retainChecked:
		if m.Bug == CheckWithoutLock && !m.lockable(s, s.leaf) {
			break
		}
		n := *s
		n.phase, n.leaf = retainIdle, 0
		for i := range n.rows {
			if n.rows[i].leaf == s.leaf {
				n.rows[i].leaf = 0
			}
		}
		yield(step{truncate, s.leaf, 0, 0}, &n, "")
	}
}

// lockable reports whether LOCK TABLE … IN ACCESS EXCLUSIVE MODE NOWAIT succeeds: no read runs, and no transaction runs that
// has inserted into the leaf.
func (m *model) lockable(s *state, leaf uint8) (rows bool) {
	for _, e := range s.sessions {
		if e.phase >= snapped {
			return false
		}
	}
	for _, r := range s.rows {
		if r.tx == 0 || r.leaf != leaf {
			continue
		}
		rows = true
		if s.ended&bit(r.tx) == 0 && m.Bug != WeakLock {
			return false
		}
	}
	return rows // nobody empties what is empty
}

// behind reports whether some lane of some destination hasn't passed all that is committed in the leaf. (retain.go's statement
// of that name)
func (m *model) behind(s *state, leaf uint8) bool {
	now := s.snapshot()
	for d := range m.Destinations {
		for lane := range s.dest[d].lanes {
			at := Origin()
			if p := s.dest[d].place[lane]; p.there {
				at = p.at
			}
			for i, r := range s.rows {
				if r.tx == 0 || r.leaf != leaf || s.committed&bit(r.tx) == 0 || r.key%s.dest[d].lanes != lane {
					continue
				}
				if uint8(i)+1 > at.Hot {
					return true
				}
				if m.Bug != CheckByNumber &&
					(r.tx >= at.Snap.Xmax && r.tx < max(at.Next, now.Xmax) || at.Snap.Xip&bit(r.tx) != 0) {
					return true
				}
			}
		}
		if m.Bug == OneDestination {
			break
		}
	}
	return false
}
