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
)

const victimVar = "SUREPOST_HARNESS_VICTIM"

// victim starts servers, puts them to work, prints their addresses and waits to be killed.
func victim() {
	ctx := context.Background()
	pg, err := StartPostgres(ctx, Private())
	if err == nil {
		fmt.Println(pg.URL())
		var conn *pgx.Conn
		if conn, err = pgx.Connect(ctx, pg.URL()); err == nil {
			go conn.Exec(ctx, "SELECT pg_sleep(600)") // a backend that is busy when its postmaster goes
		}
	}
	mq, err2 := StartRabbitMQ(ctx, Private())
	if err2 == nil {
		fmt.Println(mq.URL())
		_, err2 = amqp.Dial(mq.URL())
	}
	fmt.Println("ready", err, err2)
	select {}
}

func TestServersDoNotOutliveAKilledProcess(t *testing.T) {
	t.Parallel()
	addresses, temp := killVictim(t, func(line string) bool { return strings.HasPrefix(line, "ready") })
	if len(addresses) != 2 {
		t.Fatalf("the victim started %v, want two servers", addresses)
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

// The second server is just being started when the process dies.
func TestHalfStartedServersDoNotOutliveAKilledProcess(t *testing.T) {
	t.Parallel()
	_, temp := killVictim(t, func(line string) bool { return strings.HasPrefix(line, "postgres:") })
	wantNothingLeft(t, temp)
}

// killVictim runs the victim until it prints a certain line, kills it, and returns the addresses it
// printed and its temporary folder.
func killVictim(t *testing.T, last func(line string) bool) (addresses []string, temp string) {
	temp = must[string](t, "temporary folder")(os.MkdirTemp("", "harness-orphan-"))
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o777); err != nil { // PostgreSQL may run as another user
		t.Fatal(err)
	}
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVar+"=1", "TMPDIR="+temp)
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
