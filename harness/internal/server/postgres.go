package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgreSQL is the kind of server that holds the outbox.
var PostgreSQL = &Kind{
	Name:       "PostgreSQL",
	URLVar:     "SUREPOST_POSTGRES_URL",
	ImageVar:   "SUREPOST_POSTGRES_IMAGE",
	Image:      "postgres:18",
	Package:    "postgresql",
	ExampleURL: "postgres://user:password@host:5432/postgres",
	schemes:    []string{"postgres", "postgresql"},
	ready:      postgresReady,
	programs:   machine.postgresPrograms,
	binaries:   localPostgresServer,
	container:  containerPostgresServer,
}

func postgresReady(ctx context.Context, s *Server) error {
	conn, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.Ping(ctx)
}

// postgresSettings are the server's settings before the caller's, which win.
func postgresSettings(cfg Config) []Setting {
	settings := []Setting{
		{"wal_level", "replica"},
		{"max_connections", "200"},             // the default of 100 is few for parallel tests with pools
		{"max_prepared_transactions", "20"},    // off by default; prepared transactions are one way to commit late
		{"dynamic_shared_memory_type", "mmap"}, // in the data folder, so that a killed server leaves nothing in /dev/shm
	}
	if !cfg.Private {
		// Nobody can crash the shared server, so its tests lose nothing by not waiting for the disk.
		// A private server is there to be crashed: it must keep what it confirmed.
		settings = append(settings, Setting{"fsync", "off"}, Setting{"full_page_writes", "off"})
	}
	return append(settings, cfg.Settings...)
}

func postgresFlags(settings []Setting) []string {
	var flags []string
	for _, s := range settings {
		flags = append(flags, "-c", s.Name+"="+s.Value)
	}
	return flags
}

func postgresURL(password, address string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password),
		Host: address, Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String()
}

// localPostgres runs the binaries of this machine.
type localPostgres struct {
	bin      string
	folder   *folder
	as       *syscall.Credential
	settings []Setting
	args     []string
	proc     *process
}

func localPostgresServer(ctx context.Context, kind *Kind, cfg Config, m machine) (*Server, error) {
	bin, err := m.postgresPrograms()
	if err != nil {
		return nil, err
	}
	as, err := credential("postgres", "nobody") // PostgreSQL refuses to run as root
	if err != nil {
		return nil, err
	}
	return launch(ctx, kind, "binaries in "+bin, func() (*Server, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		folder, err := newFolder("postgres", as)
		if err != nil {
			return nil, err
		}
		password := rand.Text() // other users of this machine can reach the port too
		data := filepath.Join(folder.path, "data")
		if err := initdb(ctx, bin, folder, data, password, as); err != nil {
			return nil, errors.Join(err, folder.close())
		}
		run := newLocalPostgres(bin, folder, as, port, postgresSettings(cfg))
		return &Server{URL: postgresURL(password, loopback(port)), run: run}, nil
	})
}

// newLocalPostgres is a server whose data is, or will be, in the folder.
func newLocalPostgres(bin string, folder *folder, as *syscall.Credential, port int, settings []Setting) *localPostgres {
	args := []string{filepath.Join(bin, "postgres"), "-D", filepath.Join(folder.path, "data"),
		"-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(port),
		"-c", "unix_socket_directories="} // a socket's path is limited to some 100 bytes, a temporary folder's is not
	return &localPostgres{bin: bin, folder: folder, as: as, settings: settings, args: append(args, postgresFlags(settings)...)}
}

// initdbArgs make a cluster the same on every machine, its order of texts included.
var initdbArgs = []string{"--encoding=UTF8", "--locale=C"}

func initdb(ctx context.Context, bin string, f *folder, data, password string, as *syscall.Credential) error {
	passwordFile := filepath.Join(f.path, "password")
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return err
	}
	if as != nil {
		if err := os.Chown(passwordFile, int(as.Uid), int(as.Gid)); err != nil {
			return err
		}
	}
	defer os.Remove(passwordFile)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "--username=postgres",
		// "password" and not SCRAM: on the loopback it protects as well, and saves each connection
		// of each test the thousands of hash rounds.
		"--auth=password", "--pwfile="+passwordFile,
		"--no-sync")
	cmd.Args = append(cmd.Args, initdbArgs...)
	cmd.Dir, cmd.Env = f.path, plainEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, indent(string(out)))
	}
	return nil
}

// plainEnv keeps this machine's PG*, RABBITMQ_* and locale variables away from the servers.
func plainEnv(extra ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8"}, extra...)
}

func (p *localPostgres) start(context.Context) error {
	if p.died() == nil {
		return errors.New("it runs already")
	}
	proc, err := p.folder.start(program{
		name: "postgres", args: p.args, env: plainEnv(), as: p.as,
		stopBy: syscall.SIGINT, // fast shutdown: it rolls back and disconnects (PostgreSQL docs, "Shutting Down the Server")
		endBy:  "QUIT",         // immediate shutdown: no checkpoint, but it ends its children and frees its memory
	})
	p.proc = proc
	return err
}

func (p *localPostgres) stop(ctx context.Context) error {
	if p.proc == nil {
		return nil
	}
	return p.proc.stop(ctx)
}

// kill sends SIGKILL to the postmaster and to all its children at once. The postmaster is halted
// first, so that it can neither replace a child nor tell the clients. Where the children can't be
// found, the immediate shutdown comes closest.
func (p *localPostgres) kill(ctx context.Context) error {
	if p.died() != nil {
		return nil
	}
	p.proc.signal(syscall.SIGSTOP)
	defer p.folder.resume() // of a server that was paused, whoever is left goes on and ends
	backends, err := children(p.proc.pid)
	if err != nil {
		p.proc.signal(syscall.SIGQUIT)
		p.proc.signal(syscall.SIGCONT)
		return p.proc.await(ctx)
	}
	for _, pid := range backends {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	p.proc.kill()
	// A start refuses to run beside children of the last one.
	for _, pid := range backends {
		for running(pid) {
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *localPostgres) close(ctx context.Context) error {
	return errors.Join(p.folder.resume(), p.stop(ctx), p.folder.close())
}

func (p *localPostgres) died() error {
	if p.proc == nil {
		return errors.New("it was not started")
	}
	return p.proc.died()
}

func (p *localPostgres) pause(ctx context.Context) error { return p.folder.pause(ctx, p.proc.pid) }
func (p *localPostgres) resume(context.Context) error    { return p.folder.resume() }

func (p *localPostgres) log(_ context.Context, since Mark) string { return p.folder.log(since) }
func (p *localPostgres) logFile() string                          { return p.folder.logFile() }

func (p *localPostgres) control(context.Context, ...string) error { return errors.ErrUnsupported }

func (p *localPostgres) record() *Kept { return recordFolder(p.folder, p.proc) }

func (p *localPostgres) detach() error { return p.folder.release() }
