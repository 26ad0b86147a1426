package relay

// suspects finds the event that makes the broker end the session.
//
// Until each event that was in flight when that happened has been settled, events are sent one at a time. One that
// was alone in flight when a session ended is held back until another event is published in the session, which shows
// that the broker itself works (its exchange is there, the permission isn't revoked). If it ends such a session
// three times, it is doomed: it will be parked. So it is if the broker said three times that the fault lies in that very event,
// published another or not. A broker that refuses everything is waited for like in any outage, and nothing is parked.
type suspects struct {
	of     map[identity]*suspicion
	doomed map[identity]string // why
}

// identity is an entry's number with its event's id: after a failover that lost the end of the log, numbers are drawn again, and one
// event must not be parked for another (simulation, seed 1039697).
type identity struct {
	seq int64
	id  string
}

func (e *Entry) identity() identity { return identity{e.Seq, e.Event.ID} }

type suspicion struct {
	alone   bool // it was alone in flight when a session ended
	strikes int  // it was so in a session that had published another, or was named as the culprit
}

func newSuspects() *suspects {
	return &suspects{of: map[identity]*suspicion{}, doomed: map[identity]string{}}
}

// convict: not one, because that may have been of somebody else's making, such as an exchange that was deleted just then, and not
// two, because somebody who deletes an exchange twice was unlucky enough to meet one event both times (simulation, seed 869).
const convict = 3

// window returns how many events may be in flight, and how many may be read at once: little, since what follows a
// checkpoint is sent again after each try.
func (s *suspects) window(window, page int) (int, int) {
	if len(s.of) > 0 {
		return 1, min(page, 16)
	}
	return window, page
}

// refused takes in that the session ended because of one of the events in flight; proven says that it had published
// another before, or that the event is to blame in any case. They are all unsettled, so the log hands each of them out again.
func (s *suspects) refused(inFlight []*Entry, proven bool, reason string) {
	for _, e := range inFlight {
		if s.of[e.identity()] == nil {
			s.of[e.identity()] = &suspicion{}
		}
	}
	if len(inFlight) != 1 {
		return
	}
	who := inFlight[0].identity()
	it := s.of[who]
	it.alone = true
	if proven {
		it.strikes++
	}
	if it.strikes >= convict {
		s.doomed[who] = reason
		delete(s.of, who)
	}
}

// settled takes in that an event had an outcome without harm to the session.
func (s *suspects) settled(e *Entry) {
	delete(s.of, e.identity())
	delete(s.doomed, e.identity())
}

// hold reports whether the event is held back until another is published.
func (s *suspects) hold(e *Entry) bool {
	it := s.of[e.identity()]
	return it != nil && it.alone
}

// forget takes in that an event isn't to be sent any more: it was parked behind another.
func (s *suspects) forget(e *Entry) { delete(s.of, e.identity()) }

// clear takes in that nothing is open any more.
func (s *suspects) clear() { clear(s.of) }
