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
			urls[i] = MaskURL(urls[i])
		}
		return strings.Join(urls, ", ")
	default:
		return masked
	}
}

// MaskURL hides a URL's password and those of its parameters that may hold one. What it can't parse it doesn't show.
func MaskURL(raw string) string {
	if !strings.Contains(raw, ":") {
		if strings.ContainsAny(raw, "@=") {
			return "(not shown: it isn't a URL)"
		}
		return raw // a path
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.User == nil && strings.Contains(strings.SplitN(raw, "?", 2)[0], "@") {
		return "(not shown: it can't be parsed)"
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
