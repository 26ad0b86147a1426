package mysqlstore

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Config names the tables, and says what the store may take for granted. Its zero value works.
type Config struct {
	// Database holds the tables. Default: none, which leaves it to the connection. It must exist.
	Database string

	// Prefix begins the name of every table. Default "surepost_". Lower-case letters, digits and underscores, at most
	// 32 bytes: tables' names have at most 64.
	Prefix string

	// MultiPrimary lets the store work in a cluster in which several nodes take writes (Galera, group replication in
	// multi-primary mode) or in which numbers are drawn with auto_increment_increment above 1. Default false: Check
	// refuses such a server, because the order per key doesn't hold there for writers on different nodes, whose
	// numbers are not in the order of their commits. Nothing is lost or invented there either. Set it if all writers of
	// a key, and the relay, use the same node; LockKeys and row locks reach no further.
	MultiPrimary bool
}

// DefaultPrefix begins the names of tables unless Config says otherwise.
const DefaultPrefix = "surepost_"

var validPrefix = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,31}$`)

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if !validPrefix.MatchString(c.Prefix) {
		errs = append(errs, fmt.Errorf("mysqlstore: Config.Prefix is %.100q: use lower-case letters, digits and underscores, "+
			"at most 32, not beginning with a digit", c.Prefix))
	}
	if utf8.RuneCountInString(c.Database) > 64 || !utf8.ValidString(c.Database) || strings.ContainsFunc(c.Database, unicode.IsControl) ||
		strings.HasSuffix(c.Database, " ") {
		errs = append(errs, fmt.Errorf("mysqlstore: Config.Database is %.100q: names have at most 64 characters of UTF-8, no control "+
			"characters and no space at the end", c.Database))
	}
	return errors.Join(errs...)
}

// tables are the names that statements use as ${name}.
var tables = []string{"migration", "outbox", "lease", "parked", "inbox", "inbox_attempt", "lock", "parked_action", "scheduled", "cancellation"}

// expand replaces ${…} in a statement by the quoted, qualified names.
func (c Config) expand(statement string) string {
	pairs := make([]string, 0, 2*len(tables))
	for _, name := range tables {
		pairs = append(pairs, "${"+name+"}", c.name(name))
	}
	return strings.NewReplacer(pairs...).Replace(statement)
}

// name returns the quoted, qualified name of a table.
func (c Config) name(name string) string {
	if c.Database == "" {
		return quoteIdent(c.Prefix + name)
	}
	return quoteIdent(c.Database) + "." + quoteIdent(c.Prefix+name)
}

func quoteIdent(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }
