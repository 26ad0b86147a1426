package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// pause halts a process and all its descendants. What is halted hears no other signal than SIGKILL,
// so the guard is told first to let each go on: a record that is there too early does no harm.
func (f *folder) pause(ctx context.Context, root int) error {
	// Parents come before children: one that is halted has no new ones.
	for pids := []int{root}; len(pids) > 0; pids = pids[1:] {
		offspring, err := f.halt(ctx, pids[0])
		if err != nil {
			return errors.Join(fmt.Errorf("pause process %d: %w", pids[0], err), f.resume())
		}
		pids = append(pids, offspring...)
	}
	return nil
}

// halt halts one process and returns its children.
func (f *folder) halt(ctx context.Context, pid int) ([]int, error) {
	if err := os.WriteFile(f.pausedFile(pid), []byte("CONT "+strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		return nil, err
	}
	f.paused = append(f.paused, pid)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, syscall.ESRCH) {
		return nil, err
	}
	for { // the signal takes effect when the process next runs
		fields, err := procStat(pid)
		if err != nil && running(pid) {
			return nil, errors.New("a server's processes are found where there is /proc only")
		}
		if err != nil || fields[0] == "Z" || fields[0] == "X" {
			return nil, nil // it ended by itself
		}
		if fields[0] == "T" {
			return children(pid)
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// resume lets what pause halted go on, as far as it lives. It is called soon after a kill: nobody else
// has got the pids by then.
func (f *folder) resume() error {
	var problems []error
	for _, pid := range f.paused {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			problems = append(problems, fmt.Errorf("resume process %d: %w", pid, err))
		}
		problems = append(problems, os.Remove(f.pausedFile(pid)))
	}
	f.paused = nil
	return errors.Join(problems...)
}

func (f *folder) pausedFile(pid int) string {
	return filepath.Join(f.path, "paused-"+strconv.Itoa(pid)+".pid")
}
