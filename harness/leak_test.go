package harness

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// Users check their own code with goleak: the harness must not show up there, not even by what it
// keeps for the shared servers.
func TestNoGoroutineIsLeftForSharedServers(t *testing.T) {
	pg, mq := postgres(t), rabbitMQ(t)
	pg.NewDatabase(t)
	mq.CloseConnections(t)
	within(t, 5*time.Second, "only the tests' goroutines run", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for _, library := range []string{"net/http.", "pgx/v5", "amqp091-go", "os/exec.", "internal/server."} {
			if strings.Contains(string(stacks), library) {
				return false
			}
		}
		return true
	})
}
