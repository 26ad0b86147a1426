package main

import (
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/surepost/surepost/amqp/amqptest"
)

// secret is recognised in any output, in whole or in part.
const secret = "Zq7-pAss-Xk9-wOrd-Vj3"

// tellsNothing fails if a part of the secret is in what a command said.
func tellsNothing(t *testing.T, what, said string) {
	t.Helper()
	for i := 0; i+6 <= len(secret); i++ {
		if strings.Contains(said, secret[i:i+6]) {
			t.Errorf("%s tells the password:\n%s", what, said)
			return
		}
	}
}

// brokerWithSecret is one whose user has the secret for a password, and its URL for a password.
func brokerWithSecret(t *testing.T) (broker *amqptest.Broker, as func(user, password string) string) {
	t.Helper()
	broker, err := amqptest.Start(amqptest.Config{Users: map[string]string{"u": secret}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker, func(user, password string) string {
		u, err := url.Parse(broker.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(user, password)
		return u.String()
	}
}

// Whatever way a password is configured, and whatever then goes wrong (what can't be parsed, servers that aren't there, that
// refuse the login, that speak something else, that can't be trusted), no command says it, in words, in JSON or in its log.
func TestNoFailureTellsAPassword(t *testing.T) {
	t.Parallel()
	postgres, mysql, http := postgresLike(t, nil), mysqlLike(t, nil), httpLike(t)
	untrusted := newCertifier(t).server("127.0.0.1")
	secured, securedMySQL := postgresLike(t, untrusted), mysqlLike(t, untrusted)
	broker, brokerAs := brokerWithSecret(t)
	brokerURL, err := url.Parse(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	securedBroker := front(t, brokerURL.Host, untrusted)

	folder := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(folder, name)
		write(t, path, content)
		return path
	}
	passwordFile := file("password", secret+"\n")
	const nobody = "127.0.0.1:1"
	at := func(scheme, server, end string) string { return scheme + "://u:" + secret + "@" + server + end }

	for name, env := range map[string][]string{
		"a refused login":                       {"DATABASE_URL=" + at("postgres", postgres.address, "/db?sslmode=disable"), "BROKER_URLS=" + brokerAs("somebody", secret)},
		"a refused login at MySQL":              {"DATABASE_URL=" + at("mysql", mysql.address, "/db"), "BROKER_URLS=" + brokerAs("u", secret) + "nosuchvhost"},
		"a password in a parameter":             {"DATABASE_URL=postgres://u@" + postgres.address + "/db?sslmode=disable&password=" + secret, "BROKER_URLS=amqp://" + nobody + "/?password=" + secret},
		"a password of its own":                 {"DATABASE_URL=postgres://u@" + postgres.address + "/db?sslmode=disable", "DATABASE_PASSWORD=" + secret, "BROKER_URLS=amqp://x@" + brokerURL.Host, "BROKER_PASSWORD=" + secret},
		"a password in a file":                  {"DATABASE_URL=postgres://u@" + postgres.address + "/db?sslmode=disable", "DATABASE_PASSWORD_FILE=" + passwordFile, "BROKER_URLS=amqp://x@" + brokerURL.Host, "BROKER_PASSWORD_FILE=" + passwordFile},
		"URLs in files":                         {"DATABASE_URL_FILE=" + file("d", at("postgres", postgres.address, "/db?sslmode=disable")), "BROKER_URLS_FILE=" + file("b", at("amqp", nobody, "")+"\n"+at("amqp", http.address, ""))},
		"one configuration file":                {"CONFIG=" + file("c.yaml", "database:\n  url: "+at("postgres", nobody, "/db")+"\n  password: "+secret+"\nbroker:\n  urls: ["+at("amqp", nobody, "/")+"]\n  password: "+secret+"\n")},
		"a file that is no YAML":                {"CONFIG=" + file("n.yaml", "database:\n  url: \""+at("postgres", nobody, "/db")+"\n  password: *"+secret+"\n"), "DATABASE_PASSWORD=" + secret},
		"a password where none belongs":         {"CONFIG=" + file("p.yaml", "database:\n  password: {"+secret+": 1}\n  tls: "+secret+"\nbroker:\n  password: ["+secret+"]\n  rules: "+secret+"\n")},
		"servers that aren't there":             {"DATABASE_URL=" + at("postgresql", nobody, "/db"), "BROKER_URLS=" + at("amqps", nobody, "")},
		"hosts that nobody knows":               {"DATABASE_URL=" + at("postgres", "nowhere.invalid", "/db"), "BROKER_URLS=" + at("amqp", "nowhere.invalid", "")},
		"the wrong ports":                       {"DATABASE_URL=" + at("postgres", http.address, "/db?sslmode=disable"), "BROKER_URLS=" + at("amqp", http.address, "")},
		"the wrong ports, MySQL":                {"DATABASE_URL=" + at("mysql", http.address, "/db"), "BROKER_URLS=" + at("amqps", http.address, "")},
		"a server that can't be trusted":        {"DATABASE_URL=" + at("postgres", secured.address, "/db?sslmode=verify-full"), "BROKER_URLS=" + at("amqps", securedBroker.address, "")},
		"a MySQL that can't be trusted":         {"DATABASE_URL=" + at("mysql", securedMySQL.address, "/db?tls=true"), "BROKER_URLS=" + at("amqps", securedBroker.address, "")},
		"a server without TLS":                  {"DATABASE_URL=" + at("postgres", postgres.address, "/db?sslmode=require"), "BROKER_URLS=" + at("amqps", brokerURL.Host, "")},
		"a MySQL without TLS":                   {"DATABASE_URL=" + at("mysql", mysql.address, "/db?tls=true")},
		"parameters that the driver refuses":    {"DATABASE_URL=" + at("postgres", nobody, "/db?sslmode=nonsense&sslpassword="+secret)},
		"parameters that MySQL's refuses":       {"DATABASE_URL=" + at("mysql", nobody, "/db?nonsense=x&timeout=y&password="+secret)},
		"a slash that isn't encoded":            {"DATABASE_URL=postgres://u:12/" + secret + "@h/db", "BROKER_URLS=amqp://u:12/" + secret + "@h"},
		"a question mark that isn't encoded":    {"DATABASE_URL=postgres://u:12?" + secret + "@h/db", "BROKER_URLS=amqp://u:12?" + secret + "@h"},
		"a number sign that isn't encoded":      {"DATABASE_URL=postgres://u:12#" + secret + "@h/db", "BROKER_URLS=amqp://u:12#" + secret + "@h"},
		"an at sign and a slash":                {"DATABASE_URL=postgres://u:p@12/" + secret + "@h/db", "BROKER_URLS=amqp://u:p@12/" + secret + "@h"},
		"a percent sign that isn't encoded":     {"DATABASE_URL=postgres://u:%zz" + secret + "@h/db", "BROKER_URLS=amqp://u:%zz" + secret + "@h"},
		"a comma that isn't encoded":            {"BROKER_URLS=amqp://u:12," + secret + "@h"},
		"a list of parameters":                  {"DATABASE_URL=host=h user=u password=" + secret, "BROKER_URLS=host=h password=" + secret},
		"a list of parameters, in quotes":       {"DATABASE_URL=host=h user=u password='x: " + secret + "'"},
		"a MySQL data source name":              {"DATABASE_URL=u:" + secret + "@tcp(" + nobody + ")/db", "BROKER_URLS=u:" + secret},
		"no scheme":                             {"DATABASE_URL=u:" + secret + "@h/db", "BROKER_URLS=u:" + secret + "@h"},
		"a password in two places":              {"DATABASE_URL=" + at("postgres", nobody, "/db"), "DATABASE_PASSWORD=" + secret, "BROKER_URLS=" + at("amqp", nobody, ""), "BROKER_PASSWORD=" + secret},
		"an SQLite file with a key":             {"DATABASE_URL=sqlite:///nowhere/x.db?_auth_pass=" + secret, "BROKER_URLS=" + at("amqp", nobody, "")},
		"a TLS key that isn't one":              {"DATABASE_URL=" + at("postgres", nobody, "/db"), "DATABASE_TLS_CERT_FILE=" + passwordFile, "DATABASE_TLS_KEY_FILE=" + passwordFile, "DATABASE_TLS_CA_FILE=" + passwordFile},
		"the name of a variable wrong by a bit": {"DATABASE_PASSWORDD=" + secret, "BROKER_PASWORD=" + secret},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := user{t: t, env: []string{"SUREPOST_LOG_LEVEL=debug", "SUREPOST_HTTP_LISTEN=127.0.0.1:0", "SUREPOST_DATABASE_CONNECT_TIMEOUT=2s", "SUREPOST_BROKER_CONNECT_TIMEOUT=2s"}}
			for _, v := range env {
				u.env = append(u.env, "SUREPOST_"+v)
			}
			for _, args := range [][]string{{"config", "print"}, {"config", "check"}, {"status"}, {"doctor", "--json"}, {"deadletters", "list", "q"}, {"migrate", "status", "--json"}} {
				r := u.run(args...)
				tellsNothing(t, strings.Join(args, " "), r.out+r.err)
			}
			p := u.start("relay", "--log-format=json")
			if p.saysOrEnds(`"level":"WARN"`) { // that a server can't be reached
				p.signal(syscall.SIGTERM)
			}
			p.ends()
			tellsNothing(t, "relay", p.output())
		})
	}

	// Flags, and what was meant to be one.
	u := user{t: t}
	for _, args := range [][]string{
		{"config", "print", "--database-url=" + at("postgres", nobody, "/db")}, {"config", "check", "--broker-urls=" + at("amqp", nobody, "")},
		{"status", "--databse-url=" + at("postgres", nobody, "/db")}, {"status", "--database-password=" + secret}, {"status", at("postgres", nobody, "/db")},
		{"--database-url", at("postgres", nobody, "/db")}, {"--help", "--database-url=" + at("postgres", nobody, "/db")}, {at("postgres", nobody, "/db")},
		{"status", "--database-url"}, {"status", "--log-level=" + at("postgres", nobody, "/db")},
	} {
		r := u.run(args...)
		tellsNothing(t, strings.ReplaceAll(strings.Join(args, " "), secret, "…"), r.out+r.err)
	}
}

// The password goes over an encrypted connection to a server that has the right certificate for its name, or over none: what
// database.tls and broker.tls name is verified in full.
func TestTheSidecarVerifiesWhomItTellsThePassword(t *testing.T) {
	t.Parallel()
	const name = "db.example.com"
	ours, others := newCertifier(t), newCertifier(t)
	config := ours.server(name)
	broker, brokerAs := brokerWithSecret(t)
	brokerURL, err := url.Parse(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []struct {
		name    string
		secured *server
		clear   *server
		trusted string // said by a server that was told a wrong password, or has nothing to complain of
		run     func(u user, address string, tls ...string) result
	}{
		{"PostgreSQL", postgresLike(t, config), postgresLike(t, nil), "password authentication failed", func(u user, address string, tls ...string) result {
			u.env = append(u.env, "SUREPOST_DATABASE_URL=postgres://u:"+secret+"@"+address+"/db")
			return u.with("SUREPOST_DATABASE_TLS_", tls).run("status")
		}},
		{"MySQL", mysqlLike(t, config), mysqlLike(t, nil), "Access denied", func(u user, address string, tls ...string) result {
			u.env = append(u.env, "SUREPOST_DATABASE_URL=mysql://u:"+secret+"@"+address+"/db")
			return u.with("SUREPOST_DATABASE_TLS_", tls).run("migrate", "status")
		}},
		{"RabbitMQ", front(t, brokerURL.Host, config), &server{address: brokerURL.Host}, "isn't there", func(u user, address string, tls ...string) result {
			made, err := url.Parse(brokerAs("u", secret))
			if err != nil {
				t.Fatal(err)
			}
			made.Scheme, made.Host = "amqps", address
			u.env = append(u.env, "SUREPOST_BROKER_URLS="+made.String())
			return u.with("SUREPOST_BROKER_TLS_", tls).run("deadletters", "list", "q")
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			for _, c := range []struct {
				what, says string
				address    string
				tls        []string
			}{
				{"an authority that isn't known", "unknown authority", kind.secured.address, []string{"CA_FILE=" + others.file, "SERVER_NAME=" + name}},
				{"the system's authorities", "unknown authority", kind.secured.address, []string{"SERVER_NAME=" + name}},
				{"a name that isn't the certificate's", "certificate", kind.secured.address, []string{"CA_FILE=" + ours.file, "SERVER_NAME=another.example.com"}},
				{"the URL's host, which isn't the certificate's", "certificate", kind.secured.address, []string{"CA_FILE=" + ours.file}},
				{"a server without TLS", "TLS", kind.clear.address, []string{"CA_FILE=" + ours.file, "SERVER_NAME=" + name}},
			} {
				r := kind.run(user{t: t}, c.address, c.tls...)
				if r.code == 0 || !strings.Contains(r.err, c.says) || strings.Contains(r.err, kind.trusted) {
					t.Errorf("%s: %s, want %q", c.what, r, c.says)
				}
				tellsNothing(t, c.what, r.out+r.err)
			}
			for _, s := range []*server{kind.secured, kind.clear} {
				if heard, _ := s.told(secret); heard {
					t.Errorf("a server that can't be trusted was told the password")
				}
			}
			r := kind.run(user{t: t}, kind.secured.address, "CA_FILE="+ours.file, "SERVER_NAME="+name)
			if r.code == 0 && kind.name != "RabbitMQ" || !strings.Contains(r.out+r.err, kind.trusted) {
				t.Errorf("the right server: %s, want %q", r, kind.trusted)
			}
			heard, plain := kind.secured.told(secret)
			if plain {
				t.Error("the password went unencrypted")
			}
			if kind.name == "PostgreSQL" && !heard { // the others hash it, or are behind a front
				t.Error("the right server wasn't told the password: the test tries nothing")
			}
		})
	}
}

// saysOrEnds waits until the process has printed the text, or has ended. It reports whether it was the first.
func (p *process) saysOrEnds(text string) bool {
	p.t.Helper()
	for deadline := time.After(limit); ; {
		p.mu.Lock()
		said, changed := strings.Contains(p.out.String()+p.err.String(), text), p.changed
		p.mu.Unlock()
		if said {
			return true
		}
		select {
		case <-changed:
		case <-p.done:
			return false
		case <-deadline:
			p.t.Fatalf("it doesn't say %q, nor end:\n%s", text, p.output())
		}
	}
}

// with returns the user with further variables, whose names begin alike.
func (u user) with(prefix string, variables []string) user {
	for _, v := range variables {
		u.env = append(u.env, prefix+v)
	}
	return u
}
