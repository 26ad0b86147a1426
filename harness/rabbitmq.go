package harness

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"testing"

	"github.com/surepost/surepost/harness/internal/server"
)

// RabbitMQServer is a RabbitMQ broker and a virtual host on it that belongs to one test or program.
type RabbitMQServer struct {
	powerSwitch
	url   string
	vhost string
	api   management
}

// RabbitMQ returns a virtual host of this test's own, on a broker that the tests of this process
// share, or on its own with Private. The virtual host is deleted when the test ends, which closes
// its connections.
func RabbitMQ(tb testing.TB, opts ...Option) *RabbitMQServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	r, err := openRabbitMQ(ctx, tb.Name(), sharedRabbitMQ, opts)
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	r.closeAfter(tb, r.Close)
	return r
}

// StartRabbitMQ is RabbitMQ for a program that is not a test: it returns a broker for this program,
// which Close ends. Its methods that take a testing.TB are for tests.
func StartRabbitMQ(ctx context.Context, opts ...Option) (*RabbitMQServer, error) {
	return openRabbitMQ(ctx, "main", nil, opts)
}

func openRabbitMQ(ctx context.Context, name string, shared sharedServer, opts []Option) (*RabbitMQServer, error) {
	power, err := acquire(ctx, server.RabbitMQ, shared, opts)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(power.server.URL)
	if err != nil {
		return nil, err
	}
	r := &RabbitMQServer{powerSwitch: power, vhost: uniqueName(name), api: management{power.server.ManagementURL}}
	password := rand.Text()
	u.User, u.Path = url.UserPassword(r.vhost, password), "/"+r.vhost
	r.url = u.String()
	if err := r.api.createVHost(ctx, r.vhost, password); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("create a virtual host on %s: %w", power.server.Origin, err)
	}
	return r, nil
}

// URL returns the address of the owner's virtual host, with a user who has all rights there and none
// elsewhere: amqp://user:password@host:port/vhost.
func (r *RabbitMQServer) URL() string { return r.url }

// VHost returns the virtual host's name, which the management API asks for.
func (r *RabbitMQServer) VHost() string { return r.vhost }

// ManagementURL returns the management API with the administrator's name and password, without
// "/api".
func (r *RabbitMQServer) ManagementURL() string { return r.server.ManagementURL }

// CloseConnections closes all connections that were made with URL, from the broker's side, as an
// operator would: their clients see connection.close with 320 CONNECTION_FORCED. Clients may connect
// again at once.
func (r *RabbitMQServer) CloseConnections(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := r.api.closeConnections(ctx, r.vhost); err != nil {
		tb.Fatalf("harness: close the connections of %s: %v", r.vhost, err)
	}
}

// Block raises the broker's memory alarm: it sends connection.blocked to its publishers and reads
// nothing more from them, until Unblock. Only for a private broker.
func (r *RabbitMQServer) Block(tb testing.TB) {
	tb.Helper()
	r.flip(tb, "block", func(ctx context.Context) error { return r.setAlarm(ctx, true) })
}

// Unblock clears the memory alarm.
func (r *RabbitMQServer) Unblock(tb testing.TB) {
	tb.Helper()
	r.flip(tb, "unblock", func(ctx context.Context) error { return r.setAlarm(ctx, false) })
}

// Eval evaluates an Erlang expression in a private broker (rabbitmqctl eval), to set what rabbitmq.conf has
// no key for: application:set_env(rabbit, channel_tick_interval, 500).
func (r *RabbitMQServer) Eval(tb testing.TB, expression string) {
	tb.Helper()
	r.flip(tb, "change", func(ctx context.Context) error { return r.server.Control(ctx, "eval", expression) })
}

func (r *RabbitMQServer) setAlarm(ctx context.Context, raised bool) error {
	if err := r.server.BlockPublishers(ctx, raised); err != nil {
		return err
	}
	return r.api.awaitAlarm(ctx, raised)
}

// Close deletes the virtual host and ends the broker if it was started for this owner. It has its own
// time limit, so it may be deferred after an interrupt. Call it once.
func (r *RabbitMQServer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if r.exclusive() {
		return r.server.Close(ctx)
	}
	return r.api.deleteVHost(ctx, r.vhost)
}
