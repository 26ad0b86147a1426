package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Kept is what must be remembered of a server in order to end it from another process.
type Kept struct {
	Kind          string        `json:"kind"`
	URL           string        `json:"url"`
	ManagementURL string        `json:"managementURL,omitempty"`
	Origin        string        `json:"origin"`
	Folder        string        `json:"folder,omitempty"`
	Processes     []KeptProcess `json:"processes,omitempty"`
	Container     string        `json:"container,omitempty"`
}

// KeptProcess is a process and what tells it apart from a later one that was given the same pid.
type KeptProcess struct {
	PID    int            `json:"pid"`
	Start  string         `json:"start"`
	StopBy syscall.Signal `json:"stopBy"`
}

func (p KeptProcess) running() bool { return startOf(p.PID) == p.Start && running(p.PID) }

// Record returns what is needed to end the server from another process.
func (s *Server) Record() (*Kept, error) {
	if s.run == nil {
		return nil, fmt.Errorf("%s from %s is not ours to keep", s.Kind.Name, s.Origin)
	}
	k := s.run.record()
	k.Kind, k.URL, k.ManagementURL, k.Origin = s.Kind.Name, s.URL, s.ManagementURL, s.Origin
	return k, nil
}

// Detach lets the server outlive this process. The Server must not be used any more afterwards.
func (s *Server) Detach() error {
	if err := s.run.detach(); err != nil {
		return fmt.Errorf("detach %s: %w", s.Kind.Name, err)
	}
	return nil
}

func recordFolder(f *folder, processes ...*process) *Kept {
	k := &Kept{Folder: f.path}
	for _, p := range processes {
		k.Processes = append(k.Processes, KeptProcess{PID: p.pid, Start: startOf(p.pid), StopBy: p.stopBy})
	}
	return k
}

// Running reports whether all of the server still runs.
func (k *Kept) Running(ctx context.Context) bool {
	if k.Container != "" {
		return containerRunning(ctx, k.Container)
	}
	for _, p := range k.Processes {
		if !p.running() {
			return false
		}
	}
	return len(k.Processes) > 0
}

// Stop ends the server in good order and removes its data. A process that has our pid but started at
// another time is somebody else's and left alone.
func (k *Kept) Stop(ctx context.Context) error {
	if k.Container != "" {
		return removeContainer(ctx, k.Container)
	}
	for _, p := range k.Processes {
		if err := p.stop(ctx); err != nil {
			return err
		}
	}
	// The file that holds this path was written by us, but a person may have edited it.
	if !strings.HasPrefix(filepath.Base(k.Folder), "surepost-") {
		return fmt.Errorf("%q is not a folder of the harness: remove it by hand", k.Folder)
	}
	return os.RemoveAll(k.Folder)
}

func (p KeptProcess) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for signal := p.StopBy; p.running(); signal = 0 {
		if err := syscall.Kill(p.PID, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d: %w", p.PID, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
			return fmt.Errorf("process %d ignored the signal %v and was killed", p.PID, p.StopBy)
		}
	}
	return nil
}
