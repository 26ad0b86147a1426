package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzFile: whatever a file holds, each problem says where it is and what to do, in words and not in pages, and what was
// taken is shown.
func FuzzFile(f *testing.F) {
	f.Add([]byte("database:\n  url: postgres://u@h/db\n  tls: {caFile: x}\nrelay: &r\n  lanes: 3\n"))
	f.Add([]byte("broker:\n  urls: [amqp://a, amqp://b]\n  rules:\n    - {type: \"O*\", exchange: x}\n    - type: 1\n  exchanges:\n    - {name: x, args: {a: [1, {b: c}]}}\n"))
	f.Add([]byte("database: &d\n  tls: *d\n  url: *d\nbroker: {exchanges: [{args: &a {x: *a}}], urls: *d}\n"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nbroker: {rules: *c, exchanges: [{name: x, args: {y: *c}}]}\n"))
	f.Add([]byte("---\n---\n"))
	f.Add([]byte(strings.Repeat("[", 20_000)))
	f.Add([]byte("\"" + strings.Repeat("k", 50_000) + "\": 1\nrelay: {lanes: \"" + strings.Repeat("9", 50_000) + "\"}\n"))
	f.Add([]byte("relay: {leaseTTL: 36500d2500000h, lanes: 0x7fffffffffffffff, bufferBytes: 8589934592GiB}"))
	f.Add([]byte("\xff\xfe\x00a"))
	f.Add([]byte("!!binary aa: !!binary aa\nlog: {level: !!str 1, format: !x y}\n? {a: b}\n: c\n"))
	path := filepath.Join(f.TempDir(), "c.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, problems := Load(Sources{File: path})
		for _, p := range problems {
			text := p.String()
			if p.Origin.Kind != FromFile && p.Origin.Kind != FromFlag || !strings.HasPrefix(text, path) && !strings.HasPrefix(text, "--config: ") ||
				p.Message == "" || p.Remedy == "" || len(text) > len(path)+1<<10 || !utf8.ValidString(text) {
				t.Fatalf("%d bytes, %q: %.300q", len(text), p.Origin, text)
			}
		}
		for _, s := range c.Settings() {
			if len(s.Value) > len(data)+1<<10 {
				t.Fatalf("%s has %d bytes, of a file of %d", s.Key, len(s.Value), len(data))
			}
		}
	})
}

// FuzzValue: a value from a variable is refused with the variable's name, or is shown in a way that means the same.
func FuzzValue(f *testing.F) {
	keys := Keys()
	for i, text := range []string{"x", "1d", "36500d2500000h", "-1s", "1e3", "8589934592GiB", "9223372036854775807B", "0", "+5", "NaN", "TRUE", " 1", "a,b", ",", "1d-5h",
		"0x10", "1_000", "\x00", strings.Repeat("9", 10_000), "µ"} {
		f.Add(uint8(i*3), text)
		f.Add(uint8(i*3+1), text)
		f.Add(uint8(i*3+2), text)
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		k := keys[int(which)%len(keys)]
		if k.FileOnly || text == "" { // an empty variable says nothing
			return
		}
		c, problems := Load(Sources{Environment: []string{k.Env() + "=" + text}})
		for _, p := range problems {
			if told := p.String(); !strings.HasPrefix(told, k.Env()) || p.Remedy == "" || len(told) > 1<<10 || !utf8.ValidString(told) {
				t.Fatalf("%s: %.300q", k.Env(), told)
			}
		}
		if len(problems) > 0 || k.Secret != Public {
			return
		}
		setting := func(c *Config) Setting {
			for _, s := range c.Settings() {
				if s.Key == k.Path {
					return s
				}
			}
			panic(k.Path)
		}
		shown := setting(c)
		again, problems := Load(Sources{Environment: []string{k.Env() + "=" + shown.Value}})
		if len(problems) > 0 || setting(again) != shown {
			t.Fatalf("%s=%q is shown as %q, which is %v (%v)", k.Env(), text, shown.Value, setting(again), problems)
		}
	})
}

// FuzzMaskURL: no part of a password comes through, percent-encoded or not, wherever in a URL it is.
func FuzzMaskURL(f *testing.F) {
	for _, password := range []string{"s3cretWORD", "s3cr@tWORD", "12/s3cretWORD", "12?s3cretWORD", "12#s3cretWORD", "p@12/s3cretWORD", "a@b:1/s3cretWORD", "s3cret,WORD12345",
		"s3cr:tWORD@", "%41s3cretWORD", "s3cret WORD1", "&s3cretWORD=1", "12/s3cretWORD?a@b"} {
		f.Add("user", password)
	}
	f.Fuzz(func(t *testing.T, user, password string) {
		const least = 6 // what is shorter is found by chance
		if len(password) < least || strings.ContainsAny(user, ":/?#@%&= ") || len(user) > 100 || strings.Contains(user, password) ||
			shownSchemes[strings.ToLower(user)] || strings.EqualFold(user, "sqlite") || strings.EqualFold(user, "file") { // amqp://host is none
			return
		}
		around := "postgresql://amqps://mysql://sslmode=verify-full host=db.example.com password= tcp() user=" + user + notShown +
			"it can't be parsed)it isn't a URL)it has an @ that isn't percent-encoded)" + masked + url.User(user).String() +
			" sslpassword=" + masked + " " + url.UserPassword(user, masked).String() + "@db.example.com"
		for _, raw := range []string{
			"postgresql://" + user + ":" + password + "@db.example.com:5432/name?sslmode=verify-full",
			(&url.URL{Scheme: "amqps", User: url.UserPassword(user, password), Host: "db.example.com", Path: "/v"}).String(),
			"postgresql://db.example.com/name?user=" + user + "&password=" + url.QueryEscape(password),
			"postgresql://db.example.com/name?sslpassword=" + strings.ReplaceAll(password, "&", "%26"), // else it is another parameter
			"host=db.example.com user=" + user + " password=" + password,
			"host=db.example.com user=" + user + " password='" + password + "' sslmode=verify-full",
			user + ":" + password + "@tcp(db.example.com)/name",
			user + ":" + password,
		} {
			shown := MaskURL(raw)
			if c, problems := Load(Sources{Environment: []string{"SUREPOST_BROKER_URLS=" + raw}}); len(problems) == 0 {
				for _, s := range c.Settings() {
					if s.Key == "broker.urls" {
						shown += " " + s.Value
					}
				}
			}
			for _, part := range []string{password, url.QueryEscape(password), url.PathEscape(password)} {
				for i := 0; i+least <= len(part); i++ {
					if piece := part[i : i+least]; strings.Contains(shown, piece) && !strings.Contains(around, piece) && !strings.Contains(fmt.Sprintf("%q", around), piece) {
						t.Fatalf("%s\nis shown as\n%s", raw, shown)
					}
				}
			}
		}
	})
}
