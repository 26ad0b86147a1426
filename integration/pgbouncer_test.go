package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// bouncer is a pgbouncer before one PostgreSQL server: the installed one, or that of the image that
// SUREPOST_PGBOUNCER_IMAGE names.
type bouncer struct {
	t       *testing.T
	command []string // what runs a program beside the configuration
	folder  string
	address string
	version [2]int

	stdin io.Closer // pgbouncer is killed when it closes, and so when this process dies, too
	ended chan struct{}
	log   lockedBuffer
}

// transactions makes a client keep its server connection for one transaction only. Round robin changes it as often as
// possible.
var transactions = []string{"pool_mode = transaction", "server_round_robin = 1"}

// startBouncer returns a pgbouncer before the server of the URL, with these lines in its configuration.
func startBouncer(t *testing.T, serverURL string, settings ...string) *bouncer {
	t.Helper()
	server, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir, which only its owner can enter: pgbouncer refuses to be root.
	folder, err := os.MkdirTemp("", "surepost-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	b := &bouncer{t: t, folder: folder}
	t.Cleanup(func() {
		b.kill()
		if t.Failed() {
			t.Logf("pgbouncer's log:\n%s", b.log.String())
		}
		_ = os.RemoveAll(folder)
	})
	b.findCommand()

	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = free.Addr().String()
	_ = free.Close()
	_, port, _ := net.SplitHostPort(b.address)
	password, _ := server.User.Password()
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
max_client_conn = 1000
default_pool_size = 45
server_idle_timeout = 1
log_connections = 0
log_disconnections = 0
%s
`, server.Hostname(), server.Port(), server.User.Username(), password, port, strings.Join(settings, "\n"))
	file := filepath.Join(folder, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	b.start()
	return b
}

func (b *bouncer) findCommand() {
	b.t.Helper()
	program := "pgbouncer"
	if image := os.Getenv("SUREPOST_PGBOUNCER_IMAGE"); image != "" && image != "none" {
		// On the host's network, where the servers' ports are.
		b.command = []string{"docker", "run", "--rm", "-i", "--network=host", "-v", b.folder + ":" + b.folder + ":ro", image}
	} else if path, err := exec.LookPath(program); err == nil {
		program = path
	} else if _, err := os.Stat("/usr/sbin/pgbouncer"); err == nil { // not in everybody's PATH
		program = "/usr/sbin/pgbouncer"
	} else {
		b.t.Fatal("no pgbouncer: install the package pgbouncer, or name an image that has it in SUREPOST_PGBOUNCER_IMAGE")
	}
	ask := append(slices.Clone(b.command), program, "--version")
	said, err := exec.Command(ask[0], ask[1:]...).CombinedOutput()
	version := regexp.MustCompile(`PgBouncer (\d+)\.(\d+)`).FindStringSubmatch(string(said))
	if err != nil || version == nil {
		b.t.Fatalf("ask pgbouncer for its version: %v\n%s", err, said)
	}
	b.version[0], _ = strconv.Atoi(version[1])
	b.version[1], _ = strconv.Atoi(version[2])

	// The shell waits for its input to end, then kills what it has started.
	const guarded = `exec 3<&0; "$@" </dev/null & cat <&3 >/dev/null; kill -9 $!`
	b.command = append(b.command, "/bin/sh", "-c", guarded, "sh")
	if b.command[0] == "docker" || os.Getuid() == 0 {
		b.command = append(b.command, "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
	}
	b.command = append(b.command, program, filepath.Join(b.folder, "pgbouncer.ini"))
}

// start returns when pgbouncer listens.
func (b *bouncer) start() {
	b.t.Helper()
	cmd := exec.Command(b.command[0], b.command[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	up := make(chan struct{})
	b.stdin, b.ended = stdin, make(chan struct{})
	go func() {
		defer close(b.ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&b.log, lines.Text())
			if strings.Contains(lines.Text(), "process up:") {
				close(up)
			}
		}
		_ = cmd.Wait()
	}()
	select {
	case <-up:
	case <-b.ended:
		b.t.Fatalf("pgbouncer doesn't start:\n%s", b.log.String())
	case <-time.After(time.Minute):
		b.t.Fatalf("pgbouncer doesn't start within a minute:\n%s", b.log.String())
	}
}

// kill ends pgbouncer with SIGKILL, and with it all connections through it. It returns when it is gone.
func (b *bouncer) kill() {
	if b.stdin != nil {
		_ = b.stdin.Close()
		<-b.ended
		b.stdin = nil
	}
}

// url returns the address of a database of the server behind pgbouncer.
func (b *bouncer) url(databaseURL string) string {
	b.t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		b.t.Fatal(err)
	}
	u.Host = b.address
	return u.String()
}

// keepsStatements reports whether this version can follow named prepared statements from server to server.
func (b *bouncer) keepsStatements() bool { return since(b.version, 1, 21) }

// routes are the tests whose pools lead through a pgbouncer, by name; their subtests' do, too.
var routes sync.Map

type route struct {
	via  *bouncer
	mode pgx.QueryExecMode
}

// routePools leads all pools that newPool and poolOn make for t and its subtests through pgbouncer.
func routePools(t *testing.T, via *bouncer, mode pgx.QueryExecMode) {
	routes.Store(t.Name(), route{via, mode})
	t.Cleanup(func() { routes.Delete(t.Name()) })
}

func routeOf(t *testing.T) (r route, ok bool) {
	for name := t.Name(); ; {
		if r, ok := routes.Load(name); ok {
			return r.(route), true
		}
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			return route{}, false
		}
		name = name[:slash]
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
