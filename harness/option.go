package harness

import "github.com/surepost/surepost/harness/internal/server"

// Option changes which server a test gets.
type Option func(*server.Config)

// Private asks for a server that nobody else uses, so that it can be stopped, killed, paused and
// blocked. It never is the one of the environment's URL. It takes a second or two to start for
// PostgreSQL and MariaDB, and five to ten for RabbitMQ.
func Private() Option {
	return func(c *server.Config) { c.Private = true }
}

// Setting adds a line to the configuration of a private server: a parameter for PostgreSQL
// (postgresql.conf), a key for RabbitMQ (rabbitmq.conf), an option for MariaDB (my.cnf).
func Setting(name, value string) Option {
	return func(c *server.Config) { c.Settings = append(c.Settings, server.Setting{Name: name, Value: value}) }
}

// Image asks for a server of this Docker image, for a test of one version: Image("postgres:16"). It
// comes before the environment's image and URL, and there is no falling back to binaries. Tests that
// name the same image share the server. The image must have the official images' entry point; the
// name none asks for binaries.
func Image(name string) Option {
	return func(c *server.Config) { c.Image = name }
}

func newService(kind *server.Kind, opts []Option) Service {
	s := Service{kind: kind}
	for _, o := range opts {
		o(&s.cfg)
	}
	return s
}
