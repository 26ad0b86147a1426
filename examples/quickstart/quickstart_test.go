package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/examples/internal/child/childtest"
)

// The relay that is killed is a process of this program, which here is the test's.
func TestMain(m *testing.M) {
	if child.Is(os.Args) {
		os.Exit(child.Run(os.Args, processes))
	}
	os.Exit(m.Run())
}

// ran is what a run has left behind.
type ran struct {
	code           int
	stdout, stderr string
}

func runProgram(t *testing.T, p program, args ...string) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := p.run(t.Context(), args, &stdout, &stderr)
	t.Logf("%v:\n%s%s", args, stdout.String(), stderr.String())
	return ran{code, stdout.String(), stderr.String()}
}

// inFolder makes the temporary files of the test's runs go into a folder, and returns a function that demands that none
// is left, nor a process.
func inFolder(t *testing.T) (checkNothingLeft func()) {
	t.Helper()
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	return func() {
		t.Helper()
		left, err := os.ReadDir(folder)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the folder for temporary files: %v (%v)", left, err)
		}
		if left := childtest.Left(t); len(left) > 0 {
			t.Errorf("these processes are left: %v", left)
		}
	}
}

func (r ran) requireStory(t *testing.T) {
	t.Helper()
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d and %q on standard error, want 0 and nothing", r.code, r.stderr)
	}
	rest := r.stdout
	for _, want := range []string{
		"1. An order and its event are committed together, or not at all", "orders are committed",
		"2. When the relay dies", "SIGKILL", "Another relay is started", "Everything has arrived",
		"3. What comes twice has its effect once",
		"4. A poison message", "there is no exchange rate for CHF", "redriven: the order is paid",
		"5. An event that nobody wants yet is kept", "312 NO_ROUTE", "has arrived",
		"orders: 54 committed, 6 refused",
		"written published received dropped effects lost ghosts twice swaps",
		"\ninventory ", "\npayment ", "\nnotification ",
		"✓ Everything is accounted for: lost 0, ghosts 0, twice 0, swaps 0.",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("%q isn't told, or not in its place", want)
			continue
		}
		rest = after
	}
	if strings.Contains(r.stdout, "\x1b") {
		t.Error("there are escape codes in what isn't shown on a terminal")
	}
}

func TestStoryIsToldAndTheBooksBalance(t *testing.T) {
	checkNothingLeft := inFolder(t)
	runProgram(t, program{}, "-n", "60").requireStory(t)
	checkNothingLeft()
}

func TestTwoRunsAtOnceDontMeet(t *testing.T) {
	checkNothingLeft := inFolder(t)
	var group sync.WaitGroup
	var runs [2]ran
	for i := range runs {
		group.Go(func() { runs[i] = runProgram(t, program{}, "-n", "60", "-seed", "7") })
	}
	group.Wait()
	for _, r := range runs {
		r.requireStory(t)
	}
	checkNothingLeft()
}

// A trigger in a service's database does what Surepost must not: the program has to find it.
func TestBooksDontBalanceIfEffectsAreWrong(t *testing.T) {
	for _, c := range []struct {
		name, trigger string
		want          string
	}{
		{"an effect is lost",
			`CREATE TRIGGER spoil AFTER INSERT ON reservations WHEN new.order_id = 'ord-00007'
			BEGIN DELETE FROM reservations WHERE id = new.id; END`,
			"1 OrderCreated → inventory: events lost"},
		{"an effect happens twice",
			`CREATE TRIGGER spoil AFTER INSERT ON reservations WHEN new.order_id = 'ord-00007' AND new.id NOT LIKE 'again%'
			BEGIN INSERT INTO reservations (id, event_id, order_id, customer, number)
			VALUES ('again' || new.id, new.event_id, new.order_id, new.customer, new.number); END`,
			"1 OrderCreated → inventory: effects that had happened before"},
		{"an effect has no event",
			`CREATE TRIGGER spoil AFTER INSERT ON reservations WHEN new.order_id = 'ord-00007' AND new.id NOT LIKE 'ghost%'
			BEGIN INSERT INTO reservations (id, event_id, order_id, customer, number)
			VALUES ('ghost' || new.id, 'ghost', new.order_id, new.customer, new.number); END`,
			"1 OrderCreated → inventory: effects of no event"},
		{"an effect comes out of order",
			`CREATE TRIGGER spoil AFTER INSERT ON reservations WHEN new.customer = 'cus-01' AND new.number = 1
			BEGIN UPDATE reservations SET id = 'z' || id WHERE id = new.id; END`,
			"1 OrderCreated → inventory: effects out of order"},
		{"stock goes astray",
			`CREATE TRIGGER spoil AFTER INSERT ON reservations WHEN new.order_id = 'ord-00007'
			BEGIN UPDATE stock SET pieces = pieces - 1 WHERE item = 'cup'; END`,
			"1 items of which other numbers are in stock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkNothingLeft := inFolder(t)
			spoil := program{stallLimit: 3 * time.Second, opened: func(s *shop) error {
				_, err := s.inventory.db.Exec(c.trigger)
				return err
			}}
			r := runProgram(t, spoil, "-n", "60")
			if r.code != 1 {
				t.Errorf("exit code %d, want 1", r.code)
			}
			if !strings.Contains(r.stdout, "✗ "+c.want) || strings.Contains(r.stdout, "✓") {
				t.Errorf("the books don't say %q, or say that all is well", c.want)
			}
			if !strings.Contains(r.stderr, "the books don't balance") {
				t.Errorf("standard error doesn't say why: %q", r.stderr)
			}
			checkNothingLeft()
		})
	}
}

func TestRunEndsIfAServiceEnds(t *testing.T) {
	checkNothingLeft := inFolder(t)
	broken := errors.New("broken")
	r := runProgram(t, program{opened: func(s *shop) error { s.fail(broken); return nil }}, "-n", "60")
	if r.code != 1 || !strings.Contains(r.stderr, "broken") {
		t.Errorf("exit code %d and %q, want 1 and the reason", r.code, r.stderr)
	}
	checkNothingLeft()
}

func TestInterruptLeavesNothingBehind(t *testing.T) {
	for _, where := range []string{"1. ", "2. ", "Another relay", "4. ", "5. "} {
		t.Run(where, func(t *testing.T) {
			checkNothingLeft := inFolder(t)
			ctx, interrupt := context.WithCancelCause(t.Context())
			stdout := &trap{text: where, spring: func() { interrupt(errors.New("interrupted by the test")) }}
			var stderr bytes.Buffer
			if code := (program{}).run(ctx, []string{"-n", "60"}, stdout, &stderr); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if got := stderr.String(); got != "quickstart: interrupted by the test\n" {
				t.Errorf("standard error has %q", got)
			}
			checkNothingLeft()
		})
	}
}

// trap is a writer that springs when the text is written.
type trap struct {
	text   string
	spring func()
}

func (w *trap) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.spring()
	}
	return len(p), nil
}

func TestCommandLineIsChecked(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-n", "10"}, "-n is 10: use 20 to"},
		{[]string{"-n", "100001"}, "-n is 100001: use 20 to"},
		{[]string{"extra"}, `unknown argument "extra"`},
		{[]string{"-no-such-flag"}, "flag provided but not defined"},
		{[]string{"-seed", "-1"}, "invalid value"},
		{[]string{"-pg", "mysql://u:hush@host/db"}, `-pg has the scheme "mysql": use postgres or postgresql`},
		{[]string{"-pg", "host=localhost password=hush"}, `-pg has the scheme "": use postgres`},
		{[]string{"-pg", "postgres://u:hush%zz@host/db"}, "-pg isn't a URL: write it like postgres://"},
		{[]string{"-pg", "postgres:///db"}, "-pg names no host"},
		{[]string{"-amqp", "http://u:hush@host/"}, `-amqp has the scheme "http": use amqp or amqps`},
	} {
		r := runProgram(t, program{}, c.args...)
		if r.code != 2 || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("%v: exit code %d and %q, want 2 and %q", c.args, r.code, r.stderr, c.want)
		}
		if strings.Contains(r.stderr, "hush") {
			t.Errorf("%v: the password is told", c.args)
		}
	}
	if r := runProgram(t, program{}, "-h"); r.code != 0 {
		t.Errorf("-h: exit code %d, want 0", r.code)
	}
}

func TestOrdersAreTheSameForTheSameSeed(t *testing.T) {
	first, again, other := makeOrders(50, 45, 1), makeOrders(50, 45, 1), makeOrders(50, 45, 2)
	same := 0
	for i := range first {
		if first[i] != again[i] {
			t.Errorf("order %d differs: %+v and %+v", i, first[i], again[i])
		}
		if first[i] == other[i] {
			same++
		}
	}
	if same > 5 {
		t.Errorf("%d of 50 orders are the same for another seed", same)
	}
}
