package config

import (
	"net/url"
	"regexp"
	"strings"
)

const masked = "xxxxx"

// Shown returns the key's value as it may be shown.
func (k *Key) Shown() string {
	switch s := k.value.String(); {
	case s == "" || k.Secret == Public:
		return s
	case k.Secret == SecretURL:
		urls := strings.Split(s, ", ")
		for i := range urls {
			isURL := strings.Contains(urls[i], "://") || len(urls) == 1
			urls[i] = MaskURL(urls[i])
			if !isURL || strings.HasPrefix(urls[i], notShown) { // a password with a comma looks like two URLs
				return notShown + "it can't be parsed)"
			}
		}
		return strings.Join(urls, ", ")
	default:
		return masked
	}
}

// Unencoded reports whether a URL was parsed that looks as if its password weren't percent-encoded: it ended at a / or ? or #,
// and an @ is behind. Whoever connected to what it seems to say would tell parts of the password.
func Unencoded(u *url.URL, raw string) bool {
	return u.User == nil && strings.Contains(raw, "@") || strings.Contains(u.EscapedPath()+u.RawQuery+u.Fragment, "@")
}

var credentials = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@"]*):[^\s"]*@`)

// MaskText hides the passwords of URLs in a text: one that somebody gave where none belongs is quoted by whoever refuses it.
func MaskText(s string) string { return credentials.ReplaceAllString(s, "$1:"+masked+"@") }

const notShown = "(not shown: "

// shownSchemes are those of URLs with a host.
var shownSchemes = map[string]bool{"postgres": true, "postgresql": true, "mysql": true, "mariadb": true, "amqp": true, "amqps": true}

// MaskURL hides a URL's password and those of its parameters that may hold one. What it can't parse it doesn't show, and
// what looks as if a password with : / ? # or @ in it wasn't percent-encoded: that is parsed, and means something else.
func MaskURL(raw string) string {
	if !strings.Contains(raw, ":") {
		if strings.ContainsAny(raw, "@=") {
			return notShown + "it isn't a URL)"
		}
		return raw // a path
	}
	u, err := url.Parse(raw)
	file := err == nil && (u.Scheme == "sqlite" || u.Scheme == "file")
	if err != nil || u.Fragment != "" || !file && (!strings.HasPrefix(raw[len(u.Scheme):], "://") || !shownSchemes[u.Scheme]) {
		return notShown + "it can't be parsed)" // user:/password has a scheme and a path, too
	}
	if rest := strings.SplitN(raw, "@", 2); len(rest) == 2 && (u.User == nil || strings.Contains(rest[1], "@")) {
		return notShown + "it has an @ that isn't percent-encoded)"
	}
	if u.User != nil {
		if _, has := u.User.Password(); has {
			u.User = url.UserPassword(u.User.Username(), masked)
		}
	}
	if u.RawQuery != "" {
		parameters := strings.Split(u.RawQuery, "&")
		for i, p := range parameters {
			name, _, _ := strings.Cut(p, "=")
			if lower := strings.ToLower(name); strings.Contains(lower, "pass") || strings.Contains(lower, "secret") ||
				strings.Contains(lower, "token") || strings.Contains(lower, "%") {
				parameters[i] = name + "=" + masked
			}
		}
		u.RawQuery = strings.Join(parameters, "&")
	}
	return u.String()
}
