package model

import "fmt"

// result is what a read hands out.
type result struct {
	page
	full bool
}

// read is readStatement and log.Read: what a lane's read returns from the cursor on, with a snapshot.
func (m *model) read(s *state, at Cursor, sees Snapshot, r Read, d, lane, of uint8) (p result) {
	var some, others [maxNumbers]uint8
	stragglers, fresh := some[:0], others[:0]
	visible := func(number uint8) bool {
		w := s.rows[number-1]
		if w.tx == 0 || w.leaf == 0 {
			return false
		}
		return sees.sees(w.tx) && s.committed&bit(w.tx) != 0 || m.Bug == DirtyRead
	}
	// WITH near: as far as one of several lanes looks for fresh rows, from the first row that is there.
	bound := uint8(255)
	if of > 1 && at.Pin.Next == 0 {
		for number := at.Hot + 1; number <= s.drawn; number++ {
			if visible(number) {
				r.Bound = number + uint8(m.LaneScan) - 1
				bound = r.Bound
				break
			}
		}
	}
	last := at.Hot
	for number := uint8(1); number <= s.drawn; number++ {
		if !visible(number) {
			continue
		}
		last = max(last, number)
		w := s.rows[number-1]
		if w.key%of != lane {
			continue
		}
		switch {
		case number > at.Hot:
			if at.Pin.Next == 0 && number <= bound && len(fresh) < m.Page {
				fresh = append(fresh, number)
			}
		case m.Bug == NumberOnly || !at.Probed(w.tx):
		case at.Pin.Next != 0 && (number <= at.Pin.After || !at.Pin.Snap.sees(w.tx)):
		case len(stragglers) < m.Page:
			stragglers = append(stragglers, number)
		}
	}
	switch m.Bug {
	case XmaxForNext:
		r.Next = r.Snap.Xmax
	case NumberOnly:
		r.Drawn = last
	}
	after, useStragglers, useFresh, full := at.Advance(r, stragglers, fresh, m.Page)
	p.after, p.full = after, full
	switch {
	case m.Bug == HotBeyondPage && after.Pin.Next == 0:
		p.after.Hot = max(p.after.Hot, r.Drawn)
	case m.Bug == UnpinnedPage && after.Pin.Next != 0:
		p.after = Cursor{Hot: at.Hot, Snap: r.Snap, Next: r.Next}
	}
	first, second := stragglers[:useStragglers], fresh[:useFresh]
	if m.Bug == FreshFirst {
		first, second = second, first
	}
	copy(p.entries[copy(p.entries[:], first):], second)
	return p
}

// drain publishes what is left for a destination, as one relay does that nobody disturbs, while all writers hold
// still: what promise it breaks.
func (m *model) drain(s *state, d uint8) (broken string) {
	n := *s
	now, dest := s.snapshot(), s.dest[d]
	for lane := range dest.lanes {
		at := Origin()
		if p := dest.place[lane]; p.there {
			at = p.at
		}
		for reads := 0; ; reads++ {
			if reads > 4*maxNumbers {
				return "reads don't come to an end"
			}
			p := m.read(s, at, now, Read{Snap: now, Next: s.nextID, Drawn: s.drawn}, d, lane, dest.lanes)
			for _, number := range p.entries {
				if number == 0 {
					break
				}
				if broken := publishTo(&n, d, number); broken != "" {
					return fmt.Sprintf("read on from the checkpoints, number %d is %s", number, broken)
				}
			}
			if at = p.after; !p.full {
				break
			}
		}
	}
	for i, r := range s.rows {
		if r.tx != 0 && s.committed&bit(r.tx) != 0 && n.dest[d].published&bit(uint8(i)+1) == 0 {
			return fmt.Sprintf("number %d is lost: it has committed, isn't published, and no read from the checkpoints on finds it", i+1)
		}
	}
	return ""
}

// kept reports which promise is broken in a state that a step of this kind has led to: others change nothing that it depends on.
func (m *model) kept(k stepKind, s *state) (broken string) {
	switch k {
	case commit, store, setLanes, truncate:
	default:
		return ""
	}
	for d := range uint8(m.Destinations) {
		if broken := m.drain(s, d); broken != "" {
			return broken
		}
	}
	return ""
}

// alarm is what log.load finds behind the checkpoint: the statement reused.
func (m *model) alarm(s *state, at Cursor) (broken string) {
	if s.drawn < at.Hot {
		return "a false alarm: the sequence stands behind the cursor"
	}
	for i, r := range s.rows {
		if uint8(i)+1 <= at.Hot && r.tx != 0 && r.leaf != 0 && s.committed&bit(r.tx) != 0 && r.tx >= at.Next && m.Bug == None {
			return "a false alarm: a number behind the cursor seems to have been drawn twice"
		}
	}
	return ""
}
