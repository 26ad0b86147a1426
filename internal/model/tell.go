package model

import (
	"fmt"
	"strings"
)

// tell says in a line what a step did.
func (m *model) tell(t step, before, after *state) string {
	switch t.kind {
	case getID:
		return fmt.Sprintf("T%d gets its transaction id", t.what)
	case draw:
		line := fmt.Sprintf("%s draws number %d for key %s", name(before.writers[t.who]), t.what, key(t.more))
		if m.Leaves == 1 && before.writers[t.who].id != 0 {
			line += " and inserts the row"
		}
		return line
	case insert:
		return fmt.Sprintf("%s inserts number %d into leaf %d", name(before.writers[t.who]), t.what, t.more)
	case commit:
		return fmt.Sprintf("T%d commits", t.what)
	case rollBack:
		return fmt.Sprintf("T%d rolls back", t.what)
	case setLanes:
		line := fmt.Sprintf("%s is given %d lanes", m.dest(t.who), t.what)
		if p := after.dest[t.who].place[0]; p.there {
			return line + ", which begin at " + p.at.String()
		}
		return line + ", which begin at the origin"
	case lock:
		return fmt.Sprintf("Retain locks leaf %d", t.who)
	case check:
		if after.phase == retainIdle {
			return fmt.Sprintf("Retain finds rows in leaf %d that somebody hasn't passed, and lets it go", t.who)
		}
		return fmt.Sprintf("Retain finds that everybody has passed leaf %d", t.who)
	case truncate:
		if m.Bug == CheckWithoutLock {
			return fmt.Sprintf("Retain locks and truncates leaf %d", t.who)
		}
		return fmt.Sprintf("Retain truncates leaf %d", t.who)
	}

	old, e := before.sessions[t.who], session{}
	for _, x := range after.sessions {
		if x.dest == old.dest && x.lane == old.lane && x.epoch == old.epoch {
			e = x
		}
	}
	who := m.relayName(old)
	switch t.kind {
	case acquire:
		d := after.dest[t.what]
		line := m.relayName(session{dest: t.what, lane: t.more, of: d.lanes, epoch: d.lease[t.more]}) + " takes the lease"
		if p := after.dest[t.what].place[t.more]; m.LaneChanges == 0 && p.there {
			return line + " and opens the log at " + p.at.String()
		}
		return line
	case open:
		if e.phase != ready {
			return who + " finds a checkpoint of a later epoch, and gives up"
		}
		return who + " opens the log at " + e.at.String()
	case beginRead:
		return who + " reads: its snapshot is " + e.snap.String()
	case readAgain:
		return who + " takes another snapshot for its cursor, " + e.snap.String()
	case readNumber:
		if m.Bug == NextBeforeHot {
			return fmt.Sprintf("%s reads the next transaction id, %d", who, e.nextID)
		}
		return fmt.Sprintf("%s reads the last number drawn, %d", who, e.drawn)
	case endRead:
		p := after.sessions[0]
		for _, x := range after.sessions {
			if x.epoch == e.epoch && x.lane == e.lane && x.dest == e.dest {
				p = x
			}
		}
		return fmt.Sprintf("%s has read %s; its cursor is %s", who, list(p.pages[p.count-1].entries[:]), e.at)
	case publish:
		return fmt.Sprintf("%s publishes number %d (key %s)", who, t.what, key(before.rows[t.what-1].key))
	case store:
		return who + " stores the checkpoint " + old.pages[0].after.String()
	case settle:
		return who + " has settled a page, and stores nothing"
	}
	return ""
}

func name(w writer) string {
	if w.id == 0 {
		return "a transaction without an id"
	}
	return fmt.Sprintf("T%d", w.id)
}

func key(k uint8) string { return string('a' + rune(k)) }

func (m *model) dest(d uint8) string {
	if m.Destinations == 1 {
		return "the destination"
	}
	return fmt.Sprintf("destination %d", d+1)
}

func (m *model) relayName(e session) string {
	if e.phase == idle && e.epoch == 0 {
		return "a relay"
	}
	line := fmt.Sprintf("relay of lane %d/%d, epoch %d,", e.lane, e.of, e.epoch)
	if m.Destinations > 1 {
		line = m.dest(e.dest) + "'s " + line
	}
	return line
}

func list(numbers []uint8) string {
	var words []string
	for _, n := range numbers {
		if n != 0 {
			words = append(words, fmt.Sprint(n))
		}
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

// String is the snapshot as PostgreSQL writes it, with xmin left out.
func (s Snapshot) String() string {
	var running []string
	for id := uint8(1); id < s.Xmax; id++ {
		if s.Xip&bit(id) != 0 {
			running = append(running, fmt.Sprint(id))
		}
	}
	return fmt.Sprintf("%d:%s", s.Xmax, strings.Join(running, ","))
}

func (c Cursor) String() string {
	line := fmt.Sprintf("(hot %d, snap %s, next %d", c.Hot, c.Snap, c.Next)
	if c.Pin.Next != 0 {
		line += fmt.Sprintf(", pinned %s, next %d, after %d", c.Pin.Snap, c.Pin.Next, c.Pin.After)
	}
	return line + ")"
}
