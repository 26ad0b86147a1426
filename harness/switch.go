package harness

import (
	"context"
	"testing"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

// limit bounds every single thing the harness does to a server that runs, among them Close.
const limit = time.Minute

// startLimit bounds the first start, which may pull an image.
const startLimit = 8 * time.Minute

// powerSwitch starts and stops a server that its owner shares with nobody. Its methods are for one
// goroutine at a time.
type powerSwitch struct {
	server *server.Server
	shared bool
}

// Stop shuts the server down in good order, but without waiting for its clients.
func (p *powerSwitch) Stop(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "stop", p.server.Stop)
}

// Kill ends the server with SIGKILL, so that it can neither finish nor announce anything.
func (p *powerSwitch) Kill(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "kill", p.server.Kill)
}

// Start starts the server after Stop or Kill, on the same port with the same data, and returns when
// it serves.
func (p *powerSwitch) Start(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "start", p.server.Start)
}

// Restart is Stop and Start.
func (p *powerSwitch) Restart(tb testing.TB) {
	tb.Helper()
	p.Stop(tb)
	p.Start(tb)
}

func (p *powerSwitch) flip(tb testing.TB, what string, action func(context.Context) error) {
	tb.Helper()
	if !p.exclusive() {
		tb.Fatalf("harness: cannot %s %s (%s), other tests use it too: ask for one with harness.Private()",
			what, p.server.Kind.Name, p.server.Origin)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	if err := action(ctx); err != nil {
		tb.Fatalf("harness: %s %s: %v", what, p.server.Kind.Name, err)
	}
}

// exclusive reports whether the server is this owner's alone and of our own starting.
func (p *powerSwitch) exclusive() bool { return !p.shared && p.server.Ours() }

// closeAfter ends the use of a server at the end of a test. A failed test shows the log of a server
// that was its own; the log of a shared one would be mostly about others.
func (p *powerSwitch) closeAfter(tb testing.TB, close func() error) {
	tb.Cleanup(func() {
		if tb.Failed() && p.exclusive() {
			tb.Logf("the last lines of %s's log (%s):\n%s", p.server.Kind.Name, p.server.Origin, p.server.Log(context.Background()))
		}
		if err := close(); err != nil {
			tb.Errorf("harness: clean up %s: %v", p.server.Kind.Name, err)
		}
	})
}
