package config

import (
	"net/url"
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

const notShown = "(not shown: "

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
	if err != nil || u.Scheme == "" || u.Fragment != "" || u.Opaque != "" && u.Scheme != "sqlite" && u.Scheme != "file" {
		return notShown + "it can't be parsed)"
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
