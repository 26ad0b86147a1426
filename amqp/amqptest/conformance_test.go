package amqptest_test

import (
	"testing"
	"time"

	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/internal/brokertest"
)

// TestConformsToRabbitMQ runs the suite that real brokers pass, too (package integration), per version that behaves
// differently.
func TestConformsToRabbitMQ(t *testing.T) {
	for _, version := range []string{"3.10.8", "3.13.7", "4.2.1", "4.3.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := start(t, amqptest.Config{Version: version, ConsumerTimeout: time.Second})
			brokertest.Run(t, brokertest.Target{
				URL: b.URL(), ConsumerTimeout: time.Second,
				Block:            func(testing.TB) { b.Block("low on memory") },
				Unblock:          func(testing.TB) { b.Unblock() },
				CloseConnections: func(testing.TB) { b.CloseConnections(320, "CONNECTION_FORCED - test") },
				Restart:          func(testing.TB) { b.Restart() },
			})
		})
	}
}
