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

// RabbitMQ asks for a virtual host of the test's own on RabbitMQ. It is deleted when the test ends, which
// closes its connections.
func RabbitMQ(opts ...Option) Service { return newService(server.RabbitMQ, opts) }

func (r *RabbitMQServer) open(ctx context.Context, owner string) error {
	if err := r.acquire(ctx); err != nil {
		return err
	}
	u, err := url.Parse(r.server.URL)
	if err != nil {
		return err
	}
	r.vhost, r.api = uniqueName(owner), management{r.server.ManagementURL}
	password := rand.Text()
	u.User, u.Path = url.UserPassword(r.vhost, password), "/"+r.vhost
	r.url = u.String()
	if err := r.api.createVHost(ctx, r.vhost, password); err != nil {
		return fmt.Errorf("create a virtual host on %s: %w", r.server.Origin, err)
	}
	return nil
}

// URL returns the address of the owner's virtual host, with a user who has all rights there and none
// elsewhere: amqp://user:password@host:port/vhost.
func (r *RabbitMQServer) URL() string {
	r.use()
	return r.url
}

// VHost returns the virtual host's name, which the management API asks for.
func (r *RabbitMQServer) VHost() string {
	r.use()
	return r.vhost
}

// ManagementURL returns the management API with the administrator's name and password, without
// "/api".
func (r *RabbitMQServer) ManagementURL() string { return r.use().ManagementURL }

// Proxy starts a proxy to the server, whose URL is that of the owner's virtual host. It ends with the
// test.
func (r *RabbitMQServer) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	return NewProxy(tb, r.URL())
}

// CloseConnections closes all connections that were made with URL, from the broker's side, as an
// operator would: their clients see connection.close with 320 CONNECTION_FORCED. Clients may connect
// again at once.
func (r *RabbitMQServer) CloseConnections(tb testing.TB) {
	tb.Helper()
	r.use()
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
	r.flip(tb, "block", func(_ *server.Server, ctx context.Context) error { return r.setAlarm(ctx, true) })
}

// Unblock clears the memory alarm.
func (r *RabbitMQServer) Unblock(tb testing.TB) {
	tb.Helper()
	r.flip(tb, "unblock", func(_ *server.Server, ctx context.Context) error { return r.setAlarm(ctx, false) })
}

// Eval evaluates an Erlang expression in a private broker (rabbitmqctl eval), to set what rabbitmq.conf has
// no key for: application:set_env(rabbit, channel_tick_interval, 500).
func (r *RabbitMQServer) Eval(tb testing.TB, expression string) {
	tb.Helper()
	r.flip(tb, "change", func(s *server.Server, ctx context.Context) error { return s.Control(ctx, "eval", expression) })
}

func (r *RabbitMQServer) setAlarm(ctx context.Context, raised bool) error {
	if err := r.server.BlockPublishers(ctx, raised); err != nil {
		return err
	}
	return r.api.awaitAlarm(ctx, raised)
}

// end deletes the virtual host, or ends the broker with it where it was started for this owner.
func (r *RabbitMQServer) end() error {
	if r.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if r.exclusive() {
		return r.server.Close(ctx)
	}
	return r.api.deleteVHost(ctx, r.vhost)
}
