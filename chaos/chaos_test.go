package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/harness"
)

// program builds the program that these tests run: the real one, whose processes have no race detector in them and so come to
// do something in their time.
var program = sync.OnceValues(func() (path string, err error) {
	folder, err := os.MkdirTemp("", "surepost-chaos-test-")
	if err != nil {
		return "", err
	}
	path = filepath.Join(folder, "chaos")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		err = errors.New(string(out))
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// start starts a run. Its progress goes to the test's log when it fails.
func start(t *testing.T, env []string, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd = exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), stdout, stderr
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("chaos %s:\n%s", strings.Join(args, " "), stderr)
		}
	})
	return cmd, stdout, stderr
}

func runChaos(t *testing.T, env []string, args ...string) (r report, code int) {
	t.Helper()
	cmd, stdout, _ := start(t, env, append(args, "-json")...)
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("exit code %d, and no report: %v in %q", cmd.ProcessState.ExitCode(), err, stdout)
	}
	return r, cmd.ProcessState.ExitCode()
}

// Two minutes of everything that may go wrong, side by side. A failure says how to run its seed again.
func TestPromisesHoldUnderChaos(t *testing.T) {
	reports := make(chan report, 2)
	t.Run("seeds", func(t *testing.T) {
		for _, seed := range []string{"11", "12"} {
			t.Run(seed, func(t *testing.T) {
				t.Parallel()
				r, code := runChaos(t, nil, "-seed", seed, "-duration", "60s", "-rate", "40")
				text, _ := json.MarshalIndent(r, "", "  ")
				t.Logf("%s", text)
				if code != exitPassed || len(r.Violations) > 0 || r.RecoverSeconds == nil {
					t.Errorf("exit code %d, violations %q", code, r.Violations)
				}
				if r.Committed < 500 || r.Effects < r.Committed || r.Copies == 0 {
					t.Errorf("%d committed, %d effects, %d copies: that is no test", r.Committed, r.Effects, r.Copies)
				}
				reports <- r
			})
		}
	})
	close(reports)
	faults, emptied := 0, 0
	for r := range reports {
		faults += r.Faults
		emptied += r.Emptied
	}
	if faults < 40 {
		t.Errorf("%d faults, want at least 40", faults)
	}
	if emptied == 0 {
		t.Error("the log was never truncated")
	}
}

// shared returns the environment of runs that use one pair of servers: those that crash none.
func shared(t *testing.T) []string {
	t.Helper()
	env := harness.Start(t, harness.Postgres(), harness.RabbitMQ())
	management, err := url.Parse(env.RabbitMQ.ManagementURL())
	if err != nil {
		t.Fatal(err)
	}
	broker, err := url.Parse(env.RabbitMQ.URL())
	if err != nil {
		t.Fatal(err)
	}
	broker.User, broker.Path = management.User, "/" // the administrator
	return []string{
		"SUREPOST_POSTGRES_URL=" + env.Postgres.AdminURL(),
		"SUREPOST_AMQP_URL=" + broker.String(),
		"SUREPOST_RABBITMQ_MANAGEMENT_URL=" + management.String(),
	}
}

// The ledger is worth something only if it finds what is wrong: what is planted in a process is found in some seconds, and told
// by its name.
func TestTheLedgerFindsWhatIsPlanted(t *testing.T) {
	env := shared(t)
	t.Run("planted", func(t *testing.T) {
		for name, found := range map[string]func(report) int{
			"checkpoint-before-confirm": func(r report) int { return r.Lost + r.Stuck },
			"ack-before-commit":         func(r report) int { return r.Lost },
			"event-outside-transaction": func(r report) int { return r.Ghosts },
			"no-row-lock":               func(r report) int { return r.Inversions },
			"no-follow-up":              func(r report) int { return r.MissingFollowUps },
			"no-inbox":                  func(r report) int { return r.Double },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r, code := runChaos(t, env, "-planted", name, "-seed", "5",
					"-duration", "12s", "-every", "700ms", "-only", "kill,cut", "-rate", "60", "-patience", "8s")
				defer os.RemoveAll(r.Logs)
				if code != exitBroken || found(r) == 0 {
					t.Errorf("exit code %d, violations %q", code, r.Violations)
				}
			})
		}
	})
	if len(planted) != 6 {
		t.Errorf("%d faults can be planted: try them all here", len(planted))
	}
}

// A run that is killed itself leaves no process behind, be it frozen.
func TestNothingOutlivesARun(t *testing.T) {
	env := append(shared(t), "TMPDIR="+t.TempDir())
	cmd, stdout, _ := start(t, env, "-seed", "1", "-duration", "60s", "-every", "200ms", "-only", "freeze,lease-long-pause")
	cmd.Stdout = nil
	progress, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	frozen := 0
	for lines := bufio.NewScanner(progress); frozen < 3 && lines.Scan(); {
		if strings.Contains(lines.Text(), "freeze ") || strings.Contains(lines.Text(), "lease-long-pause ") {
			frozen++
		}
	}
	if frozen == 0 {
		t.Fatalf("nothing was frozen: %s", stdout)
	}
	if len(running(t)) < 8 {
		t.Errorf("%d processes run, want the run and its 8", len(running(t)))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for until := time.Now().Add(10 * time.Second); len(running(t)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("still there: %v", running(t))
		}
	}
}

// running returns the processes of the program that was built for these tests.
func running(t *testing.T) (pids []string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, _ := os.Readlink(link); target == path { // it may have ended
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

func TestBadOptionsAreExplained(t *testing.T) {
	var stdout, stderr bytes.Buffer
	args := []string{"-duration", "1s", "-every", "1ms", "-rate", "0", "-patience", "0s", "-only", "kil", "-planted", "rose", "-plan", "more"}
	if code := run(t.Context(), args, &stdout, &stderr); code != exitUsage || stdout.Len() > 0 {
		t.Errorf("exit code %d, standard output %q", code, &stdout)
	}
	for _, want := range []string{"-duration is 1s", "-every is 1ms", "-rate is 0", "-patience is 0s", `-only has "kil": use kill, freeze`,
		`-planted is "rose": use ack-before-commit`, `unknown argument "more"`} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q doesn't say %q", &stderr, want)
		}
	}
}

func TestAReportSaysHowToRunItAgain(t *testing.T) {
	r := report{Seed: 7}
	r.take(judge(ledger{acknowledged: []string{"x"}}))
	o, err := parse([]string{"-seed", "7", "-duration", "90s", "-every", "1s", "-only", "kill,cut", "-rate", "20"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	r.writeText(&text, o)
	for _, want := range []string{"FAILED", "forgotten commit: event x", "again: go run ./chaos -seed 7 -duration 1m30s -every 1s -rate 20 -only kill,cut"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q doesn't say %q", &text, want)
		}
	}
}
