package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/harness/internal/server"
)

// The test binary is also the command: what `up` starts must survive the end of a real process.
func TestMain(m *testing.M) {
	if how := os.Getenv(commandVar); how != "" {
		if how == bare {
			server.PretendBare()
		}
		main()
		return
	}
	os.Exit(m.Run())
}

const (
	commandVar = "SUREPOST_HARNESS_COMMAND"
	bare       = "on a bare machine"
)

// command runs the command in a folder and returns what it wrote.
func command(t *testing.T, dir string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return slices.ContainsFunc(kinds, func(k *server.Kind) bool { return strings.HasPrefix(v, k.URLVar+"=") })
	})
	cmd.Env = append(cmd.Env, commandVar+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func TestUpStaysUpUntilDown(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { _, _, _ = command(t, dir, "down") })

	first, said, err := command(t, dir, "up")
	if err != nil {
		t.Fatalf("up: %v\n%s", err, said)
	}
	lines := regexp.MustCompile(`\Aexport SUREPOST_POSTGRES_URL='(.+)'\nexport SUREPOST_AMQP_URL='(.+)'\nexport SUREPOST_MARIADB_URL='(.+)'\n\z`).FindStringSubmatch(first)
	if lines == nil {
		t.Fatalf("up printed\n%s", first)
	}
	conn, err := pgx.Connect(t.Context(), lines[1])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	broker, err := amqp.Dial(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	db, err := server.OpenMariaDB(lines[3])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}

	if second, said, err := command(t, dir, "up"); err != nil || second != first {
		t.Errorf("the second up: %v\n%s\n%s", err, second, said)
	}
	if out, _, err := command(t, dir, "status"); err != nil || strings.Count(out, ": up, ") != 3 {
		t.Errorf("status: %v\n%s", err, out)
	}
	if _, said, err := command(t, dir, "down"); err != nil {
		t.Errorf("down: %v\n%s", err, said)
	}
	if conn.Ping(t.Context()) == nil {
		t.Error("PostgreSQL still answers")
	}
	if again, err := amqp.Dial(lines[2]); err == nil {
		_ = again.Close()
		t.Error("RabbitMQ still answers")
	}
	if db.PingContext(t.Context()) == nil {
		t.Error("MariaDB still answers")
	}
	if _, err := os.Stat(filepath.Join(dir, stateDir)); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone", stateDir, err)
	}
	if out, _, err := command(t, dir, "status"); err == nil || strings.Count(out, ": down") != 3 {
		t.Errorf("status after down: %v\n%s", err, out)
	}
	if _, said, err := command(t, dir, "down"); err != nil {
		t.Errorf("down when nothing is up: %v\n%s", err, said)
	}
}

// Standard output is evaluated by a shell: it stays empty when something is wrong.
func TestFailuresPrintNothingToBeEvaluated(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, stateDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile(server.RabbitMQ)), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer command(t, dir, "down")
	for _, args := range [][]string{{}, {"sideways"}, {"up", "twice"}, {"down", "pgbouncer"}, {"up"}} {
		out, said, err := command(t, dir, args...)
		if err == nil || out != "" || said == "" {
			t.Errorf("harness %v: error %v, printed %q, said %q", args, err, out, said)
		}
	}
}

func TestInstallDoesNothingWhereAllIsThere(t *testing.T) {
	out, said, err := command(t, t.TempDir(), "install")
	if err != nil || out+said != "" {
		t.Errorf("%v, said %q", err, out+said)
	}
}

func TestOnlyTheNamedServersAreStarted(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { _, _, _ = command(t, dir, "down") })
	out, said, err := command(t, dir, "up", "mariadb")
	if err != nil || !strings.HasPrefix(out, "export SUREPOST_MARIADB_URL='mysql://") || strings.Count(out, "\n") != 1 {
		t.Errorf("up mariadb: %v, printed %q\n%s", err, out, said)
	}
	if out, _, err := command(t, dir, "status", "mariadb"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("status mariadb: %v\n%s", err, out)
	}
	if _, _, err := command(t, dir, "status"); err == nil {
		t.Error("status finds all three up")
	}
}

// With neither Docker nor programs nor apt there is one message for all that is missing.
func TestInstallOnABareMachineSaysOnceWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, kind := range kinds {
		t.Setenv(kind.ImageVar, "")
	}
	for _, args := range [][]string{{"install"}, {"up"}} {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Dir = t.TempDir()
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
			return slices.ContainsFunc(kinds, func(k *server.Kind) bool { return strings.HasPrefix(v, k.URLVar+"=") })
		}), commandVar+"="+bare)
		said, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%v: %v, want exit code 1", args, err)
		}
		for _, part := range []string{
			"harness: no PostgreSQL, no RabbitMQ, no MariaDB can be had", "no engine answers", "apt-get install postgresql rabbitmq-server mariadb-server",
			"docker pull postgres:18; docker pull rabbitmq:4-management; docker pull mariadb:11", "only where there is apt-get",
		} {
			if n := strings.Count(string(said), part); n != 1 {
				t.Errorf("%v says %q %d times, want once:\n%s", args, part, n, said)
			}
		}
	}
}
