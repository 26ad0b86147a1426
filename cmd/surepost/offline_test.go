package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/surepost/surepost/cmd/surepost/internal/cli"
	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

func TestVersionSaysWhatWasBuilt(t *testing.T) {
	u := user{t: t}
	v := one[cli.VersionView](u, "version")
	if v.Version != "v1.2.3-test" || v.Go != runtime.Version() || v.OS != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("got %+v", v)
	}
	if out := u.ok("version"); !strings.Contains(out, "surepost v1.2.3-test") {
		t.Errorf("got %s", out)
	}
}

func TestAWrongCommandLineIsRefusedWithWhatWasMeant(t *testing.T) {
	u := user{t: t}
	u.refused(2, `did you mean "status"`, "statsu")
	u.refused(2, `did you mean "--database-url"`, "status", "--databse-url=x")
	u.refused(2, "expected", "events", "show")
	u.refused(2, `"yesterday" is no time`, "events", "list", "--from=yesterday")
	u.refused(2, "expected a valid", "events", "list", "--limit=many")
	if r := u.run("--help"); r.code != 0 || !strings.Contains(r.out, "migrate up") {
		t.Errorf("--help: %s", r)
	}
	if r := u.run(); r.code != 0 || !strings.Contains(r.out, "Usage:") {
		t.Errorf("without arguments: %s", r)
	}
}

func TestARangeThatIsEmptyOrInvertedIsRefusedBeforeAnythingConnects(t *testing.T) {
	u := user{t: t, env: []string{"SUREPOST_DATABASE_URL=postgres://127.0.0.1:1/none", "SUREPOST_BROKER_URLS=amqp://127.0.0.1:1"}}
	for _, command := range [][]string{{"events", "list"}, {"replay", "start", "again", "--yes"}, {"scheduled", "list"}, {"deadletters", "list", "q"}} {
		inverted := append(command, "--from=2026-02-01", "--until=2026-01-01")
		u.refused(2, "exchange them", inverted...)
	}
	u.refused(2, "are the same time", "replay", "start", "again", "--from=2026-02-01", "--until=2026-02-01")
	u.refused(2, "--all", "replay", "start", "again")
	u.refused(2, "--exchange and --queue are both set", "replay", "start", "again", "--all", "--exchange=a", "--queue=b")
	u.refused(2, "--rate is -1", "replay", "resume", "again", "--rate=-1")
	u.refused(2, "choose by", "parked", "discard", "--yes")
	u.refused(2, "--all goes with no other choice", "parked", "retry", "--all", "--key=k")
	u.refused(2, "--limit is 0", "events", "list", "--limit=0")
	u.refused(2, "0 lanes", "destinations", "lanes", "default", "0")
}

func TestWhatIsWrongWithTheConfigurationIsToldAsAWholeBeforeAnythingConnects(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	write(t, file, "database:\n  url: postgres://u@127.0.0.1:1/none\n  passwordFile: /not/there\nbroker:\n  urls: [http://h]\nrelay:\n  leaseTTL: 10ms\n  lnaes: 3\n")
	u := user{t: t, env: []string{"SUREPOST_CONFIG=" + file, "SUREPOST_BROKER_HEARTBEAT=1500ms"}}
	r := u.run("relay", "--relay-page-events=0")
	if r.code != 2 {
		t.Errorf("exit code %d", r.code)
	}
	for _, want := range []string{
		file + ":3: database.passwordFile /not/there is not there: create it",
		file + ":5: broker.urls[0]: has the scheme \"http\": use amqp:// (port 5672) or amqps://",
		"SUREPOST_BROKER_HEARTBEAT: broker.heartbeat is 1.5s",
		file + ":7: relay.leaseTTL is 10ms: use at least 1s",
		file + ":8: unknown key relay.lnaes: did you mean relay.lanes?",
		"--relay-page-events: relay.pageEvents is 0", // the number itself is refused, not taken for the default
	} {
		if !strings.Contains(r.err, want) {
			t.Errorf("it isn't told that\n%s\nbut\n%s", want, r.err)
		}
	}
	u.refused(2, "is not there", "status", "--config=/not/there.yaml")
	u.env = nil
	u.refused(2, "database.url is not set", "config", "check")
}

func TestTheEffectiveConfigurationIsShownWithoutSecrets(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "c.yaml"), "relay:\n  owner: from-the-file\n")
	u := user{t: t, env: []string{"SUREPOST_DATABASE_URL=postgres://u:s3cret@h/db", "SUREPOST_BROKER_URLS=amqps://u:s3cret@h",
		"SUREPOST_CONFIG=" + filepath.Join(folder, "c.yaml")}}
	settings := map[string]config.Setting{}
	for _, s := range list[config.Setting](u, "config", "print", "--relay-lease-ttl=20s") {
		settings[s.Key] = s
	}
	for key, want := range map[string]config.Setting{
		"database.url":   {Value: "postgres://u:xxxxx@h/db", Origin: config.Origin{Kind: config.FromEnvironment, Place: "SUREPOST_DATABASE_URL"}},
		"broker.urls":    {Value: "amqps://u:xxxxx@h", Origin: config.Origin{Kind: config.FromEnvironment, Place: "SUREPOST_BROKER_URLS"}},
		"relay.owner":    {Value: "from-the-file", Origin: config.Origin{Kind: config.FromFile, Place: filepath.Join(folder, "c.yaml") + ":2"}},
		"relay.leaseTTL": {Value: "20s", Origin: config.Origin{Kind: config.FromFlag, Place: "--relay-lease-ttl"}},
		"log.format":     {Value: "text", Origin: config.Origin{Kind: config.FromDefault}},
	} {
		want.Key = key
		if settings[key] != want {
			t.Errorf("got %+v, want %+v", settings[key], want)
		}
	}
	if out := u.ok("config", "print"); strings.Contains(out, "s3cret") || !strings.Contains(out, "from-the-file") {
		t.Errorf("got %s", out)
	}
	if keys := list[cli.KeyView](u, "config", "keys"); len(keys) != len(settings) {
		t.Errorf("%d keys are listed, %d printed", len(keys), len(settings))
	}
	if check := one[cli.CheckView](u, "config", "check"); !check.OK {
		t.Errorf("got %+v", check)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
