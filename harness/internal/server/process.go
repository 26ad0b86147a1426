package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one program started in a folder, whose guard ends it if we don't.
type process struct {
	pid     int
	stopBy  syscall.Signal // asks this program to end soon and in good order
	pidFile string
	ended   error // set once the process was reaped
}

// program is what to start.
type program struct {
	name   string   // names its pid file
	args   []string // the executable's path first
	env    []string
	as     *syscall.Credential
	stopBy syscall.Signal
	endBy  string // the signal, by the name that kill(1) knows, that ends it at once after a crash of ours
}

// announce writes the program's own pid where the guard finds it, then becomes the program. The
// rename makes the file appear whole; where the guard has moved the folder away it fails, and
// nothing starts that nobody would end.
const announce = `echo "$2 $$" >"$1.new" && mv "$1.new" "$1" || exit 125; shift 2; exec "$@"`

// start runs a program in the folder, in a session of its own: a Ctrl-C at the terminal must reach
// the tests and not their servers.
func (f *folder) start(p program) (*process, error) {
	log, err := os.OpenFile(f.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	pidFile := filepath.Join(f.path, p.name+".pid")
	cmd := exec.Command("/bin/sh", append([]string{"-c", announce, "sh", pidFile, p.endBy}, p.args...)...)
	cmd.Dir, cmd.Env = f.path, p.env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: p.as}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", p.args[0], err)
	}
	return &process{pid: cmd.Process.Pid, stopBy: p.stopBy, pidFile: pidFile}, nil
}

// died returns how the process ended, or nil while it runs. It reaps by polling instead of from a
// goroutine, so that a server that is shared by all tests does not look like a leak to goleak.
// Until it is reaped its pid can't be given to anybody else, so signals are safe.
func (p *process) died() error {
	if p.ended != nil {
		return p.ended
	}
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil)
	switch {
	case errors.Is(err, syscall.EINTR), err == nil && pid == 0:
		return nil
	case err != nil:
		p.ended = fmt.Errorf("process %d: %w", p.pid, err)
	case status.Signaled():
		p.ended = fmt.Errorf("process %d was ended by signal %v", p.pid, status.Signal())
	default:
		p.ended = fmt.Errorf("process %d exited with status %d", p.pid, status.ExitStatus())
	}
	_ = os.Remove(p.pidFile)
	return p.ended
}

// stop asks the process to end, and kills it when it takes longer than any healthy server does.
func (p *process) stop(ctx context.Context) error {
	const limit = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p.signal(p.stopBy)
	if p.await(ctx) == nil {
		return nil
	}
	p.kill()
	return fmt.Errorf("process %d ignored the signal %v and was killed: %w", p.pid, p.stopBy, ctx.Err())
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	_ = p.await(context.Background()) // a process can't refuse SIGKILL
}

func (p *process) signal(s syscall.Signal) {
	if p.died() == nil {
		_ = syscall.Kill(p.pid, s)
	}
}

func (p *process) await(ctx context.Context) error {
	for p.died() == nil {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// children returns the processes whose parent is pid, and an error where there is no /proc.
func children(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields, err := procStat(child); err == nil && fields[1] == strconv.Itoa(pid) {
			found = append(found, child)
		}
	}
	return found, nil
}

// running reports whether a process that need not be our child executes. A zombie does not, though
// it still has its pid: in containers init often reaps nobody.
func running(pid int) bool {
	if fields, err := procStat(pid); err == nil {
		return fields[0] != "Z" && fields[0] != "X"
	}
	return syscall.Kill(pid, 0) != syscall.ESRCH
}

// startOf returns a text that tells the process apart from a later one with the same pid, or "" when
// there is no such process: its start in clock ticks since boot (proc(5), field 22 of stat), or the
// date that ps prints where there is no /proc.
func startOf(pid int) string {
	if fields, err := procStat(pid); err == nil {
		return fields[19]
	}
	out, _ := exec.Command("ps", "-o", "lstart=", "-p", strconv.Itoa(pid)).Output()
	return strings.TrimSpace(string(out))
}

// procStat returns the fields of /proc/PID/stat from the third (the state) on. The second, the
// command, is skipped because it may contain anything.
func procStat(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat has an unknown format", pid)
	}
	return fields, nil
}

// credential returns whom to run as: the first of these accounts that exists, or nil (as ourselves)
// when we are not root.
func credential(names ...string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range names {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("none of the accounts %v exists to run the server: create one, or do not run as root", names)
}
