package relay

import "time"

// Settled is what became of one sent event, as [Hooks].OnSettled is told.
type Settled struct {
	Entry   Entry
	Outcome Outcome
	Try     int       // how often the event was sent, this time included, since it was last read from the log
	SentAt  time.Time // when it was handed to the publisher
	At      time.Time // when the relay learned of the outcome
}

// observe notes an outcome for the hook, before the stream lets go of the event's data and headers.
func (p *pump) observe(o Outcome, now time.Time) {
	if p.relay.config.Hooks.OnSettled == nil {
		return
	}
	it := p.stream.flying[o.Tag]
	if it == nil {
		return // the stream will complain
	}
	p.observed = append(p.observed, Settled{Entry: *it.entry, Outcome: o, Try: it.tries + 1, SentAt: it.sentAt, At: now})
}

// tellObserved calls the hook with what was observed. The slice serves again for the next batch.
func (p *pump) tellObserved() {
	if len(p.observed) == 0 {
		return
	}
	p.relay.config.Hooks.OnSettled(p.relay.lane, p.observed)
	clear(p.observed) // it would keep the events' data in memory
	p.observed = p.observed[:0]
}
