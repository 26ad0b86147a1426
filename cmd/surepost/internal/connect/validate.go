package connect

import (
	"errors"
	"log/slog"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

// Needs says which servers a command talks to.
type Needs struct{ Database, Broker bool }

// Validate returns everything that is wrong with what the command needs, and with how the relay is set in any case.
func Validate(c *config.Config, needs Needs) config.Problems {
	var problems config.Problems
	if c.Incomplete() {
		needs = Needs{} // what isn't set may be in the file that couldn't be read
	}
	if needs.Database && !c.IsSet("database.url") && !c.IsSet("database.urlFile") {
		problems = append(problems, c.Problem("database.url", "is not set",
			"set it in the file, by SUREPOST_DATABASE_URL or by --database-url, for example postgres://user@host:5432/name"))
	}
	if needs.Broker && !c.IsSet("broker.urls") && !c.IsSet("broker.urlsFile") {
		problems = append(problems, c.Problem("broker.urls", "is not set",
			"set it in the file, by SUREPOST_BROKER_URLS or by --broker-urls, for example amqps://user@host:5671/vhost"))
	}
	problems = append(problems, validateDatabase(c)...)
	problems = append(problems, validateBroker(c)...)
	problems = append(problems, validateTracing(c)...)
	if c.Inbox.Prune {
		problems = append(problems, ValidateInbox(c)...)
	}
	return append(problems, validateRelay(c)...)
}

// validateRelay asks the library, with a store that needs no server.
func validateRelay(c *config.Config) config.Problems {
	_, err := relay.New(memstore.New(), unconnected{}, RelayConfig(c, slog.New(slog.DiscardHandler), relay.Hooks{}))
	return c.Translate(err)
}

// unconnected is a publisher to check a relay's config with.
type unconnected struct{ relay.Publisher }

// kept is an error of this package that has its remedy apart.
type kept struct{ what, remedy string }

func (k kept) Error() string { return k.what + ": " + k.remedy }

// problem makes a problem of the key from an error of this package or of config's.
func problem(c *config.Config, key string, err error) config.Problem {
	var k kept
	if errors.As(err, &k) {
		return c.Problem(key, k.what, k.remedy)
	}
	return c.Describe(key, err)
}
