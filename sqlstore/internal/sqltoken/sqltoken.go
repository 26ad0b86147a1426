// Package sqltoken takes statements apart as a server does, for tests: whatever a schema or a prefix is called, a statement
// must have the tokens that it was written with, and the name must be one identifier of them.
package sqltoken

import (
	"fmt"
	"strings"
)

// Kind is what a token is.
type Kind byte

const (
	Word     Kind = iota // an unquoted identifier, a keyword, a number
	Name                 // a quoted identifier, as it is meant
	Constant             // a string constant, as it is meant; a dollar-quoted one too
	Sign                 // any other character
)

// Token is a piece of a statement.
type Token struct {
	Kind Kind
	Text string
}

// Quotes are a server's.
type Quotes struct {
	Name   byte // around an identifier
	Dollar bool // $tag$…$tag$ is a constant
}

var (
	PostgreSQL = Quotes{Name: '"', Dollar: true}
	MySQL      = Quotes{Name: '`'}
)

// Split returns the tokens without blanks and comments. An error says that a quote isn't closed.
func (q Quotes) Split(sql string) (tokens []Token, err error) {
	for sql != "" {
		c := sql[0]
		switch {
		case strings.HasPrefix(sql, "--"):
			_, sql, _ = strings.Cut(sql, "\n")
		case strings.HasPrefix(sql, "/*"):
			_, rest, closed := strings.Cut(sql, "*/")
			if !closed {
				return tokens, fmt.Errorf("an open comment: %.60q", sql)
			}
			sql = rest
		case c == q.Name || c == '\'':
			text, rest, closed := quoted(sql)
			if !closed {
				return tokens, fmt.Errorf("an open quote: %.60q", sql)
			}
			kind := Constant
			if c == q.Name {
				kind = Name
			}
			if kind == Constant && strings.Contains(text, `\`) {
				return tokens, fmt.Errorf("a constant with a backslash, which depends on the server's settings: %.60q", text)
			}
			tokens, sql = append(tokens, Token{kind, text}), rest
		case q.Dollar && c == '$' && dollarTag(sql) != "":
			tag := dollarTag(sql)
			body, rest, closed := strings.Cut(sql[len(tag):], tag)
			if !closed {
				return tokens, fmt.Errorf("an open constant: %.60q", sql)
			}
			tokens, sql = append(tokens, Token{Constant, body}), rest
		case isWord(c):
			n := 1
			for n < len(sql) && (isWord(sql[n]) || sql[n] == '$') {
				n++
			}
			tokens, sql = append(tokens, Token{Word, sql[:n]}), sql[n:]
		case c == ' ' || c == '\n' || c == '\t' || c == '\r':
			sql = sql[1:]
		default:
			tokens, sql = append(tokens, Token{Sign, sql[:1]}), sql[1:]
		}
	}
	return tokens, nil
}

func isWord(c byte) bool {
	return c == '_' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// quoted reads up to the closing quote; a doubled one stands for itself.
func quoted(sql string) (text, rest string, closed bool) {
	quote := sql[0]
	var b strings.Builder
	for i := 1; i < len(sql); i++ {
		if sql[i] != quote {
			b.WriteByte(sql[i])
			continue
		}
		if i+1 < len(sql) && sql[i+1] == quote {
			b.WriteByte(quote)
			i++
			continue
		}
		return b.String(), sql[i+1:], true
	}
	return "", "", false
}

// dollarTag returns $tag$ if the text begins with one.
func dollarTag(sql string) string {
	for i := 1; i < len(sql); i++ {
		switch c := sql[i]; {
		case c == '$':
			return sql[:i+1]
		case !isWord(c) || i == 1 && '0' <= c && c <= '9': // $1 is a parameter
			return ""
		}
	}
	return ""
}

// Same says where two statements differ, other than by names: same reports whether the first's name, or word, stands where
// the second's should. Constants that differ are taken for SQL, as functions' bodies and tables' names are.
func (q Quotes) Same(got, want string, same func(got, want string) bool) error {
	a, err := q.Split(got)
	if err != nil {
		return err
	}
	b, err := q.Split(want)
	if err != nil {
		return err
	}
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		around := fmt.Sprintf("token %d is %q, want %q", i, a[i].Text, b[i].Text)
		switch {
		case a[i].Kind != b[i].Kind:
			return fmt.Errorf("%s, of another kind", around)
		case a[i].Kind == Constant:
			if strings.Count(a[i].Text, "%") != strings.Count(b[i].Text, "%") {
				return fmt.Errorf("%s: as a format it has other parameters", around)
			}
			if err := q.Same(a[i].Text, b[i].Text, same); err != nil {
				return fmt.Errorf("in a constant: %w", err)
			}
		case a[i].Kind == Sign || !same(a[i].Text, b[i].Text):
			return fmt.Errorf("%s", around)
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("%d tokens, want %d", len(a), len(b))
	}
	return nil
}
