package harness

import (
	"context"
	"fmt"
	"sync"

	"github.com/surepost/surepost/harness/internal/server"
)

// Power is the switch of a private server for a program that is not a test: what Stop, Kill, Start, Pause and Unpause are for
// tests. It is safe for concurrent use, one thing at a time.
type Power struct {
	mu sync.Mutex
	of *powerSwitch
}

// Power returns the switch of a server that was asked for with Private. It is an error for another one: a server that came
// from the environment's URL belongs to others too.
func (p *powerSwitch) Power() (*Power, error) {
	if p.server == nil {
		return nil, fmt.Errorf("harness: %s was not asked for: add %s to the call of harness.StartEnv", p.kind.Name, p.option)
	}
	if !p.exclusive() {
		return nil, fmt.Errorf("harness: %s (%s) may have other users: ask for one with harness.Private()",
			p.server.Kind.Name, p.server.Origin)
	}
	return &Power{of: p}, nil
}

// Stop shuts the server down in good order, but without waiting for its clients.
func (p *Power) Stop(ctx context.Context) error { return p.flip(ctx, "stop", (*server.Server).Stop) }

// Kill ends the server with SIGKILL, so that it can neither finish nor announce anything.
func (p *Power) Kill(ctx context.Context) error { return p.flip(ctx, "kill", (*server.Server).Kill) }

// Start starts the server after Stop or Kill, on the same port with the same data, and returns when it serves.
func (p *Power) Start(ctx context.Context) error { return p.flip(ctx, "start", (*server.Server).Start) }

// Pause halts all of the server's processes until Unpause.
func (p *Power) Pause(ctx context.Context) error { return p.flip(ctx, "pause", (*server.Server).Pause) }

// Unpause lets a paused server go on.
func (p *Power) Unpause(ctx context.Context) error {
	return p.flip(ctx, "unpause", (*server.Server).Unpause)
}

// Running reports whether the server runs, be it paused.
func (p *Power) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of.server.Running()
}

// Log returns the last lines of what the server has logged.
func (p *Power) Log() string { return p.of.log() }

func (p *Power) flip(ctx context.Context, what string, action func(*server.Server, context.Context) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := action(p.of.server, ctx); err != nil {
		return fmt.Errorf("harness: %s %s: %w", what, p.of.server.Kind.Name, err)
	}
	return nil
}

// SetAlarm is Block and Unblock for a program that is not a test: it raises or clears a private broker's memory alarm, and
// returns when the broker says so.
func (r *RabbitMQServer) SetAlarm(ctx context.Context, raised bool) error {
	if _, err := r.Power(); err != nil {
		return err
	}
	if err := r.setAlarm(ctx, raised); err != nil {
		return fmt.Errorf("harness: set the memory alarm of RabbitMQ to %t: %w", raised, err)
	}
	return nil
}

// CloseAllConnections is CloseConnections for a program that is not a test.
func (r *RabbitMQServer) CloseAllConnections(ctx context.Context) error {
	r.use()
	if err := r.api.closeConnections(ctx, r.vhost); err != nil {
		return fmt.Errorf("harness: close the connections of %s: %w", r.vhost, err)
	}
	return nil
}
