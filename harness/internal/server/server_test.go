package server

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// fakeRunner fails its first starts.
type fakeRunner struct {
	runner
	failure error
	closed  *int
}

func (f fakeRunner) start(context.Context) error      { return f.failure }
func (f fakeRunner) close(context.Context) error      { *f.closed++; return nil }
func (f fakeRunner) died() error                      { return nil }
func (f fakeRunner) log(context.Context, Mark) string { return "" }

func TestStartIsRepeatedWhereThePortIsTaken(t *testing.T) {
	kind := &Kind{Name: "fake", ready: func(context.Context, *Server) error { return nil }}
	for _, c := range []struct {
		failure        string
		starts, closed int
		ok             bool
	}{
		{"could not bind: Address already in use", 3, 2, true},
		{"driver failed: port is already allocated", 3, 2, true},
		{"failed to start: eaddrinuse", 3, 2, true},
		{"disk full", 1, 1, false},
	} {
		starts, closed := 0, 0
		_, err := launch(t.Context(), kind, "here", func() (*Server, error) {
			run := fakeRunner{closed: &closed}
			if starts++; starts < 3 {
				run.failure = errors.New(c.failure)
			}
			return &Server{run: run}, nil
		})
		if starts != c.starts || closed != c.closed || (err == nil) != c.ok {
			t.Errorf("%s: %d starts, %d closed, error %v", c.failure, starts, closed, err)
		}
	}
}

func TestAnotherServerOnThePortIsNotMistakenForOurs(t *testing.T) {
	s, err := Start(t.Context(), RabbitMQ, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	local, ok := s.run.(*localRabbit)
	if !ok {
		t.Logf("from %s: containers have their ports to themselves", s.Origin)
		return
	}
	impostor := *s
	impostor.run = &localRabbit{node: "surepost-other@localhost", proc: local.proc}
	if err := rabbitReady(t.Context(), &impostor); err == nil || !portTaken(err) {
		t.Errorf("got %v, want a taken port", err)
	}
}

func TestReusedPidIsLeftAlone(t *testing.T) {
	bystander := exec.Command("sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	folder := filepath.Join(t.TempDir(), "surepost-test")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	pid := bystander.Process.Pid
	kept := Kept{Folder: folder, Processes: []KeptProcess{{PID: pid, Start: "another start", StopBy: syscall.SIGTERM}}}
	if kept.Running(t.Context()) {
		t.Error("a process with the same pid is taken for ours")
	}
	if err := kept.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !running(pid) {
		t.Error("somebody else's process was ended")
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Error("the folder is still there")
	}
}

func TestOnlyOurFoldersAreRemoved(t *testing.T) {
	precious := t.TempDir()
	if err := (&Kept{Folder: precious}).Stop(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// RabbitMQ's node has programs of its own beside it, which a kill of the node alone would leave halted
// for ever.
func TestNothingIsLeftOfAServerThatWasKilledWhilePaused(t *testing.T) {
	t.Setenv(RabbitMQ.ImageVar, NoImage)
	s, err := Start(t.Context(), RabbitMQ, Config{Private: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	halted := s.run.(*localRabbit).folder.paused
	if len(halted) < 2 {
		t.Fatalf("processes %v are halted, want the node and its programs", halted)
	}
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, pid := range halted {
		for running(pid) {
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				_ = syscall.Kill(pid, syscall.SIGCONT)
				t.Fatalf("process %d is left", pid)
			}
		}
	}
}
