package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// startLimit bounds the start of a service: it waits for nothing but its database and the broker, which are there.
// Under the race detector on a busy machine it takes seconds.
const startLimit = 60 * time.Second

// stopLimit bounds a shutdown in good order. The consumer's own limit is 30 s.
const stopLimit = 40 * time.Second

// process is a service, from one start of its program to its end.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer // its end is how the process learns of ours
	done   atomic.Int64
	ready  chan string   // gets the address
	exited chan struct{} // closed once err is set
	err    error
}

func startProcess(service string, env []string, log io.Writer) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program, command, service), ready: make(chan string, 1), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = log
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.listen(stdout)
		p.err = p.cmd.Wait() // only now: it closes the pipe
		close(p.exited)
	}()
	return p, nil
}

// listen takes in what the process tells, until it ends.
func (p *process) listen(stdout io.Reader) {
	for from := json.NewDecoder(stdout); ; {
		var r report
		if err := from.Decode(&r); err != nil {
			_, _ = io.Copy(io.Discard, stdout) // it must not block on a full pipe
			return
		}
		if r.Ready {
			p.ready <- r.Address
		}
		if r.Done > 0 {
			p.done.Store(r.Done)
		}
	}
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Service is a service through all of its processes. It is safe for concurrent use.
type Service struct {
	Name   string
	Env    []string // besides this process's own
	Log    io.Writer
	Failed context.CancelCauseFunc // called if a process ends by itself

	mu      sync.Mutex
	process *process
	earlier int64 // what killed processes had done
}

// Start starts the service and waits until it does its work. It returns the address where it listens, if it does.
func (s *Service) Start(ctx context.Context) (address string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("it wasn't ready within %v", startLimit))
	defer cancel()
	p, err := startProcess(s.Name, s.Env, s.Log)
	if err != nil {
		return "", fmt.Errorf("start %s: %w", s.Name, err)
	}
	s.mu.Lock()
	s.process = p
	s.mu.Unlock()
	select {
	case address = <-p.ready:
	case <-p.exited:
		return "", fmt.Errorf("start %s: it ended: %w", s.Name, orEnded(p.err))
	case <-ctx.Done():
		p.kill()
		return "", fmt.Errorf("start %s: %w", s.Name, context.Cause(ctx))
	}
	go func() {
		<-p.exited
		s.mu.Lock()
		mine := s.process == p
		s.mu.Unlock()
		if mine {
			s.Failed(fmt.Errorf("%s (pid %d) ended by itself: %w", s.Name, p.pid(), orEnded(p.err)))
		}
	}()
	return address, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func orEnded(err error) error {
	if err == nil {
		return errors.New("with exit code 0")
	}
	return err
}

// take takes the process from the service, so that its end is no surprise.
func (s *Service) take() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.process
	s.process = nil
	if p != nil {
		s.earlier += p.done.Load()
	}
	return p
}

// Kill kills the process and returns its pid and what it had done.
func (s *Service) Kill() (pid int, done int64) {
	p := s.take()
	if p == nil {
		return 0, 0
	}
	p.kill()
	return p.pid(), p.done.Load()
}

// Stop asks the service to finish what it has begun, and waits for its end.
func (s *Service) Stop(ctx context.Context) error {
	p := s.take()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if p.cmd.Process.Signal(syscall.SIGTERM) != nil {
		p.kill() // it has ended, or there are no such signals (Windows)
		return nil
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("%s didn't end when it was asked to, and was killed: %w", s.Name, ctx.Err())
	}
	if p.err != nil {
		return fmt.Errorf("%s was asked to end: %w", s.Name, p.err)
	}
	return nil
}

// Done returns how many events the service has published or handled, in all of its processes.
func (s *Service) Done() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return s.earlier
	}
	return s.earlier + s.process.done.Load()
}
