package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

// binary is the program as users have it: static, with a version of the linker's.
var binary string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "surepost-cli-")
	if err == nil {
		binary = filepath.Join(folder, "surepost")
		build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.2.3-test", "-o", binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = build.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

// limit is how long a command may take, and an event may take to be seen, on a busy machine.
const limit = time.Minute

// user is somebody at the command line, with variables that every command gets.
type user struct {
	t   *testing.T
	env []string
}

// result is what a command did.
type result struct {
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nout: %s\nerr: %s", r.code, r.out, r.err)
}

func (u user) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, binary, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SUREPOST_") { // the harness's are of others
			c.Env = append(c.Env, v)
		}
	}
	c.Env = append(c.Env, u.env...)
	return c
}

// run runs a command to its end. Nobody sits at a terminal.
func (u user) run(args ...string) result {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), limit)
	defer cancel()
	c := u.command(ctx, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		u.t.Fatalf("surepost %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ok runs a command that must succeed.
func (u user) ok(args ...string) string {
	u.t.Helper()
	r := u.run(args...)
	if r.code != 0 || r.err != "" {
		u.t.Fatalf("surepost %s: %s", strings.Join(args, " "), r)
	}
	return r.out
}

// refused runs a command that must fail with the code, and say so in words and as JSON.
func (u user) refused(code int, says string, args ...string) {
	u.t.Helper()
	r := u.run(args...)
	if r.code != code || !strings.Contains(r.err, says) {
		u.t.Errorf("surepost %s: %s\nwant exit code %d and %q", strings.Join(args, " "), r, code, says)
	}
	r = u.run(append([]string{"--json"}, args...)...)
	var f cli.Failure
	if err := strictly(lastLine(r.err), &f); err != nil {
		u.t.Errorf("surepost --json %s: the error isn't the documented JSON: %v\n%s", strings.Join(args, " "), err, r)
	}
	said := f.Error + ": " + f.Remedy
	for _, p := range f.Problems {
		said += "\n" + p.String()
	}
	if r.code != code || !strings.Contains(said, says) {
		u.t.Errorf("surepost --json %s: exit code %d, %q\nwant exit code %d and %q", strings.Join(args, " "), r.code, said, code, says)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// strictly decodes JSON that must have the documented fields and no others.
func strictly(text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one value")
	}
	// Every field that isn't marked optional is there: what is decoded and encoded again has the same names.
	again, err := json.Marshal(into)
	if err != nil {
		return err
	}
	var was, is any
	if json.Unmarshal([]byte(text), &was) != nil || json.Unmarshal(again, &is) != nil {
		return errors.New("it can't be compared")
	}
	if a, b := names(was), names(is); a != b {
		return fmt.Errorf("the fields are %s, documented are %s", a, b)
	}
	return nil
}

// names writes the structure of a value.
func names(v any) string {
	switch v := v.(type) {
	case map[string]any:
		fields := make([]string, 0, len(v))
		for name, content := range v {
			fields = append(fields, name+names(content))
		}
		return "{" + strings.Join(sorted(fields), " ") + "}"
	case []any:
		items := make([]string, len(v))
		for i, content := range v {
			items[i] = names(content)
		}
		return "[" + strings.Join(items, " ") + "]"
	}
	return ""
}

// one runs a command with --json and returns the object that it prints.
func one[T any](u user, args ...string) (v T) {
	u.t.Helper()
	out := u.ok(append(args, "--json")...)
	if err := strictly(out, &v); err != nil {
		u.t.Fatalf("surepost %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// list runs a command with --json and returns the objects that it prints, one a line.
func list[T any](u user, args ...string) (all []T) {
	u.t.Helper()
	return lines[T](u.t, u.ok(append(args, "--json")...))
}

func lines[T any](t *testing.T, out string) (all []T) {
	t.Helper()
	for line := range strings.Lines(out) {
		var v T
		if err := strictly(line, &v); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		all = append(all, v)
	}
	return all
}

// process is a command that goes on until it is told to stop.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu       sync.Mutex
	out, err bytes.Buffer
	changed  chan struct{}
}

// start starts a command, which is killed when the test ends.
func (u user) start(args ...string) *process {
	u.t.Helper()
	p := &process{t: u.t, done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd = u.command(context.Background(), args...)
	p.cmd.Stdout, p.cmd.Stderr = into{p, &p.out}, into{p, &p.err}
	if err := p.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its state is looked at
		close(p.done)
	}()
	u.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.done
		if u.t.Failed() {
			u.t.Logf("surepost %s:\n%s", strings.Join(args, " "), p.output())
		}
	})
	return p
}

// into collects what a process prints, and says that there is more.
type into struct {
	p  *process
	to *bytes.Buffer
}

func (w into) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	close(w.p.changed)
	w.p.changed = make(chan struct{})
	return w.to.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String() + p.err.String()
}

// says waits until the process has printed the text.
func (p *process) says(text string) {
	p.t.Helper()
	deadline := time.After(limit)
	for {
		p.mu.Lock()
		said, changed := strings.Contains(p.out.String()+p.err.String(), text), p.changed
		p.mu.Unlock()
		if said {
			return
		}
		select {
		case <-changed:
		case <-p.done:
			if !strings.Contains(p.output(), text) {
				p.t.Fatalf("it has ended without saying %q:\n%s", text, p.output())
			}
			return
		case <-deadline:
			p.t.Fatalf("it doesn't say %q:\n%s", text, p.output())
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the process's end and returns its exit code.
func (p *process) ends() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		p.t.Fatalf("it doesn't end:\n%s", p.output())
		return -1
	}
}
