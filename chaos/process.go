package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// readyLimit bounds the first start of a process, when nothing is out of order yet but everybody starts at once.
	readyLimit = 60 * time.Second
	// stopLimit bounds a shutdown in good order. The consumer's own limit is 30 s.
	stopLimit = 45 * time.Second
)

// process is one of a run's processes through all of its lives. It is safe for concurrent use.
type process struct {
	name string
	env  surroundings
	log  string // file

	mu      sync.Mutex
	life    *life
	ended   bool // for good
	before  told // of the lives that have ended
	endings []string
	lives   int
}

// life is the process from one start to its end.
type life struct {
	cmd                   *exec.Cmd
	stdin                 io.Closer // its end is how the process learns of ours
	done, copies, emptied atomic.Int64
	ready                 chan struct{}
	exited                chan struct{} // closed once err is set
	err                   error
	wanted                atomic.Bool // its end is our doing
}

// start starts the process if it doesn't run. It doesn't wait until it does its work.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life != nil || p.ended {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	env, err := json.Marshal(p.env)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	l := &life{cmd: exec.Command(program, roleCommand, p.name), ready: make(chan struct{}, 1), exited: make(chan struct{})}
	l.cmd.Env = append(os.Environ(), surroundingsVar+"="+string(env))
	l.cmd.Stderr = log
	// A group of its own: when its parent is gone, a group with a halted process in it gets SIGHUP and SIGCONT (POSIX,
	// "_exit", on orphaned process groups), so that none stays behind frozen. And Ctrl-C doesn't reach it.
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := l.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	l.stdin = stdin
	if err := l.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.life = l
	p.lives++
	go func() {
		l.listen(stdout)
		l.err = l.cmd.Wait() // only now: it closes the pipe
		p.over(l)
		close(l.exited)
	}()
	return nil
}

// listen takes in what the process tells, until it ends.
func (l *life) listen(stdout io.Reader) {
	for from := json.NewDecoder(stdout); ; {
		var t told
		if err := from.Decode(&t); err != nil {
			_, _ = io.Copy(io.Discard, stdout) // it must not block on a full pipe
			return
		}
		if t.Ready {
			l.ready <- struct{}{}
		}
		l.done.Store(max(l.done.Load(), t.Done))
		l.copies.Store(max(l.copies.Load(), t.Copies))
		l.emptied.Store(max(l.emptied.Load(), t.Emptied))
	}
}

// over notes that a life has ended. One that ended by itself begins anew, as every supervisor would have it, and is told in the
// report.
func (p *process) over(l *life) {
	p.mu.Lock()
	p.before.Done += l.done.Load()
	p.before.Copies += l.copies.Load()
	p.before.Emptied += l.emptied.Load()
	if p.life == l {
		p.life = nil
	}
	again := !l.wanted.Load()
	if again {
		p.endings = append(p.endings, fmt.Sprintf("%s (pid %d) ended by itself: %v; see %s",
			p.name, l.cmd.Process.Pid, orExited(l.err), filepath.Base(p.log)))
	}
	p.mu.Unlock()
	if again {
		time.AfterFunc(time.Second, func() { _ = p.start() })
	}
}

func orExited(err error) error {
	if err == nil {
		return errors.New("with exit code 0")
	}
	return err
}

func (p *process) current() *life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

var errNotRunning = errors.New("it doesn't run at the moment")

// awaitReady waits until the process does its work.
func (p *process) awaitReady(ctx context.Context) error {
	l := p.current()
	if l == nil {
		return errNotRunning
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("it wasn't ready within %v", readyLimit))
	defer cancel()
	select {
	case <-l.ready:
		return nil
	case <-l.exited:
		return fmt.Errorf("%s ended: %w", p.name, orExited(l.err))
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
	}
}

// kill ends the process as a power cut would. It stays so until start.
func (p *process) kill() error {
	l := p.current()
	if l == nil {
		return errNotRunning
	}
	l.wanted.Store(true)
	_ = l.cmd.Process.Kill()
	<-l.exited
	return nil
}

// freeze halts the process until thaw.
func (p *process) freeze() (thaw func(), err error) {
	l := p.current()
	if l == nil {
		return nil, errNotRunning
	}
	if err := l.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	return func() { _ = l.cmd.Process.Signal(syscall.SIGCONT) }, nil
}

// end ends the process for good.
func (p *process) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	_ = p.kill() // it may not run
}

// stop asks the process to finish what it has begun, and waits for its end.
func (p *process) stop(ctx context.Context) error {
	l := p.current()
	if l == nil {
		return nil
	}
	l.wanted.Store(true)
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	_ = l.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-l.exited:
	case <-ctx.Done():
		_ = p.kill()
		return fmt.Errorf("%s didn't end within %v of being asked to, and was killed", p.name, stopLimit)
	}
	if l.err != nil {
		return fmt.Errorf("%s was asked to end: %w; see %s", p.name, l.err, filepath.Base(p.log))
	}
	return nil
}

// count returns what the process has done in all of its lives.
func (p *process) count() told {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := p.before
	if p.life != nil {
		sum.Done += p.life.done.Load()
		sum.Copies += p.life.copies.Load()
		sum.Emptied += p.life.emptied.Load()
	}
	return sum
}

// endedByItself returns how the process ended when nobody had asked for it.
func (p *process) endedByItself() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endings
}
