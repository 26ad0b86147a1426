package relay

import (
	"math"
	"sync"
	"time"
)

// pace keeps a relay's rate of sending below a limit: a token bucket, which holds a tenth of a second's tokens, so that what
// couldn't be sent during a pause isn't sent all at once after it. The lanes of a relay share it; a nil pace has no limit.
type pace struct {
	mu     sync.Mutex
	rate   float64 // tokens a second
	burst  float64 // tokens that the bucket holds, at least one
	tokens float64
	at     time.Time // when tokens was so
}

// newPace returns nil for a rate of 0.
func newPace(perSecond int) *pace {
	if perSecond == 0 {
		return nil
	}
	rate := float64(perSecond)
	burst := max(1, rate/10)
	return &pace{rate: rate, burst: burst, tokens: burst}
}

// take takes a token, or says when to ask again: in a hundredth of a second, or when there is one if that takes longer. To
// wake for each token would cost more than to send the event.
func (p *pace) take(now time.Time) (ok bool, again time.Time) {
	if p == nil {
		return true, time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if passed := now.Sub(p.at); p.at.IsZero() || passed > 0 { // lanes may come with times that are out of order
		if !p.at.IsZero() {
			p.tokens = min(p.burst, p.tokens+passed.Seconds()*p.rate)
		}
		p.at = now
	}
	if p.tokens < 1 {
		want := max(1, p.burst/10) - p.tokens
		return false, p.at.Add(time.Duration(math.Ceil(want / p.rate * float64(time.Second))))
	}
	p.tokens--
	return true, time.Time{}
}

// giveBack returns a token that was taken and not used.
func (p *pace) giveBack() {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.tokens = min(p.burst, p.tokens+1)
	p.mu.Unlock()
}
