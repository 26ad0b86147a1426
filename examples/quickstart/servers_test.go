package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/surepost/surepost/harness"
)

func TestSameStoryOnPostgresAndRabbitMQ(t *testing.T) {
	postgres, rabbit := harness.Start(t, harness.Postgres()).Postgres, harness.Start(t, harness.RabbitMQ()).RabbitMQ
	for _, args := range [][]string{
		{"-pg", postgres.URL(), "-amqp", rabbit.URL()},
		{"-pg", postgres.URL()},
		{"-amqp", rabbit.URL()},
	} {
		checkNothingLeft := inFolder(t)
		r := runProgram(t, program{}, append(args, "-n", "60")...)
		r.requireStory(t)
		if strings.Contains(r.stdout, "PostgreSQL") != slices.Contains(args, "-pg") ||
			strings.Contains(r.stdout, "RabbitMQ") != slices.Contains(args, "-amqp") {
			t.Errorf("%v: the servers aren't named, or others are", args)
		}
		checkNothingLeft()
		requireEmpty(t, postgres, rabbit)
	}
}

func TestInterruptLeavesNothingOnServers(t *testing.T) {
	postgres, rabbit := harness.Start(t, harness.Postgres()).Postgres, harness.Start(t, harness.RabbitMQ()).RabbitMQ
	checkNothingLeft := inFolder(t)
	ctx, interrupt := context.WithCancelCause(t.Context())
	stdout := &trap{text: "Another relay", spring: func() { interrupt(errors.New("interrupted by the test")) }}
	var stderr bytes.Buffer
	code := program{}.run(ctx, []string{"-n", "60", "-pg", postgres.URL(), "-amqp", rabbit.URL()}, stdout, &stderr)
	if code != 1 || stderr.String() != "quickstart: interrupted by the test\n" {
		t.Errorf("exit code %d and %q, want 1 and the reason", code, stderr.String())
	}
	checkNothingLeft()
	requireEmpty(t, postgres, rabbit)
}

// requireEmpty demands that nothing of a run is left on the servers.
func requireEmpty(t *testing.T, postgres *harness.PostgresServer, rabbit *harness.RabbitMQServer) {
	t.Helper()
	db := openAdmin(t, postgres.URL())
	var schemas int
	err := db.QueryRow(`SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'surepost%'`).Scan(&schemas)
	if err != nil || schemas > 0 {
		t.Errorf("%d schemas are left (%v)", schemas, err)
	}
	for _, kind := range []string{"queues", "exchanges"} {
		var found []struct{ Name string }
		manage(t, rabbit, http.MethodGet, "/api/"+kind+"/"+rabbit.VHost(), "", &found)
		for _, f := range found {
			if f.Name != "" && !strings.HasPrefix(f.Name, "amq.") {
				t.Errorf("among the %s %s is left", kind, f.Name)
			}
		}
	}
}

func TestServersThatCantBeUsedAreNamedWithARemedy(t *testing.T) {
	postgres, rabbit := harness.Start(t, harness.Postgres()).Postgres, harness.Start(t, harness.RabbitMQ()).RabbitMQ

	admin := openAdmin(t, postgres.URL())
	const role = "surepost_quickstart_reader"
	if _, err := admin.Exec(`CREATE ROLE ` + role + ` LOGIN PASSWORD 'hush'`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = admin.Exec(`DROP ROLE ` + role) })

	const user = "surepost-quickstart-reader"
	manage(t, rabbit, http.MethodPut, "/api/users/"+user, `{"password":"hush","tags":""}`, nil)
	manage(t, rabbit, http.MethodPut, "/api/permissions/"+rabbit.VHost()+"/"+user,
		`{"configure":"^$","write":".*","read":".*"}`, nil)
	t.Cleanup(func() { manage(t, rabbit, http.MethodDelete, "/api/users/"+user, "", nil) })

	as := func(name, password string) func(*url.URL) {
		return func(u *url.URL) { u.User = url.UserPassword(name, password) }
	}
	nowhere := func(u *url.URL) { u.Path = "/nosuch" }
	for _, c := range []struct{ name, flag, url, want string }{
		{"no PostgreSQL there", "-pg", "postgres://u:hush@127.0.0.1:1/db", "check that it runs, and host and port"},
		{"PostgreSQL's password", "-pg", changed(t, postgres.URL(), as(role, "hush-hush")), "check user and password"},
		{"no such database", "-pg", changed(t, postgres.URL(), nowhere), "create it, or name another one"},
		{"no right to make schemas", "-pg", changed(t, postgres.URL(), as(role, "hush")), "GRANT CREATE ON DATABASE"},
		{"no RabbitMQ there", "-amqp", "amqp://u:hush@127.0.0.1:1/", "start RabbitMQ, or correct host and port"},
		{"RabbitMQ's password", "-amqp", changed(t, rabbit.URL(), as(user, "hush-hush")), "correct user and password"},
		{"no such vhost", "-amqp", changed(t, rabbit.URL(), nowhere), "correct the vhost"},
		{"no right to make exchanges", "-amqp", changed(t, rabbit.URL(), as(user, "hush")), "set_permissions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkNothingLeft := inFolder(t)
			r := runProgram(t, program{}, c.flag, c.url)
			if r.code != 1 || !strings.Contains(r.stderr, c.flag+": ") || !strings.Contains(r.stderr, c.want) {
				t.Errorf("exit code %d and %q, want 1 and %q", r.code, r.stderr, c.want)
			}
			if strings.Contains(r.stdout+r.stderr, "hush") {
				t.Error("the password is told")
			}
			checkNothingLeft()
		})
	}
	requireEmpty(t, postgres, rabbit)
}

func changed(t *testing.T, text string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}

func openAdmin(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// manage calls RabbitMQ's HTTP API (RabbitMQ, "Management Plugin", "HTTP API").
func manage(t *testing.T, rabbit *harness.RabbitMQServer, method, path, body string, answer any) {
	t.Helper()
	req, err := http.NewRequest(method, rabbit.ManagementURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			err = fmt.Errorf("it answers %s", resp.Status)
		} else if answer != nil {
			err = json.NewDecoder(resp.Body).Decode(answer)
		}
	}
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}
