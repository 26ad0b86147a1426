package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// written writes a file and returns its path.
func written(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func problemsOf(t *testing.T, s Sources) string {
	t.Helper()
	_, problems := Load(s)
	if len(problems) == 0 {
		return ""
	}
	return problems.Error()
}

func TestAFlagWinsOverAVariableAVariableOverTheFileTheFileOverTheDefault(t *testing.T) {
	file := written(t, "c.yaml", "relay:\n  leaseTTL: 20s\n  owner: file\n  pollIdle: 1s\n")
	c, problems := Load(Sources{
		File:        file,
		Environment: []string{"SUREPOST_RELAY_LEASE_TTL=30s", "SUREPOST_RELAY_OWNER=variable"},
		Flags:       map[string][]string{"relay.leaseTTL": {"40s"}},
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if c.Relay.LeaseTTL != 40*time.Second || c.Relay.Owner != "variable" || c.Relay.PollIdle != time.Second || c.Relay.PollBusy != 10*time.Millisecond {
		t.Errorf("leaseTTL %v, owner %q, pollIdle %v, pollBusy %v", c.Relay.LeaseTTL, c.Relay.Owner, c.Relay.PollIdle, c.Relay.PollBusy)
	}
	for key, want := range map[string]Origin{
		"relay.leaseTTL": {FromFlag, "--relay-lease-ttl"},
		"relay.owner":    {FromEnvironment, "SUREPOST_RELAY_OWNER"},
		"relay.pollIdle": {FromFile, file + ":4"},
		"relay.pollBusy": {Kind: FromDefault},
	} {
		if got := c.Origin(key); got != want {
			t.Errorf("%s comes from %+v, want %+v", key, got, want)
		}
	}
}

func TestEveryProblemIsToldAtOnceWithItsPlaceAndItsRemedy(t *testing.T) {
	file := written(t, "c.yaml", `database:
  urll: x
  password: 1234
relay:
  leaseTTL: 15
  pageEvents: "12"
  bufferBytes: 64
  order: pipelinde
  owner:
  owner: b
  leaseTTL: 20s
brokr:
  urls: a
broker:
  tls: on
  heartbeat: [10s]
  omitPartitionKey: 1
  rules:
    - typ: x
      exchange: a
    - exchange: [a]
    - b
log: {level: debug, levl: x}
`)
	got := problemsOf(t, Sources{
		File:        file,
		Environment: []string{"SUREPOST_RELAY_PAGE_EVENT=3", "SUREPOST_RELAY_UNROUTABLE_TRIES=many", "SUREPOST_POSTGRES_URL=of somebody else"},
		Flags:       map[string][]string{"relay.pollBusy": {"-1s"}},
	})
	for _, want := range []string{
		file + ":2: unknown key database.urll: did you mean database.url?",
		file + ":3: database.password is a number: write a text",
		file + `:5: relay.leaseTTL is "15", without a unit: write a number with a unit`,
		file + ":6: relay.pageEvents is a text: write a whole number",
		file + `:7: relay.bufferBytes is "64", without a unit: write a whole number with a unit of B, KiB`,
		file + `:8: relay.order is "pipelinde": did you mean pipelined?`,
		file + ":9: relay.owner has no value: give it one, or remove the line",
		file + ":10: relay.owner is there twice, in line 9 too: remove one",
		file + ":11: relay.leaseTTL is there twice, in line 5 too: remove one",
		file + ":12: unknown key brokr: did you mean broker?",
		file + ":15: broker.tls is a text: write its keys below it",
		file + ":16: broker.heartbeat is a list: write a duration",
		file + ":17: broker.omitPartitionKey is a number: write true or false",
		file + ":19: broker.rules[0] has the unknown key typ: did you mean type?",
		file + ":21: broker.rules[1].exchange is a list: write a text",
		file + ":22: broker.rules[2] is a text: write a group of keys",
		file + ":23: unknown key log.levl: did you mean log.level?",
		"SUREPOST_RELAY_PAGE_EVENT: unknown variable: did you mean SUREPOST_RELAY_PAGE_EVENTS?",
		`SUREPOST_RELAY_UNROUTABLE_TRIES: relay.unroutableTries is "many": write a whole number`,
		"--relay-poll-busy: relay.pollBusy is -1s: use a positive duration",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it isn't told that\n  %s\nbut\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 20 {
		t.Errorf("%d problems are told, want 20:\n%s", n, got)
	}
}

func TestKeysThatContradictEachOtherAreRefusedWithBothPlaces(t *testing.T) {
	file := written(t, "c.yaml", "database: {passwordFile: /f}\nbroker:\n  username: u\n  urls: a\n  tls:\n    certFile: c\n")
	got := problemsOf(t, Sources{File: file, Environment: []string{"SUREPOST_DATABASE_PASSWORD=p", "SUREPOST_BROKER_URLS_FILE=/u",
		"SUREPOST_DATABASE_URL=a", "SUREPOST_DATABASE_URL_FILE=b"}})
	for _, want := range []string{
		"SUREPOST_DATABASE_URL: database.url and database.urlFile (SUREPOST_DATABASE_URL_FILE) are both set: remove one",
		"SUREPOST_DATABASE_PASSWORD: database.password and database.passwordFile (" + file + ":1) are both set: remove one",
		file + ":4: broker.urls and broker.urlsFile (SUREPOST_BROKER_URLS_FILE) are both set: remove one",
		file + ":6: broker.tls.certFile is set without broker.tls.keyFile: set both or neither",
		file + ":3: broker.username is set without a password: set broker.passwordFile",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it isn't told that\n  %s\nbut\n%s", want, got)
		}
	}
}

func TestAFileThatCantBeReadIsToldWithItsRemedy(t *testing.T) {
	folder := t.TempDir()
	large := written(t, "large.yaml", strings.Repeat("#", maxFileBytes+1))
	noYAML := written(t, "no.yaml", "a: b\n  c: 'secret\n")
	list := written(t, "list.yaml", "- a\n")
	two := written(t, "two.yaml", "log: {level: info}\n---\nlog: {level: debug}\n")
	for _, test := range []struct{ path, want string }{
		{filepath.Join(folder, "missing.yaml"), "missing.yaml is not there: create it, or name another one"},
		{folder, "is a directory: name a file"},
		{large, "is larger than 1 MiB: name the right file"},
		{noYAML, noYAML + ":2: the file isn't YAML"},
		{list, list + ":1: the file is a list: write keys"},
		{two, two + ":2: a second document begins here: keep one"},
	} {
		got := problemsOf(t, Sources{Environment: []string{"SUREPOST_CONFIG=" + test.path}})
		if !strings.Contains(got, test.want) || strings.Contains(got, "secret") {
			t.Errorf("%s: got %q, want %q", test.path, got, test.want)
		}
	}
	if got := problemsOf(t, Sources{File: written(t, "empty.yaml", "# nothing\n")}); got != "" {
		t.Errorf("a file without keys: %s", got)
	}
}

func TestAVariableOfSomebodyElseIsIgnored(t *testing.T) {
	for _, v := range []string{"SUREPOST_POSTGRES_IMAGE=none", "SUREPOST_AMQP_URL=x", "SUREPOST_RELAY_PORT=tcp://10.0.0.1:80",
		"SUREPOST_SERVICE_HOST=10.0.0.1", "SUREPOST_PORT_8080_TCP=tcp://10.0.0.1:8080", "SUREPOST_DATABASE_URL="} {
		if got := problemsOf(t, Sources{Environment: []string{v}}); got != "" {
			t.Errorf("%s: %s", v, got)
		}
	}
}

func TestEachKeyHasAVariableAndAFlagOfItsOwn(t *testing.T) {
	seen := map[string]string{}
	for _, k := range Keys() {
		for _, name := range []string{k.Path, k.Env(), "--" + k.Flag()} {
			if other, twice := seen[name]; twice && name != "" && name != "--" {
				t.Errorf("%s is that of %s and of %s", name, k.Path, other)
			}
			seen[name] = k.Path
		}
		if k.Help == "" || k.Kind == "" {
			t.Errorf("%s isn't described", k.Path)
		}
		if secret := k.Secret == SecretWhole; secret && k.Flag() != "" {
			t.Errorf("%s would be seen in the list of processes as --%s", k.Path, k.Flag())
		}
	}
	for key, want := range map[string][2]string{
		"relay.leaseTTL":         {"SUREPOST_RELAY_LEASE_TTL", "relay-lease-ttl"},
		"database.passwordFile":  {"SUREPOST_DATABASE_PASSWORD_FILE", "database-password-file"},
		"broker.tls.caFile":      {"SUREPOST_BROKER_TLS_CA_FILE", "broker-tls-ca-file"},
		"broker.maxMessageBytes": {"SUREPOST_BROKER_MAX_MESSAGE_BYTES", "broker-max-message-bytes"},
	} {
		i := slices.IndexFunc(Keys(), func(k *Key) bool { return k.Path == key })
		if k := Keys()[i]; k.Env() != want[0] || k.Flag() != want[1] {
			t.Errorf("%s: %s, %s; want %s", key, k.Env(), k.Flag(), want)
		}
	}
}

func TestNoSecretIsShown(t *testing.T) {
	for raw, want := range map[string]string{
		"postgres://u:s3cret@h:5432/db?sslmode=verify-full":          "postgres://u:xxxxx@h:5432/db?sslmode=verify-full",
		"postgres://u@h/db?password=s3cret&sslpassword=s3cret":       "postgres://u@h/db?password=xxxxx&sslpassword=xxxxx",
		"postgres://h/db?p%61ssword=s3cret":                          "postgres://h/db?p%61ssword=xxxxx",
		"postgres://u:s3cret/@h/db":                                  "(not shown: it can't be parsed)",
		"u:s3cret@h":                                                 "(not shown: it can't be parsed)",
		"host=h password=s3cret":                                     "(not shown: it isn't a URL)",
		"amqps://u:s3cret@h:5671/v":                                  "amqps://u:xxxxx@h:5671/v",
		"/var/lib/orders.db":                                         "/var/lib/orders.db",
		"postgres://u@h1,h2:5432/db?target_session_attrs=read-write": "postgres://u@h1,h2:5432/db?target_session_attrs=read-write",
		"mysql://u:s3cret%40@h/db":                                   "mysql://u:xxxxx@h/db",
		"postgres://u:p%ZZs3cret@h/db":                               "(not shown: it can't be parsed)",
	} {
		if got := MaskURL(raw); got != want {
			t.Errorf("%s is shown as %s, want %s", raw, got, want)
		}
	}
	c, _ := Load(Sources{Environment: []string{"SUREPOST_DATABASE_PASSWORD=s3cret", "SUREPOST_BROKER_PASSWORD=s3cret",
		"SUREPOST_BROKER_URLS=amqp://u:s3cret@a,amqp://u:s3cret@b", "SUREPOST_DATABASE_URL=postgres://u:s3cret@h/db"}})
	for _, setting := range c.Settings() {
		if strings.Contains(setting.Value, "s3cret") {
			t.Errorf("%s is shown as %s", setting.Key, setting.Value)
		}
	}
}

func TestDurationsAndSizesHaveUnits(t *testing.T) {
	for text, want := range map[string]time.Duration{"250ms": 250 * time.Millisecond, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "1m30s": 90 * time.Second, "0": 0} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "5x", "d", "-1d", "1e3", "NaN", "99999999999d", "1.5d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
	for d, want := range map[time.Duration]string{time.Minute: "1m", 2 * time.Hour: "2h", 90 * time.Minute: "1h30m", 168 * time.Hour: "7d", 15 * time.Second: "15s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%v is written %s, want %s", time.Duration(d), got, want)
		}
	}
	var n int
	for text, want := range map[string]int{"64MiB": 64 << 20, "1GB": 1e9, "0B": 0, "10 kB": 10_000} {
		if err := size(&n).set([]string{text}); err != nil || n != want {
			t.Errorf("%s: %d, %v; want %d", text, n, err, want)
		}
	}
	for _, text := range []string{"64", "MiB", "-1B", "1.5MiB", "99999999999999GiB", "5 m"} {
		if err := size(&n).set([]string{text}); err == nil {
			t.Errorf("%q is taken for %d", text, n)
		}
	}
}
