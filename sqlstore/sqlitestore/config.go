package sqlitestore

import (
	"fmt"
	"regexp"
	"strings"
)

// Config names the tables. Its zero value works.
type Config struct {
	// Prefix begins the name of every table and index. Default "surepost_". Lower-case letters, digits and underscores,
	// at most 32 bytes, beginning with a letter: SQLite keeps names that begin with "sqlite_" for itself.
	Prefix string
}

// DefaultPrefix begins the names of tables unless Config says otherwise.
const DefaultPrefix = "surepost_"

var validPrefix = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	return c
}

func (c Config) validate() error {
	if !validPrefix.MatchString(c.Prefix) || strings.HasPrefix(c.Prefix, "sqlite_") {
		return fmt.Errorf(`sqlitestore: Config.Prefix is %.100q: use lower-case letters, digits and underscores, at most 32, `+
			`beginning with a letter and not with "sqlite_"`, c.Prefix)
	}
	return nil
}

// expand replaces ${…} in a statement by the tables' names, and ${p} by the prefix.
func (c Config) expand(statement string) string {
	pairs := []string{"${p}", c.Prefix}
	for _, table := range []string{"migration", "outbox", "lease", "checkpoint", "parked", "inbox", "inbox_attempt",
		"parked_action", "scheduled", "cancellation", "mark"} {
		pairs = append(pairs, "${"+table+"}", c.name(table))
	}
	return strings.NewReplacer(pairs...).Replace(statement)
}

// name returns a table's name. A valid prefix needs no quotes.
func (c Config) name(table string) string { return c.Prefix + table }
