package publishertest

import (
	"slices"
	"testing"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// Broker is a publisher and what the suite needs to drive the broker behind it. Every test gets a new one, with nothing in
// it. The functions are called by one goroutine.
//
// A function that there is no way to write stays nil and is listed in Cannot, so that nothing is left out in silence.
type Broker struct {
	// Publisher is what is tested. Events as they come from the suite (type "Tested", source "publishertest", a few dozen
	// bytes of data) must find a queue.
	Publisher relay.Publisher

	// Published waits until n events have arrived in the queue, and returns the ids of all of them in the order of their
	// arrival. If they don't arrive within a time that is long for the broker, it fails the test.
	Published func(t testing.TB, n int) []string

	// Each of these changes an event, or what becomes of it, before it is sent, such that its outcome is the one named.
	Reject     func(t testing.TB, e *surepost.Event) // relay.Rejected; it doesn't arrive
	Unroutable func(t testing.TB, e *surepost.Event) // relay.Unroutable
	Refuse     func(t testing.TB, e *surepost.Event) // relay.Refused
	Kill       func(t testing.TB, e *surepost.Event) // the session ends with relay.ErrRefused, and not with relay.ErrUnpublishable
	Blame      func(t testing.TB, e *surepost.Event) // the session ends with both

	// Hold keeps back the outcomes of all events that are sent from now on, for as long as release isn't called.
	Hold func(t testing.TB) (release func())

	// Drop cuts all connections as the network does.
	Drop func(t testing.TB)

	// Hang lets the broker answer nothing any more, neither on open connections nor on new ones, which it accepts or not as it
	// likes. It ends with the test.
	Hang func(t testing.TB)

	// Stop lets connecting fail from now on, and Start ends that.
	Stop, Start func(t testing.TB)

	// Block lets the broker ask to send nothing, and Unblock ends that. A broker that only tells who publishes may take
	// the next event.
	Block, Unblock func(t testing.TB)

	// Cannot lists what this broker has no way to do.
	Cannot []Ability
}

// Ability names a function of [Broker].
type Ability string

// What a Broker may be unable to do.
const (
	Reject     Ability = "Reject"
	Unroutable Ability = "Unroutable"
	Refuse     Ability = "Refuse"
	Kill       Ability = "Kill"
	Blame      Ability = "Blame"
	Hold       Ability = "Hold"
	Hang       Ability = "Hang"
	Stop       Ability = "Stop"
	Block      Ability = "Block"
)

// can reports whether the broker has an ability.
func (b *Broker) can(a Ability) bool { return !slices.Contains(b.Cannot, a) }

// check finds what is neither there nor listed.
func (b *Broker) check(t testing.TB) {
	t.Helper()
	if b.Publisher == nil || b.Published == nil || b.Drop == nil {
		t.Fatal("publishertest: Broker needs Publisher, Published and Drop: no suite can do without them")
	}
	for ability, there := range map[Ability]bool{
		Reject: b.Reject != nil, Unroutable: b.Unroutable != nil, Refuse: b.Refuse != nil, Kill: b.Kill != nil, Blame: b.Blame != nil,
		Hold: b.Hold != nil, Hang: b.Hang != nil, Stop: b.Stop != nil && b.Start != nil, Block: b.Block != nil && b.Unblock != nil,
	} {
		if !there && b.can(ability) {
			t.Errorf("publishertest: Broker.%s is nil: set it, or list publishertest.%s in Broker.Cannot", ability, ability)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}
