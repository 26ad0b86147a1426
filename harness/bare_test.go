package harness

import (
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

const bare = "bare"

// onABareMachine is a run of a user's tests where nothing is installed.
func onABareMachine() {
	server.PretendBare()
	for _, test := range []struct {
		name     string
		services []Service
	}{
		{"TestFirst", []Service{Postgres(), RabbitMQ()}},
		{"TestSecond", []Service{Postgres(), RabbitMQ()}},
		{"TestPrivate", []Service{Postgres(Private())}},
		{"TestAnother", []Service{Postgres(), MariaDB()}},
	} {
		f := &fakeTB{name: test.name}
		said := f.run(func(tb testing.TB) { Start(tb, test.services...) })
		fmt.Printf("%s: failed=%v\n%s", test.name, f.failed, said)
	}
}

// Every test fails, at once, and what to do is said once, not on a page for each.
func TestABareMachineIsToldOnceWhatToDo(t *testing.T) {
	t.Parallel()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SUREPOST_") }),
		victimVar+"="+bare, "PATH="+t.TempDir())
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	said := string(out)
	if err != nil {
		t.Fatalf("%v:\n%s", err, said)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	wantContains(t, said,
		"no PostgreSQL, no RabbitMQ can be had. Tried, in this order:", "apt-get install postgresql rabbitmq-server (on",
		"no PostgreSQL can be had: fakeTestFirst says why and what to do", "no RabbitMQ can be had: fakeTestFirst says why and what to do",
		"no MariaDB can be had. Tried", "apt-get install mariadb-server (on")
	for _, part := range []string{"PostgreSQL's server programs (initdb, postgres)", "docker pull postgres:18", "RabbitMQ's server programs"} {
		if n := strings.Count(said, part); n != 1 {
			t.Errorf("%q is said %d times, want once", part, n)
		}
	}
	if n := strings.Count(said, "failed=true"); n != 4 {
		t.Errorf("%d tests failed, want 4", n)
	}
	if t.Failed() {
		t.Log(said)
	}
}
