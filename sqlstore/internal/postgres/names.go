package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Config names the tables.
type Config struct {
	// Schema holds the tables. Default: none, which leaves it to the connection's search_path. At most 63 bytes of UTF-8 in any
	// case; blanks and double quotes are quoted. Not ' $ % \ and control characters: migrations also name the tables in
	// string constants, in formats and in the bodies of functions.
	Schema string
	// Prefix begins the name of every table and function. Default "surepost_". Lower-case letters, digits and
	// underscores, at most 32 bytes: index names must stay below PostgreSQL's 63.
	Prefix string
}

// DefaultPrefix begins the names of tables and functions unless Config says otherwise.
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
		errs = append(errs, fmt.Errorf("sqlstore: Config.Prefix is %.100q: use lower-case letters, digits and underscores, at most 32, not beginning with a digit", c.Prefix))
	}
	switch {
	case len(c.Schema) > 63 || !utf8.ValidString(c.Schema):
		errs = append(errs, fmt.Errorf("sqlstore: Config.Schema is %.100q: PostgreSQL's names have at most 63 bytes, of UTF-8: shorten it", c.Schema))
	case strings.ContainsAny(c.Schema, `'$%\`) || strings.ContainsFunc(c.Schema, unicode.IsControl):
		errs = append(errs, fmt.Errorf(`sqlstore: Config.Schema is %q: it can't hold any of ' $ %% \ and control characters, because `+
			"functions and string constants name the tables too: choose another schema, or ALTER SCHEMA … RENAME TO …", c.Schema))
	}
	return errors.Join(errs...)
}

// expand replaces ${…} in a statement by the quoted, qualified names, and ${p} by the prefix.
func (c Config) expand(statement string) string {
	pairs := []string{"${p}", c.Prefix, "${schema}", quoteIdent(c.Schema)}
	for _, name := range []string{"migration", "outbox", "sequence", "lease", "checkpoint", "parked", "inbox", "inbox_attempt", "write",
		"destination", "relay", "parked_action", "scheduled", "cancellation", "write_005", "ring",
		"outbox_0", "outbox_1", "outbox_2", "outbox_3", "outbox_seq", "outbox_tx", "inbox_moving"} {
		pairs = append(pairs, "${"+name+"}", c.name(name))
	}
	return strings.NewReplacer(pairs...).Replace(statement)
}

// name returns the quoted, qualified name of a table or function.
func (c Config) name(name string) string {
	if c.Schema == "" {
		return quoteIdent(c.Prefix + name)
	}
	return quoteIdent(c.Schema) + "." + quoteIdent(c.Prefix+name)
}

// regclass returns a table's name as a constant of an expression.
func (c Config) regclass(name string) string { return quoteLiteral(c.name(name)) + "::regclass" }

func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func quoteLiteral(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }
