package publishertest

import (
	"testing"
)

// Run tests a publisher. start returns a new broker for each test, and cleans it up with t.Cleanup. The tests run one after
// the other, each in a subtest named after what it demands.
func Run(t *testing.T, start func(t *testing.T) *Broker) {
	for _, c := range demands {
		t.Run(c.demands, func(t *testing.T) {
			b := start(t)
			b.check(t)
			for _, a := range c.needs {
				if !b.can(a) {
					t.Logf("not tested: this broker can't %s", a)
					return
				}
			}
			c.test(t, b)
		})
	}
}

// demands are the suite.
var demands = []struct {
	demands string
	needs   []Ability
	test    func(t *testing.T, b *Broker)
}{
	{"outcomes come in the order of sending, one for each event", nil, inOrder},
	{"what is confirmed has arrived", nil, confirmedHasArrived},
	{"Send waits for nobody who receives outcomes", nil, sendDoesNotWait},
	{"Send takes a window of events without an outcome", []Ability{Hold}, sendTakesAWindow},
	{"a rejected event leaves the session as it is", []Ability{Reject}, rejected},
	{"an unroutable event isn't confirmed", []Ability{Unroutable}, unroutable},
	{"a refused event leaves the session as it is", []Ability{Refuse}, refused},
	{"outcomes of every kind keep their order", nil, mixed},
	{"Close waits for outcomes, which can be received after it", nil, closeWaits},
	{"Close waits for outcomes that come late", []Ability{Hold}, closeWaitsForLate},
	{"Close gives up when its context ends", []Ability{Hold}, closeGivesUp},
	{"Close returns soon whatever the broker does", []Ability{Hang}, closeReturnsWhateverHangs},
	{"Close may be called again, and after the end", nil, closeAgain},
	{"a lost connection ends the session", nil, lost},
	{"a lost connection leaves outcomes unknown", []Ability{Hold}, lostUnknown},
	{"a session that was killed over an event says so", []Ability{Kill}, killed},
	{"a session that was killed over a bad event blames it", []Ability{Blame}, blamed},
	{"Blocked tells when the broker wants nothing", []Ability{Block}, blocked},
	{"Open may be called by several goroutines", nil, openConcurrently},
	{"the end of a session leaves others alone", nil, sessionsAreSeparate},
	{"Open fails while the broker is away", []Ability{Stop}, openFails},
	{"Open gives up when its context has ended", nil, openCancelled},
	{"Open gives up when its context ends", []Ability{Hang}, openGivesUp},
}
