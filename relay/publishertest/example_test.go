package publishertest_test

import (
	"context"
	"testing"
	"time"

	"github.com/surepost/surepost/relay/publishertest"
	"github.com/surepost/surepost/relay/relaytest"
)

// In a publisher's own tests. What the broker can't be brought to do is listed; the more is left out of that list, the
// more of the suite runs.
func ExampleRun() {
	test := func(t *testing.T) { // func TestConformance(t *testing.T)
		publishertest.Run(t, func(*testing.T) *publishertest.Broker {
			server := relaytest.NewPublisher()
			return &publishertest.Broker{
				Publisher: server,
				Published: func(t testing.TB, n int) (ids []string) {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					defer cancel()
					events, err := server.Await(ctx, n)
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range events {
						ids = append(ids, e.ID)
					}
					return ids
				},
				Drop:    func(testing.TB) { server.Drop() },
				Block:   func(testing.TB) { server.Block("memory") },
				Unblock: func(testing.TB) { server.Unblock() },
				Cannot: []publishertest.Ability{
					publishertest.Reject, publishertest.Unroutable, publishertest.Refuse, publishertest.Kill,
					publishertest.Blame, publishertest.Hold, publishertest.Hang, publishertest.Stop,
				},
			}
		})
	}
	_ = test
}
