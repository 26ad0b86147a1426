package amqp

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/relay/publishertest"
)

func TestThePublisherConforms(t *testing.T) {
	publishertest.Run(t, func(t *testing.T) *publishertest.Broker {
		server := startBroker(t, amqptest.Config{})
		administer(t, server, func(ch *amqp091.Channel) error {
			// "q" takes all: the suite's unroutable events have a type that only this binding leaves out.
			if err := ch.QueueUnbind("q", "#", "events", nil); err != nil {
				return err
			}
			return ch.QueueBind("q", "#.Tested", "events", false, nil)
		})
		publisher, err := NewPublisher(PublisherConfig{
			Connection:      Connection{URLs: []string{server.URL()}},
			MaxMessageBytes: 10_000, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		strike := func(do amqptest.Action) func(testing.TB, *surepost.Event) {
			return func(_ testing.TB, e *surepost.Event) { server.Inject(amqptest.Fault{When: published(e.ID), Do: do}) }
		}
		return &publishertest.Broker{
			Publisher: publisher,
			Published: func(t testing.TB, n int) []string {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
				defer cancel()
				if err := server.AwaitQueue(ctx, "q", func(q amqptest.QueueState) bool { return q.Ready >= n }); err != nil {
					t.Fatal(err)
				}
				return stored(server, "q")
			},
			Reject:     strike(amqptest.Nack()),
			Unroutable: func(_ testing.TB, e *surepost.Event) { e.Type = "Unbound" },
			Refuse:     func(_ testing.TB, e *surepost.Event) { e.Data = []byte(`"` + strings.Repeat("x", 10_000) + `"`) },
			Kill:       strike(amqptest.CloseChannel(404, "NOT_FOUND - no exchange")),
			Blame:      strike(amqptest.CloseChannel(406, "PRECONDITION_FAILED - message size is larger than configured max size")),
			Hold: func(testing.TB) func() {
				gate := amqptest.NewGate()
				server.Inject(amqptest.Fault{When: amqptest.Publish(nil), Do: amqptest.ConfirmWhen(gate)})
				return gate.Open
			},
			Drop: func(testing.TB) { server.Drop() },
			Hang: func(t testing.TB) {
				gate := amqptest.NewGate()
				t.Cleanup(gate.Open)
				server.Inject(amqptest.Fault{When: func(amqptest.Event) bool { return true },
					Do: amqptest.Together(amqptest.StallReads(gate), amqptest.StallWrites(gate))})
			},
			Stop:    func(testing.TB) { server.Kill() },
			Start:   func(testing.TB) { server.Start() },
			Block:   func(testing.TB) { server.Block("low on memory") },
			Unblock: func(testing.TB) { server.Unblock() },
		}
	})
}
