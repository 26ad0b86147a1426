package config

import (
	"regexp"
	"strings"
)

// Translate makes problems of what a library says about its own Config: each by the name of the key that it came from, with
// its origin.
func (c *Config) Translate(err error) Problems {
	var problems Problems
	for _, e := range flatten(err) {
		_, message, ok := strings.Cut(e.Error(), ": ") // the package's name
		if !ok {
			message = e.Error()
		}
		for _, k := range c.keys {
			if k.Also != "" {
				message = regexp.MustCompile(`\b`+regexp.QuoteMeta(k.Also)+`\b`).ReplaceAllLiteralString(message, k.Field)
			}
		}
		problem := Problem{Origin: Origin{Kind: FromDefault}}
		at := len(message)
		for _, k := range c.keys {
			if k.Field == "" {
				continue
			}
			whole := regexp.MustCompile(`\b` + regexp.QuoteMeta(k.Field) + `\b`)
			if i := whole.FindStringIndex(message); i != nil && i[0] < at {
				at = i[0]
				problem.Key, problem.Origin = k.Path, c.Origin(k.Path)
			}
		}
		for _, k := range c.keys {
			if k.Field != "" {
				message = regexp.MustCompile(`\b`+regexp.QuoteMeta(k.Field)+`\b`).ReplaceAllLiteralString(message, k.Path)
			}
			// The relay's fields have names of their own, and are told without "Config." where there are two.
			if field, ok := strings.CutPrefix(k.Field, "Config."); ok && strings.HasPrefix(k.Path, "relay.") {
				message = regexp.MustCompile(`\b`+field+`\b`).ReplaceAllLiteralString(message, k.Path)
			}
		}
		message = strings.TrimPrefix(message, problem.Key)
		if problem.Key == "broker.rules" {
			message = strings.NewReplacer("Exchange", "exchange", "Key", "routingKey").Replace(message)
		}
		what, remedy, found := cutLast(message)
		problem.Message, problem.Remedy = strings.TrimSpace(what), remedy
		if !found {
			problem.Remedy = "correct it"
		}
		problems = append(problems, problem)
	}
	return problems
}

// InKeys says what a library says in the names of the keys: relay.Config.Owner, or Config.Owner, is relay.owner.
func (c *Config) InKeys(s string) string {
	for _, k := range c.keys {
		if k.Field != "" && strings.Contains(s, k.Field) {
			s = regexp.MustCompile(`(\b[a-z]+\.)?\b`+regexp.QuoteMeta(k.Field)+`\b`).ReplaceAllLiteralString(s, k.Path)
		}
	}
	return s
}

// cutLast parts what is wrong from the remedy, at the last colon that a space follows.
func cutLast(s string) (what, remedy string, ok bool) {
	i := strings.LastIndex(s, ": ")
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+2:], true
}

// flatten returns the errors that were joined, however deep.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || strings.Count(err.Error(), "\n") == 0 && len(joined.Unwrap()) > 1 {
		return []error{err} // fmt.Errorf with two %w isn't a list
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}
