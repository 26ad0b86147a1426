package harness

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

// limit bounds every single thing the harness does to a server that runs, among them Close.
const limit = time.Minute

// startLimit bounds the first start, which may pull an image.
const startLimit = 8 * time.Minute

// powerSwitch has an Env's server of one kind, and starts and stops it where its owner shares it with
// nobody. Its methods are for one goroutine at a time.
type powerSwitch struct {
	kind   *server.Kind
	option string // that asks for this kind
	asked  bool   // … and whether it was given
	cfg    server.Config
	tb     testing.TB // nil in a program that is not a test

	server *server.Server
	shared bool
	begin  server.Mark // in the log, when the owner came
}

// acquire takes the shared server, or where there is none or a private one is wanted, a server of the
// owner's own.
func (p *powerSwitch) acquire(ctx context.Context) (err error) {
	if p.shared = p.tb != nil && !p.cfg.Private; p.shared {
		p.server, err = sharedServer(p.kind, p.cfg)
	} else {
		p.server, err = server.Open(ctx, p.kind, p.cfg)
	}
	if err == nil && p.shared {
		p.begin = p.server.Mark()
	}
	return err
}

// use returns the server. It ends a test that did not ask for one.
func (p *powerSwitch) use() *server.Server {
	if p.server == nil {
		complaint := fmt.Sprintf("harness: %s was not asked for: add %s to the call of harness.Start", p.kind.Name, p.option)
		if p.tb == nil {
			panic(complaint)
		}
		p.tb.Helper()
		p.tb.Fatal(complaint)
	}
	return p.server
}

// Stop shuts the server down in good order, but without waiting for its clients.
func (p *powerSwitch) Stop(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "stop", (*server.Server).Stop)
}

// Kill ends the server with SIGKILL, so that it can neither finish nor announce anything.
func (p *powerSwitch) Kill(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "kill", (*server.Server).Kill)
}

// Start starts the server after Stop or Kill, on the same port with the same data, and returns when
// it serves.
func (p *powerSwitch) Start(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "start", (*server.Server).Start)
}

// Restart is Stop and Start.
func (p *powerSwitch) Restart(tb testing.TB) {
	tb.Helper()
	p.Stop(tb)
	p.Start(tb)
}

// Pause halts all of the server's processes (SIGSTOP; in Docker, its freezer), until Unpause. To its
// clients it is as a machine that swaps: connections stay, new ones are accepted by the kernel, and
// nothing answers. Stop, Kill and the test's end take a paused server as it is.
func (p *powerSwitch) Pause(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "pause", (*server.Server).Pause)
}

// Unpause lets a paused server go on.
func (p *powerSwitch) Unpause(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "unpause", (*server.Server).Unpause)
}

func (p *powerSwitch) flip(tb testing.TB, what string, action func(*server.Server, context.Context) error) {
	tb.Helper()
	s := p.use()
	if !p.exclusive() {
		tb.Fatalf("harness: cannot %s %s (%s), other tests use it too: ask for one with harness.Private()",
			what, s.Kind.Name, s.Origin)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	if err := action(s, ctx); err != nil {
		tb.Fatalf("harness: %s %s: %v", what, s.Kind.Name, err)
	}
}

// exclusive reports whether the server is this owner's alone and of our own starting.
func (p *powerSwitch) exclusive() bool { return !p.shared && p.server.Ours() }

// log returns what a failed test shows: the end of the server's log, as far as it is from this test's
// time.
func (p *powerSwitch) log() string {
	text := p.server.Log(context.Background(), p.begin)
	if text == "" {
		return ""
	}
	others := ""
	if p.shared {
		others = ", which other tests use too"
	}
	return fmt.Sprintf("the last lines of %s's log (%s%s):\n%s", p.kind.Name, p.server.Origin, others, text)
}
