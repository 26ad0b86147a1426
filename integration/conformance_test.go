package integration

import (
	"testing"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/internal/brokertest"
)

// TestRabbitMQConforms runs the suite of package amqptest against the real broker: where it fails, the suite and the
// test broker are wrong about RabbitMQ.
func TestRabbitMQConforms(t *testing.T) {
	t.Parallel()
	mq := harness.Start(t, harness.RabbitMQ(harness.Private())).RabbitMQ // it is blocked and restarted
	brokertest.Run(t, brokertest.Target{
		URL:              mq.URL(),
		CloseConnections: mq.CloseConnections,
		Block:            mq.Block,
		Unblock:          mq.Unblock,
		Restart:          mq.Restart,
	})
}
