package server

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// folder is a temporary folder that holds everything of one server: its data, its log, and a pid
// file for each process. A guard process watches over it: when this process ends, in whatever way,
// the guard ends the servers and removes the folder.
type folder struct {
	path   string
	guard  *exec.Cmd
	rein   io.WriteCloser // the guard's standard input: it acts when this closes
	paused []int          // the processes that pause halted
}

// guard waits on its standard input, a pipe that the system closes when our process ends, also on
// SIGKILL, a panic or a test timeout. It depends on nothing but a shell, and works on every Unix
// (Linux's parent-death signal would not reach RabbitMQ past its start script, and follows the
// thread, not the process).
//
// First it renames the folder, so that a server that is just being started finds no place for its
// pid file and gives up: whatever is listed after the rename is all there is.
const guard = `
trap '' HUP INT TERM
read -r order && [ "$order" = keep ] && exit 0
gone=$1.gone
mv "$1" "$gone" || exit 1

signal() {
	for file in "$gone"/*.pid; do
		[ -f "$file" ] && read -r own pid <"$file" && kill -s "${1:-$own}" "$pid"
	done
}
alive() {
	for file in "$gone"/*.pid; do
		[ -f "$file" ] && read -r own pid <"$file" && kill -0 "$pid" &&
			! grep -qs '^State:.*Z' "/proc/$pid/status" && return 0
	done
	return 1
}
signal
turn=0
while alive && [ $turn -lt 50 ]; do sleep 0.1; turn=$((turn + 1)); done
signal KILL

for file in "$gone"/*.container; do
	[ -f "$file" ] && docker rm --force --volumes "$(cat "$file")"
done
# A PostgreSQL that was killed leaves a System V segment, named in line 7 of its lock file.
lock=$gone/data/postmaster.pid
[ -f "$lock" ] && ipcrm -m "$(sed -n 's/^ *[0-9]* *//; 7p' "$lock")"
rm -rf "$gone" || { sleep 1; rm -rf "$gone"; }
`

// newFolder makes a folder that the given account may use, or we ourselves when it is nil.
func newFolder(name string, owner *syscall.Credential) (*folder, error) {
	path, err := os.MkdirTemp("", "surepost-"+name+"-")
	if err != nil {
		return nil, err
	}
	if owner != nil {
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			_ = os.Remove(path)
			return nil, err
		}
	}
	f := &folder{path: path}
	f.guard = exec.Command("/bin/sh", "-c", guard, "surepost-guard", path)
	f.guard.Dir = "/"
	f.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if f.rein, err = f.guard.StdinPipe(); err == nil {
		err = f.guard.Start()
	}
	if err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("start the guard of %s: %w", path, err)
	}
	return f, nil
}

// close removes the folder, and ends what still runs in it.
func (f *folder) close() error {
	_ = f.rein.Close()
	if err := f.guard.Wait(); err != nil {
		return fmt.Errorf("the guard of %s could not remove it: %w", f.path, err)
	}
	return nil
}

// release dismisses the guard: folder and processes stay when this process ends.
func (f *folder) release() error {
	if _, err := io.WriteString(f.rein, "keep\n"); err != nil {
		return err
	}
	_ = f.rein.Close()
	return f.guard.Wait()
}

func (f *folder) logFile() string { return filepath.Join(f.path, "server.log") }

// log returns the end of the log since a mark, at most logBytes of it.
func (f *folder) log(since Mark) string {
	file, err := os.Open(f.logFile())
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(since.offset, info.Size()-logBytes)
	text, err := io.ReadAll(io.NewSectionReader(file, from, max(0, info.Size()-from)))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// logBytes is enough for LogLines lines: a server that logs statements may write megabytes.
const logBytes = 64 << 10
