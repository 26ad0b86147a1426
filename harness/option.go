package harness

import (
	"errors"

	"github.com/surepost/surepost/harness/internal/server"
)

// Option changes which server a test gets.
type Option func(*server.Config)

// Private asks for a server that nobody else uses, so that it can be stopped, killed and blocked. It
// never is the one of the environment's URL. It takes a second to start for PostgreSQL and five to
// ten for RabbitMQ.
func Private() Option {
	return func(c *server.Config) { c.Private = true }
}

// Setting adds a line to the configuration of a private server: a parameter for PostgreSQL
// (postgresql.conf), a key for RabbitMQ (rabbitmq.conf).
func Setting(name, value string) Option {
	return func(c *server.Config) { c.Settings = append(c.Settings, server.Setting{Name: name, Value: value}) }
}

func configure(opts []Option) (server.Config, error) {
	var c server.Config
	for _, o := range opts {
		o(&c)
	}
	if len(c.Settings) > 0 && !c.Private {
		return c, errors.New("harness: a Setting changes the server for everybody who uses it: add harness.Private()")
	}
	return c, nil
}
