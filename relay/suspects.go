package relay

// suspects finds the event that makes the broker end the session. While there is suspicion, events are sent one at a time; one that was alone in
// flight twice when the session ended is doomed: it will be parked.
type suspects struct {
	left    int              // events to be sent one at a time
	strikes map[int64]int    // by seq
	doomed  map[int64]string // by seq: why
}

func newSuspects() *suspects {
	return &suspects{strikes: map[int64]int{}, doomed: map[int64]string{}}
}

// convict: two, because the first may have been the last straw of somebody else's making, such as a broker in the middle of a shutdown.
const convict = 2

// window returns how many events may be in flight, and how many may be read at once: little, since what follows a checkpoint is sent
// again after each try.
func (s *suspects) window(window, page int) (int, int) {
	if s.left > 0 {
		return 1, min(page, 16)
	}
	return window, page
}

// refused takes in that the session ended because of one of the events in flight.
func (s *suspects) refused(inFlight []*Entry, reason string) {
	if len(inFlight) == 1 {
		seq := inFlight[0].Seq
		s.strikes[seq]++
		if s.strikes[seq] >= convict {
			s.doomed[seq] = reason
			delete(s.strikes, seq)
		}
	}
	s.left = max(s.left, len(inFlight), 1)
}

// settled takes in that an event has been settled without harm.
func (s *suspects) settled(seq int64) {
	if s.left > 0 {
		s.left--
	}
	delete(s.strikes, seq)
	delete(s.doomed, seq)
}
