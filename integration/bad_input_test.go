package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/relay"
)

// A message of 20 MiB, and a broker that takes 16: wherever that is found out, the event is parked with a reason that
// says what to change, its key waits behind it, and all others are published.
func TestAMessageThatIsTooLargeIsParkedWithItsRemedy(t *testing.T) {
	for name, test := range map[string]struct {
		maxMessageBytes int
		sessions        int64 // with the broker
		reason          []string
	}{
		// The broker closes the channel without naming the message: it is found by sending one at a time.
		"found by the broker": {32 << 20, 5, []string{"is larger than configured max size 16777216",
			"lower PublisherConfig.MaxMessageBytes to the broker's limit"}},
		"found by us": {0, 1, []string{"bytes long, the limit is 16777216 (PublisherConfig.MaxMessageBytes)",
			"store the document elsewhere and send its address, or raise the limit here and at the broker (max_message_size)"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := amqptest.Start(amqptest.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			bindQueue(t, amqpChannel(t, b.URL()), "q", nil)

			store := newMemoryStore()
			huge := 3
			for n := range 20 {
				e := surepost.Event{ID: fmt.Sprint("e", n), Type: "Tested", Source: "test", Key: fmt.Sprint("k", n%4),
					Data: json.RawMessage("1")}
				if n == huge {
					e.Data = json.RawMessage(`"` + strings.Repeat("x", 20<<20) + `"`)
				}
				store.append(relay.Entry{Event: e})
			}
			cfg := publisherConfig(b.URL())
			cfg.MaxMessageBytes, cfg.Logger = test.maxMessageBytes, slog.New(slog.DiscardHandler)
			publisher, err := amqp.NewPublisher(cfg)
			if err != nil {
				t.Fatal(err)
			}
			r, err := relay.New(store, publisher, relay.Config{Logger: cfg.Logger,
				BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond, CheckpointInterval: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Run(ctx) }()
			for deadline := time.Now().Add(30 * time.Second); !store.settled(); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("not settled within 30 s: %+v", r.Report())
				}
			}
			sessions := r.Report().Sessions
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}

			arrived := map[string]bool{}
			for _, m := range b.Messages("q") {
				arrived[m.MessageID] = true
			}
			parked := map[string]relay.Parked{}
			for _, p := range store.parkedEvents() {
				parked[p.Event.ID] = p
			}
			for n := range 20 {
				id := fmt.Sprint("e", n)
				p, is := parked[id]
				switch waits := n > huge && n%4 == huge%4; {
				case n == huge:
					if !is || p.Behind {
						t.Errorf("%s is parked %v, behind another %v", id, is, p.Behind)
					}
					for _, part := range test.reason {
						if !strings.Contains(p.Reason, part) {
							t.Errorf("the reason %q doesn't say %q", p.Reason, part)
						}
					}
				case waits != is || waits && !p.Behind || arrived[id] == waits:
					t.Errorf("%s: parked %v, behind another %v, arrived %v", id, is, p.Behind, arrived[id])
				}
			}
			if sessions > test.sessions {
				t.Errorf("it took %d sessions, want %d at most", sessions, test.sessions)
			}
		})
	}
}

// What can't work is said before anything is connected to, all at once, and each with its remedy.
func TestLimitsThatCannotWorkAreNamedWithTheirRemedy(t *testing.T) {
	_, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{"amqp://localhost"}, Heartbeat: -time.Second, ConnectTimeout: -1,
			WriteTimeout: -1, RPCTimeout: -1},
		Window: -1, MaxMessageBytes: -1, ConfirmTimeout: -1,
	})
	wantWords(t, err, "Window is -1: use 1 to 16384", "MaxMessageBytes is -1: set a positive limit, or 0 for the default",
		"ConfirmTimeout is -1ns: set a positive limit", "Heartbeat is -1s: AMQP counts it in whole seconds from 1 to 65535",
		"ConnectTimeout is -1ns: set a positive limit", "WriteTimeout is -1ns: set", "RPCTimeout is -1ns: set")

	small, err := amqp.NewPublisher(amqp.PublisherConfig{Window: 10,
		Connection: amqp.Connection{URLs: []string{"amqp://localhost"}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = relay.New(newMemoryStore(), small, relay.Config{})
	wantWords(t, err, "WindowEvents is 1024", "the publisher allows 10 events without an outcome",
		"lower the one or raise the other")
	_, err = relay.New(newMemoryStore(), small, relay.Config{WindowEvents: -1, PageEvents: -1, BufferBytes: -1})
	wantWords(t, err, "WindowEvents is -1: use 1 to 65535", "PageEvents is -1: use 1 to 10000",
		"BufferBytes is -1: use at least 1 MiB")
}
