package harness

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/harness/internal/server"
)

const victimVar = "SUREPOST_HARNESS_VICTIM"

// victim starts servers, puts them to work, prints their addresses and waits to be killed.
func victim() {
	ctx := context.Background()
	for _, service := range []Service{Postgres(Private()), RabbitMQ(Private()), MariaDB(Private())} {
		env, err := StartEnv(ctx, service)
		if err != nil {
			fmt.Println("ready", err)
			return
		}
		switch service.kind {
		case server.PostgreSQL:
			fmt.Println(env.Postgres.URL())
			var conn *pgx.Conn
			if conn, err = pgx.Connect(ctx, env.Postgres.URL()); err == nil {
				go conn.Exec(ctx, "SELECT pg_sleep(600)") // a backend that is busy when its postmaster goes
			}
		case server.RabbitMQ:
			fmt.Println(env.RabbitMQ.URL())
			_, err = amqp.Dial(env.RabbitMQ.URL())
		case server.MariaDB:
			fmt.Println(env.MariaDB.URL())
		}
		if err == nil && os.Getenv(victimVar) == "paused" {
			err = pauseFor(env, service.kind)
		}
		if err != nil {
			fmt.Println("ready", err)
			return
		}
	}
	fmt.Println("ready")
	select {}
}

func TestServersDoNotOutliveAKilledProcess(t *testing.T) {
	t.Parallel()
	wantServersGone(t, "working")
}

// A halted process hears no signal but SIGKILL.
func TestPausedServersDoNotOutliveAKilledProcess(t *testing.T) {
	t.Parallel()
	wantServersGone(t, "paused")
}

func wantServersGone(t *testing.T, how string) {
	t.Helper()
	addresses, temp := killVictim(t, how, func(line string) bool { return strings.HasPrefix(line, "ready") })
	if len(addresses) != 3 {
		t.Fatalf("the victim started %v, want three servers", addresses)
	}
	for _, address := range addresses {
		u, _ := url.Parse(address)
		within(t, 20*time.Second, "nobody listens at "+u.Host, func() bool {
			conn, err := net.Dial("tcp", u.Host)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
	}
	wantNothingLeft(t, temp)
}

// pauseFor pauses the server of a program, which is no test.
func pauseFor(env *Env, kind *server.Kind) error {
	power := map[*server.Kind]*powerSwitch{
		server.PostgreSQL: &env.Postgres.powerSwitch, server.RabbitMQ: &env.RabbitMQ.powerSwitch, server.MariaDB: &env.MariaDB.powerSwitch,
	}[kind]
	return power.server.Pause(context.Background())
}

// The second server is just being started when the process dies.
func TestHalfStartedServersDoNotOutliveAKilledProcess(t *testing.T) {
	t.Parallel()
	_, temp := killVictim(t, "working", func(line string) bool { return strings.HasPrefix(line, "postgres:") })
	wantNothingLeft(t, temp)
}

// killVictim runs the victim until it prints a certain line, kills it, and returns the addresses it
// printed and its temporary folder.
func killVictim(t *testing.T, how string, last func(line string) bool) (addresses []string, temp string) {
	temp = must[string](t, "temporary folder")(os.MkdirTemp("", "harness-orphan-"))
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o777); err != nil { // PostgreSQL may run as another user
		t.Fatal(err)
	}
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVar+"="+how, "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "://") {
			addresses = append(addresses, lines.Text())
		}
		if last(lines.Text()) {
			t.Log(lines.Text())
			break
		}
	}
	if len(must[[]os.DirEntry](t, "list")(os.ReadDir(temp))) == 0 {
		t.Fatal("the victim put nothing into the folder that is to be checked")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return addresses, temp
}

// wantNothingLeft looks for processes by their command line and environment: everything the harness
// starts has its temporary folder in one of them.
func wantNothingLeft(t *testing.T, temp string) {
	t.Helper()
	within(t, 20*time.Second, "the folder is empty", func() bool {
		return len(must[[]os.DirEntry](t, "list")(os.ReadDir(temp))) == 0
	})
	within(t, 20*time.Second, "no process is left", func() bool { return len(processesOf(temp)) == 0 })
}

func processesOf(temp string) (found []string) {
	for _, what := range []string{"cmdline", "environ"} {
		files, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, file := range files {
			// A zombie's files are empty.
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), temp) {
				found = append(found, file)
			}
		}
	}
	return found
}
