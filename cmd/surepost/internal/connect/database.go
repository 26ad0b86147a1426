package connect

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/relay"
)

// Kind is a kind of database.
type Kind string

const (
	PostgreSQL Kind = "PostgreSQL"
	MySQL      Kind = "MySQL or MariaDB"
	SQLite     Kind = "SQLite"
)

// Database is a store with what is needed to close it. What else it can do is found out by type assertion.
type Database struct {
	Store relay.Store
	Kind  Kind
	close func()
}

// Close gives back the connections.
func (d *Database) Close() { d.close() }

// Open opens the configured database. PostgreSQL and MySQL are connected to when first used. With create an SQLite file is
// made if it isn't there.
func Open(ctx context.Context, c *config.Config, create bool) (*Database, error) {
	raw, err := databaseURL(c)
	if err != nil {
		return nil, err
	}
	kind, err := kindOf(raw)
	if err != nil {
		return nil, err
	}
	switch kind {
	case PostgreSQL:
		return openPostgres(ctx, c, raw)
	case MySQL:
		return openMySQL(c, raw)
	default:
		return openSQLite(c, raw, create)
	}
}

// databaseURL returns the URL, from its file if there is one.
func databaseURL(c *config.Config) (string, error) {
	if c.Database.URLFile != "" {
		return config.ReadSecret(c.Database.URLFile)
	}
	return c.Database.URL, nil
}

// kindOf tells databases apart by their URL's scheme. What has none is the path of an SQLite file.
func kindOf(raw string) (Kind, error) {
	scheme, _, found := strings.Cut(raw, ":")
	if !found {
		if strings.ContainsAny(raw, "= ") && strings.Contains(raw, "host") {
			return "", kept{"is a list of parameters", "write it as a URL: postgres://user@host:5432/name?sslmode=verify-full"}
		}
		return SQLite, nil
	}
	switch strings.ToLower(scheme) {
	case "postgres", "postgresql":
		return PostgreSQL, nil
	case "mysql", "mariadb":
		return MySQL, nil
	case "sqlite", "file":
		return SQLite, nil
	}
	if strings.ContainsAny(scheme, "@/") { // of a URL without a scheme, which may begin with a user, or a path
		return "", kept{"has no scheme", "begin it with postgres://, mysql://, mariadb:// or sqlite://"}
	}
	return "", kept{"has an unknown scheme", "begin it with postgres://, postgresql://, mysql://, mariadb:// or sqlite://"}
}

// validateDatabase looks at everything that the database's keys say, if there is a database.
func validateDatabase(c *config.Config) config.Problems {
	if !c.IsSet("database.url") && !c.IsSet("database.urlFile") {
		return nil
	}
	key := "database.url"
	if c.Database.URLFile != "" {
		key = "database.urlFile"
	}
	raw, err := databaseURL(c)
	if err != nil {
		return config.Problems{problem(c, key, err)}
	}
	kind, err := kindOf(raw)
	if err != nil {
		return config.Problems{problem(c, key, err)}
	}
	var problems config.Problems
	if kind != SQLite {
		problems = append(problems, validateServer(c, key, raw)...)
	}
	if len(problems) > 0 {
		return problems
	}
	problems = validateRetention(c, kind)
	switch kind {
	case PostgreSQL:
		_, err = poolConfig(c, raw)
		if err != nil {
			problems = append(problems, problem(c, key, err))
		}
	case MySQL:
		if _, err = mysqlConfig(c, raw); err != nil {
			problems = append(problems, problem(c, key, err))
		}
	case SQLite:
		for _, name := range []string{"database.password", "database.passwordFile", "database.tls.caFile", "database.tls.certFile",
			"database.tls.keyFile", "database.tls.serverName"} {
			if c.IsSet(name) {
				problems = append(problems, c.Problem(name, "is set, and an SQLite file has no server", "remove it, or change the database's URL"))
			}
		}
	}
	if kind != PostgreSQL && c.Database.Schema != "" {
		problems = append(problems, c.Problem("database.schema", "is set, and "+string(kind)+" has no schemas",
			"name the database in the URL instead"))
	}
	if kind != PostgreSQL && c.Relay.Lanes > 1 {
		problems = append(problems, c.Problem("relay.lanes", fmt.Sprintf("is %d, and the log in %s has one lane", c.Relay.Lanes, kind),
			"remove it; further relays stand by"))
	}
	if kind == MySQL && c.Relay.Destination != relay.DefaultDestination {
		problems = append(problems, c.Problem("relay.destination", fmt.Sprintf("is %q, and the log in %s has one reader, since what is published is deleted", c.Relay.Destination, kind),
			"remove it; let the broker pass events on to others"))
	}
	if c.Database.MaxConnections < 3 {
		problems = append(problems, c.Problem("database.maxConnections", "is too small for a relay and its health", "use 3 or more"))
	}
	if err := tryPrefix(c, kind); err != nil {
		problems = append(problems, c.Translate(err)...)
	}
	return problems
}

// validateServer looks at a server's URL, its password and its files.
func validateServer(c *config.Config, key, raw string) config.Problems {
	u, err := url.Parse(raw)
	if err != nil || config.Unencoded(u, raw) {
		return config.Problems{c.Problem(key, "can't be parsed (it isn't shown, since it may hold a password)",
			"write scheme://user@host:port/name, with : / ? # @ % and spaces in user and password percent-encoded")}
	}
	var problems config.Problems
	if _, has := u.User.Password(); has {
		for _, other := range []string{"database.password", "database.passwordFile"} {
			if c.IsSet(other) {
				problems = append(problems, c.Problem(other, "is set, and "+key+" ("+c.Origin(key).String()+") has a password too",
					"remove one"))
			}
		}
	}
	if c.Database.PasswordFile != "" {
		if _, err := config.ReadSecret(c.Database.PasswordFile); err != nil {
			problems = append(problems, problem(c, "database.passwordFile", err))
		}
	}
	return append(problems, validateTLS(c, "database.tls", c.Database.TLS)...)
}

// password returns the configured password, read anew, or "" if there is none.
func (p passwordSource) read() (string, error) {
	if p.file != "" {
		return config.ReadSecret(p.file)
	}
	return p.word, nil
}

// passwordSource is a password or the file that it is in.
type passwordSource struct{ word, file string }
