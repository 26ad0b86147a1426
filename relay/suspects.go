package relay

// suspects finds the event that makes the broker end the session. Until each event that was in flight when that happened has been settled, events are
// sent one at a time; one that was alone in flight twice when the session ended is doomed: it is held back, and parked as soon as another
// event is published, which shows that it is the event that is bad and not the broker (whose exchange may be gone, or a permission revoked).
type suspects struct {
	seqs   map[int64]int    // strikes by seq
	doomed map[int64]string // by seq: why
}

func newSuspects() *suspects {
	return &suspects{seqs: map[int64]int{}, doomed: map[int64]string{}}
}

// convict: two, because the first may have been the last straw of somebody else's making, such as a broker in the middle of a shutdown.
const convict = 2

// window returns how many events may be in flight, and how many may be read at once: little, since what follows a checkpoint is sent
// again after each try.
func (s *suspects) window(window, page int) (int, int) {
	if len(s.seqs) > 0 {
		return 1, min(page, 16)
	}
	return window, page
}

// refused takes in that the session ended because of one of the events in flight. They are all unsettled, so the log hands each of them out again.
func (s *suspects) refused(inFlight []*Entry, reason string) {
	for _, e := range inFlight {
		if _, known := s.seqs[e.Seq]; !known {
			s.seqs[e.Seq] = 0
		}
	}
	if len(inFlight) != 1 {
		return
	}
	seq := inFlight[0].Seq
	s.seqs[seq]++
	if s.seqs[seq] >= convict {
		s.doomed[seq] = reason
		delete(s.seqs, seq)
	}
}

// settled takes in that an event had an outcome without harm to the session.
func (s *suspects) settled(seq int64) {
	delete(s.seqs, seq)
	delete(s.doomed, seq)
}
