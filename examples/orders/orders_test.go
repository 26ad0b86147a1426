package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/examples/internal/child/childtest"
	"github.com/surepost/surepost/examples/internal/console"
)

// The services are processes of this program, which here is the test's.
func TestMain(m *testing.M) {
	if child.Is(os.Args) {
		os.Exit(child.Run(os.Args, services))
	}
	os.Exit(m.Run())
}

func TestEveryOrderChangesTheStockOnce(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"-n", "400", "-json", "-folder", t.TempDir()}, &stdout, &stderr)
	t.Logf("progress:\n%s", stderr.String())
	if code != 0 {
		t.Fatalf("exit code %d, want 0; standard output: %s", code, stdout.String())
	}
	if lines := strings.Count(stdout.String(), "\n"); lines != 1 {
		t.Errorf("standard output has %d lines, want one JSON object: %s", lines, stdout.String())
	}
	var got map[string]float64
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, stdout.String())
	}
	for key, want := range map[string]float64{"committed": 360, "logged": 360, "effects": 360, "inversions": 0, "lost": 0, "ghosts": 0} {
		if value, there := got[key]; !there || value != want {
			t.Errorf("%s is %v (there: %v), want %v", key, value, there, want)
		}
	}
	if got["duplicates"] == 0 || got["received"] != got["effects"]+got["duplicates"] {
		t.Errorf("received %v, duplicates %v, effects %v: want some duplicates, and received as the sum of both", got["received"], got["duplicates"], got["effects"])
	}
	if got["seconds"] <= 0 {
		t.Errorf("seconds is %v", got["seconds"])
	}
	for _, announced := range []struct {
		what string
		want int
	}{{"killed relay", 3}, {"killed inventory", 2}} {
		if n := strings.Count(stderr.String(), announced.what); n != announced.want {
			t.Errorf("%q was announced %d times, want %d", announced.what, n, announced.want)
		}
	}
}

func TestInterruptEndsEverything(t *testing.T) {
	orders, err := readOrders(t.TempDir(), 1, 5000)
	if err != nil {
		t.Fatal(err)
	}
	servers, err := openServers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := servers.close(); err != nil {
			t.Error(err)
		}
	}()
	interrupted := errors.New("interrupted")
	ctx, interrupt := context.WithCancelCause(t.Context())
	log := &lockedBuffer{}
	progress := console.New(log)
	st := make(chan error, 1)
	go func() {
		_, err := play(ctx, servers.environment, orders, 8, progress)
		st <- err
	}()
	for posted := false; !posted; time.Sleep(10 * time.Millisecond) {
		posted = strings.Contains(log.String(), "killed relay")
		select {
		case err := <-st:
			t.Fatalf("ended too early: %v\n%s", err, log.String())
		default:
		}
	}
	interrupt(interrupted)
	select {
	case err := <-st:
		if !errors.Is(err, interrupted) {
			t.Errorf("got %v, want the cause of the interrupt", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still playing 20 s after the interrupt")
	}
	if left := childtest.Left(t); len(left) > 0 {
		t.Errorf("these processes are left: %v", left)
	}
}

// lockedBuffer is safe for concurrent use.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func TestCommandLineIsChecked(t *testing.T) {
	t.Setenv("SUREPOST_AMQP_URL", "")
	for _, args := range [][]string{{"-n", "10"}, {"-clients", "0"}, {"-keep"}, {"extra"}, {"-no-such-flag"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != 2 || stderr.Len() == 0 || stdout.Len() != 0 {
			t.Errorf("%v: exit code %d, want 2 and a reason on standard error; got %q", args, code, stderr.String())
		}
	}
}

func TestOrdersFileIsMadeOnceAndTheSameForTheSameSeed(t *testing.T) {
	folder := t.TempDir()
	first, err := readOrders(folder, 7, 1000)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := os.ReadDir(folder)
	if len(files) != 1 {
		t.Fatalf("%d files in the folder, want 1", len(files))
	}
	again, err := readOrders(folder, 7, 1000)
	if err != nil || !reflect.DeepEqual(first, again) {
		t.Errorf("the file gave other orders the second time (%v)", err)
	}
	elsewhere, err := readOrders(t.TempDir(), 7, 1000)
	if err != nil || !reflect.DeepEqual(first, elsewhere) {
		t.Errorf("the same seed gave other orders (%v)", err)
	}
	other, err := readOrders(t.TempDir(), 8, 1000)
	if err != nil || reflect.DeepEqual(first, other) {
		t.Errorf("another seed gave the same orders (%v)", err)
	}
	if _, err := readOrders(folder, 7, 20_001); err != nil {
		t.Errorf("more orders than the file has: %v", err)
	}
}

func TestOrdersAreWhatTheFileSays(t *testing.T) {
	next := generateOrders(1)
	refused, customers, ids := 0, map[string]int{}, map[string]bool{}
	for range 20_000 {
		order := next()
		if err := order.check(); err != nil {
			t.Fatalf("%s: %v", order.ID, err)
		}
		if order.totalCents() > orderLimitCents {
			refused++
		}
		if email := order.Customer.Email; strings.Trim(email, "abcdefghijklmnopqrstuvwxyz0123456789.@") != "" {
			t.Errorf("a mail server won't take %q", email)
		}
		if len(order.Lines) > 5 {
			t.Errorf("%s has %d lines, want at most 5", order.ID, len(order.Lines))
		}
		customers[order.Customer.ID]++
		ids[order.ID] = true
	}
	if refused != 2000 {
		t.Errorf("%d orders of 20000 are over the limit, want 2000", refused)
	}
	if len(customers) != customerCount {
		t.Errorf("%d customers, want %d", len(customers), customerCount)
	}
	if busiest := customers["cus_0001"]; busiest < 400 || busiest > 800 {
		t.Errorf("the busiest customer ordered %d times, want about 3 %%", busiest)
	}
	if len(ids) != 20_000 {
		t.Errorf("%d different ids, want 20000", len(ids))
	}
}
