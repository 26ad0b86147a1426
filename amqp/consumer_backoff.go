package amqp

import (
	"math/rand/v2"
	"time"
)

// Backoff says how long to wait between tries: full jitter, that is a random time between 0 and a ceiling that starts
// at Min and doubles with each try up to Max. Jitter keeps consumers that failed together from coming back together;
// among the usual kinds, full jitter costs the least work in total.
type Backoff struct {
	Min time.Duration // the ceiling of the first pause
	Max time.Duration // no pause is longer
}

// reconnectBackoff paces connecting again. Its first pause is short, because most connections are lost to a restart
// of one node while others serve; its longest keeps a fleet from hammering a broker that is being repaired.
var reconnectBackoff = Backoff{Min: 100 * time.Millisecond, Max: 30 * time.Second}

// ceiling returns the longest pause before the given retry, counted from 1.
func (b Backoff) ceiling(retry int) time.Duration {
	ceiling := b.Min
	for ; retry > 1 && ceiling < b.Max; retry-- {
		ceiling *= 2
	}
	return min(ceiling, b.Max)
}

// pause returns how long to wait before the given retry, counted from 1.
func (c ConsumerConfig) pause(b Backoff, retry int) time.Duration {
	return c.jitter(b.ceiling(retry))
}

// fullJitter returns a random time up to the ceiling.
func fullJitter(ceiling time.Duration) time.Duration { return rand.N(ceiling + 1) }
