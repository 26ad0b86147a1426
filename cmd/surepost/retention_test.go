package main

import (
	"path/filepath"
	"testing"

	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

// What a database can't do is told before anything connects, and what is left at its default is none of that.
func TestARetentionThatTheDatabaseHasNotIsRefused(t *testing.T) {
	u := user{t: t, env: []string{"SUREPOST_DATABASE_URL=mysql://u@127.0.0.1:1/none", "SUREPOST_BROKER_URLS=amqp://127.0.0.1:1"}}
	accepted := func(flags ...string) {
		t.Helper()
		if check := one[cli.CheckView](u, append([]string{"config", "check"}, flags...)...); !check.OK {
			t.Errorf("with %q: %+v", flags, check)
		}
	}
	accepted()
	accepted("--relay-keep-forever=false")
	u.refused(2, "--relay-retention: relay.retention is set, and in MySQL or MariaDB an event leaves the log when it is published: remove it",
		"config", "check", "--relay-retention=3d")
	u.refused(2, "relay.keepForever is set", "config", "check", "--relay-keep-forever")
	for _, url := range []string{"postgres://u@127.0.0.1:1/none", filepath.Join(t.TempDir(), "orders.db")} {
		u.env[0] = "SUREPOST_DATABASE_URL=" + url
		accepted("--relay-retention=3d")
		accepted("--relay-keep-forever")
		for _, none := range []string{"0", "0s", "-1h"} {
			u.refused(2, "relay.retention is ", "config", "check", "--relay-retention="+none)
		}
	}
}
