package connect

import (
	"context"
	"log/slog"
	"net/url"
	"strings"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/relay"
)

// Publisher opens sessions with what the files say at that moment: a password or a certificate that was renewed is taken at
// the next connect. It is safe for concurrent use.
type Publisher struct {
	config *config.Config
	logger *slog.Logger
	to     Target
}

// Target is where a replay goes instead of where the configuration says. Its zero value changes nothing.
type Target struct {
	Exchange string // takes all events under the configured routing key, whatever the rules say
	Queue    string // takes all events, past all exchanges
}

// NewPublisher returns a publisher of a valid configuration.
func NewPublisher(c *config.Config, logger *slog.Logger, to Target) *Publisher {
	return &Publisher{c, logger, to}
}

// Open implements relay.Publisher.
func (p *Publisher) Open(ctx context.Context) (relay.Session, error) {
	publisher, err := p.now()
	if err != nil {
		return nil, err
	}
	return publisher.Open(ctx)
}

// now returns the publisher of what the files say now.
func (p *Publisher) now() (*amqp.Publisher, error) {
	made, err := PublisherConfig(p.config, p.logger)
	if err != nil {
		return nil, err
	}
	switch {
	case p.to.Queue != "":
		made.Routing = amqp.Routing{Queue: p.to.Queue}
	case p.to.Exchange != "":
		made.Routing.Exchange, made.Routing.Rules = p.to.Exchange, nil
	}
	return amqp.NewPublisher(made)
}

// route returns where events go, which no file that may change says; nil if a file can't be read just now.
func (p *Publisher) route() func(surepost.Event) (exchange, routingKey string) {
	publisher, err := p.now()
	if err != nil {
		return nil
	}
	return publisher.Route
}

// Window returns how many events may be without an outcome.
func (p *Publisher) Window() int { return p.config.Relay.WindowEvents }

// Connection returns how to reach RabbitMQ, with the files' contents of this moment.
func Connection(c *config.Config) (amqp.Connection, error) {
	b := c.Broker
	made := amqp.Connection{
		Name: b.Name, Heartbeat: b.Heartbeat, ConnectTimeout: b.ConnectTimeout, WriteTimeout: b.WriteTimeout, RPCTimeout: b.RPCTimeout,
	}
	urls, err := brokerURLs(c)
	if err != nil {
		return made, err
	}
	word, err := passwordSource{b.Password, b.PasswordFile}.read()
	if err != nil {
		return made, err
	}
	for _, raw := range urls {
		made.URLs = append(made.URLs, withCredentials(raw, b.Username, word))
	}
	made.TLS, err = tlsConfig(b.TLS)
	return made, err
}

// PublisherConfig returns the publisher's settings.
func PublisherConfig(c *config.Config, logger *slog.Logger) (amqp.PublisherConfig, error) {
	b := c.Broker
	connection, err := Connection(c)
	if err != nil {
		return amqp.PublisherConfig{}, err
	}
	made := amqp.PublisherConfig{
		Connection:      connection,
		Routing:         amqp.Routing{Exchange: b.Exchange, Key: b.Key, Rules: b.Rules},
		Exchanges:       b.Exchanges,
		MaxMessageBytes: b.MaxMessageBytes, ConfirmTimeout: b.ConfirmTimeout, Window: c.Relay.WindowEvents,
		OmitPartitionKey: b.OmitPartitionKey, Logger: logger,
	}
	switch b.Format {
	case "cloudevents":
		made.Format = amqp.CloudEventsStructured
	case "cloudevents-binary":
		made.Format = amqp.CloudEventsBinary
	}
	switch b.Mode {
	case "verify":
		made.Mode = amqp.Verify
	case "none":
		made.Mode = amqp.None
	}
	return made, nil
}

// brokerURLs returns the URLs, from their file if there is one.
func brokerURLs(c *config.Config) ([]string, error) {
	if c.Broker.URLsFile == "" {
		return c.Broker.URLs, nil
	}
	text, err := config.ReadSecret(c.Broker.URLsFile)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == ',' || r == ' ' }), nil
}

// withCredentials adds the user and the password that a URL lacks. What can't be parsed is left for the library to refuse.
func withCredentials(raw, user, password string) string {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil && strings.Contains(raw, "@") {
		return raw
	}
	name := u.User.Username()
	if name == "" {
		name = user
	}
	if _, has := u.User.Password(); has || password == "" || name == "" {
		return raw
	}
	u.User = url.UserPassword(name, password)
	return u.String()
}

// validateBroker looks at everything that the broker's keys say, if there is a broker.
func validateBroker(c *config.Config) config.Problems {
	if !c.IsSet("broker.urls") && !c.IsSet("broker.urlsFile") {
		return nil
	}
	var problems config.Problems
	key := "broker.urls"
	if c.Broker.URLsFile != "" {
		key = "broker.urlsFile"
	}
	urls, err := brokerURLs(c)
	if err != nil {
		problems = append(problems, problem(c, key, err))
	}
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			continue // NewPublisher says so
		}
		_, has := u.User.Password()
		for _, other := range []string{"broker.username", "broker.password", "broker.passwordFile"} {
			if has && c.IsSet(other) {
				problems = append(problems, c.Problem(other, "is set, and "+key+" ("+c.Origin(key).String()+") has a password too", "remove one"))
			}
		}
	}
	if c.Broker.PasswordFile != "" {
		if _, err := config.ReadSecret(c.Broker.PasswordFile); err != nil {
			problems = append(problems, problem(c, "broker.passwordFile", err))
		}
	}
	problems = append(problems, validateTLS(c, "broker.tls", c.Broker.TLS)...)
	if len(problems) > 0 {
		return problems
	}
	made, err := PublisherConfig(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return append(problems, problem(c, key, err))
	}
	if made.Connection.TLS != nil {
		for _, raw := range urls {
			if strings.HasPrefix(strings.ToLower(raw), "amqp:") {
				return append(problems, c.Problem(key, "has an amqp:// URL, which isn't encrypted, and broker.tls is set", "use amqps://, or remove broker.tls"))
			}
		}
	}
	_, err = amqp.NewPublisher(made)
	return append(problems, c.Translate(err)...)
}
