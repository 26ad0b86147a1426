package harness

import (
	"context"
	"sync"

	"github.com/surepost/surepost/harness/internal/server"
)

// shared has the servers that the tests of this process share. One starts when the first test asks
// for it, and ends with the process by its guard: a library has no hook at the end of its users' test
// runs. A failure is remembered, so that the other tests fail at once and alike.
var shared sync.Map // sharedKey → func() (*server.Server, error)

type sharedKey struct {
	kind  *server.Kind
	image string // as an option; otherwise the environment's, for all
}

func sharedServer(kind *server.Kind, cfg server.Config) (*server.Server, error) {
	get, _ := shared.LoadOrStore(sharedKey{kind, cfg.Image}, sync.OnceValues(func() (*server.Server, error) {
		// Not the first test's context: the others would suffer from its deadline.
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		return server.Open(ctx, kind, cfg)
	}))
	return get.(func() (*server.Server, error))()
}
