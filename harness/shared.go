package harness

import (
	"context"
	"sync"

	"github.com/surepost/surepost/harness/internal/server"
)

// sharedServer returns the server that the tests of this process share. It starts when the first
// test asks, and ends with the process by its guard: a library has no hook at the end of its users'
// test runs. A failure is remembered, so that the other tests fail at once and alike.
type sharedServer func() (*server.Server, error)

var (
	sharedPostgres = startOnce(server.PostgreSQL)
	sharedRabbitMQ = startOnce(server.RabbitMQ)
	sharedMariaDB  = startOnce(server.MariaDB)
)

func startOnce(kind *server.Kind) sharedServer {
	return sync.OnceValues(func() (*server.Server, error) {
		// Not the first test's context: the others would suffer from its deadline.
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		return server.Open(ctx, kind, server.Config{})
	})
}

// acquire returns the server that the options ask for: the shared one, or where there is none or a
// private one is wanted, a server of the caller's own.
func acquire(ctx context.Context, kind *server.Kind, shared sharedServer, opts []Option) (powerSwitch, error) {
	cfg, err := configure(opts)
	if err != nil {
		return powerSwitch{}, err
	}
	if shared != nil && !cfg.Private {
		s, err := shared()
		return powerSwitch{server: s, shared: true}, err
	}
	s, err := server.Open(ctx, kind, cfg)
	return powerSwitch{server: s}, err
}
