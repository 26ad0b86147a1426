package server

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is the kind of server for outboxes and inboxes in MariaDB and, by its address or image,
// MySQL.
var MariaDB = &Kind{
	Name:       "MariaDB",
	URLVar:     "SUREPOST_MARIADB_URL",
	ImageVar:   "SUREPOST_MARIADB_IMAGE",
	Image:      "mariadb:11",
	Package:    "mariadb-server",
	ExampleURL: "mysql://user:password@host:3306/",
	schemes:    []string{"mysql", "mariadb"},
	ready:      mariaDBReady,
	programs:   machine.mariaDBPrograms,
	binaries:   localMariaDBServer,
	container:  containerMariaDBServer,
}

func mariaDBReady(ctx context.Context, s *Server) error {
	db, err := OpenMariaDB(s.URL)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

// OpenMariaDB opens the database of a URL. Close it soon: what it keeps would look to a test like a
// leak.
func OpenMariaDB(rawURL string) (*sql.DB, error) {
	cfg, err := MariaDBConfig(rawURL)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// MariaDBConfig is the driver's form of a URL, mysql://user:password@host:port/database?parameters,
// with the driver's own parameters.
func MariaDBConfig(rawURL string) (*mysql.Config, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	cfg, err := mysql.ParseDSN("/?" + u.RawQuery)
	if err != nil {
		return nil, err
	}
	cfg.Net, cfg.Addr = "tcp", u.Host
	if u.Port() == "" {
		cfg.Addr += ":3306"
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	if len(u.Path) > 1 {
		cfg.DBName = u.Path[1:]
	}
	cfg.ParseTime = true
	cfg.Logger = &mysql.NopLogger{} // it prints every connection that fails, of which there are many while a server starts
	return cfg, nil
}

// mariaDBFlags are the server's settings before the caller's, which win. They are those that MariaDB
// and MySQL share, or loose (MariaDB docs, "Configuring MariaDB with Option Files"), so that an image
// may hold either.
func mariaDBFlags(cfg Config) []string {
	settings := []Setting{
		{"character-set-server", "utf8mb4"}, // of MariaDB before 11.6 it is latin1
		{"max-connections", "300"},
		{"skip-name-resolve", "1"},
		{"innodb-buffer-pool-size", "64M"}, // several servers run side by side
		{"loose-innodb-log-file-size", "48M"},
		{"loose-mysqlx", "0"}, // MySQL's second protocol takes a second port
	}
	if !cfg.Private {
		// As with PostgreSQL: only a server that can be crashed waits for the disk.
		settings = append(settings, Setting{"innodb-flush-log-at-trx-commit", "0"}, Setting{"innodb-doublewrite", "0"},
			Setting{"sync-binlog", "0"})
	}
	var flags []string
	for _, s := range append(settings, cfg.Settings...) {
		flags = append(flags, "--"+s.Name+"="+s.Value)
	}
	return flags
}

func mariaDBURL(password, address string) string {
	u := url.URL{Scheme: "mysql", User: url.UserPassword("root", password), Host: address, Path: "/"}
	return u.String()
}

// localMariaDB runs the binaries of this machine.
type localMariaDB struct {
	folder *folder
	as     *syscall.Credential
	args   []string
	proc   *process
}

func localMariaDBServer(ctx context.Context, kind *Kind, cfg Config, m machine) (*Server, error) {
	bin, err := m.mariaDBPrograms()
	if err != nil {
		return nil, err
	}
	install, err := m.mariaDBInstaller()
	if err != nil {
		return nil, err
	}
	as, err := credential("mysql", "nobody") // it refuses to run as root
	if err != nil {
		return nil, err
	}
	return launch(ctx, kind, "binaries in "+bin, func() (*Server, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		folder, err := newFolder("mariadb", as)
		if err != nil {
			return nil, err
		}
		password := rand.Text() // other users of this machine can reach the port too
		data, boot := filepath.Join(folder.path, "data"), filepath.Join(folder.path, "boot.sql")
		err = errors.Join(installMariaDB(ctx, install, folder, data, as), writeBootSQL(boot, password, as))
		if err != nil {
			return nil, errors.Join(err, folder.close())
		}
		args := []string{filepath.Join(bin, "mariadbd"), "--no-defaults", "--datadir=" + data,
			"--bind-address=127.0.0.1", "--port=" + strconv.Itoa(port),
			"--socket=", // as with PostgreSQL: a temporary folder's path may be too long for one
			"--tmpdir=" + folder.path, "--pid-file=" + filepath.Join(folder.path, "mariadbd.self"),
			"--init-file=" + boot}
		run := &localMariaDB{folder: folder, as: as, args: append(args, mariaDBFlags(cfg)...)}
		return &Server{URL: mariaDBURL(password, loopback(port)), run: run}, nil
	})
}

// installMariaDB makes the system tables. The accounts that it adds can't log in by TCP, other than
// with the method "normal", which leaves root without a password.
func installMariaDB(ctx context.Context, program string, f *folder, data string, as *syscall.Credential) error {
	cmd := exec.CommandContext(ctx, program, "--no-defaults", "--datadir="+data,
		"--auth-root-authentication-method=socket", "--auth-root-socket-user=nobody",
		"--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=48M", "--tmpdir="+f.path)
	cmd.Dir, cmd.Env = f.path, plainEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadb-install-db: %w\n%s", err, indent(string(out)))
	}
	return nil
}

// writeBootSQL writes what the server does at each start before it listens: it makes the
// administrator.
func writeBootSQL(path, password string, as *syscall.Credential) error {
	text := fmt.Sprintf("CREATE OR REPLACE USER root@'%%' IDENTIFIED BY '%s';\n"+
		"GRANT ALL ON *.* TO root@'%%' WITH GRANT OPTION;\n", password)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil || as == nil {
		return err
	}
	return os.Chown(path, int(as.Uid), int(as.Gid))
}

func (d *localMariaDB) start(context.Context) error {
	if d.died() == nil {
		return errors.New("it runs already")
	}
	proc, err := d.folder.start(program{
		name: "mariadbd", args: d.args, env: plainEnv(), as: d.as,
		stopBy: syscall.SIGTERM, // it rolls back and disconnects (MariaDB docs, "Shutdown")
		endBy:  "KILL",
	})
	d.proc = proc
	return err
}

func (d *localMariaDB) stop(ctx context.Context) error {
	if d.proc == nil {
		return nil
	}
	return d.proc.stop(ctx)
}

func (d *localMariaDB) kill(context.Context) error {
	if d.proc != nil {
		d.proc.kill()
	}
	return d.folder.resume()
}

// close kills: the data is removed anyway, and an orderly end writes it once more.
func (d *localMariaDB) close(ctx context.Context) error {
	return errors.Join(d.kill(ctx), d.folder.close())
}

func (d *localMariaDB) died() error {
	if d.proc == nil {
		return errors.New("it was not started")
	}
	return d.proc.died()
}

func (d *localMariaDB) pause(ctx context.Context) error { return d.folder.pause(ctx, d.proc.pid) }
func (d *localMariaDB) resume(context.Context) error    { return d.folder.resume() }

func (d *localMariaDB) log(_ context.Context, since Mark) string { return d.folder.log(since) }
func (d *localMariaDB) logFile() string                          { return d.folder.logFile() }

func (d *localMariaDB) control(context.Context, ...string) error { return errors.ErrUnsupported }

func (d *localMariaDB) record() *Kept { return recordFolder(d.folder, d.proc) }

func (d *localMariaDB) detach() error { return d.folder.release() }
