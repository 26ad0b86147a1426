package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// errNeedsBinaries is why a server from elsewhere can't be part of a pair or a cluster: in Docker its members would
// need a network of their own, and a server that came as a URL has its own operators.
func errNeedsBinaries(s *Server, what string) error {
	return fmt.Errorf("%s consists of processes of this machine, and this %s comes from %s: ask for harness.Image(%q), "+
		"which takes the binaries, and install them (go run github.com/surepost/surepost/harness/cmd/harness install)",
		what, s.Kind.Name, s.Origin, NoImage)
}

// StartStandby starts a hot standby that streams from the primary, with the primary's settings, and returns when it
// does. It copies the primary's data first (PostgreSQL docs, "pg_basebackup").
func StartStandby(ctx context.Context, primary *Server) (*Server, error) {
	from, ok := primary.run.(*localPostgres)
	if !ok {
		return nil, errNeedsBinaries(primary, "a primary with a standby")
	}
	u, err := url.Parse(primary.URL)
	if err != nil {
		return nil, err
	}
	password, _ := u.User.Password()
	standby, err := launch(ctx, primary.Kind, primary.Origin, func() (*Server, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		folder, err := newFolder("postgres", from.as)
		if err != nil {
			return nil, err
		}
		// --write-recovery-conf makes it a standby that knows its primary, password included.
		cmd := exec.CommandContext(ctx, filepath.Join(from.bin, "pg_basebackup"), "--pgdata="+filepath.Join(folder.path, "data"),
			"--host="+u.Hostname(), "--port="+u.Port(), "--username="+u.User.Username(),
			"--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--no-sync")
		cmd.Dir, cmd.Env = folder.path, plainEnv("PGPASSWORD="+password, "PGAPPNAME="+standbyName)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: from.as}
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("pg_basebackup: %w\n%s", err, indent(string(out))), folder.close())
		}
		run := newLocalPostgres(from.bin, folder, from.as, port, from.settings)
		return &Server{URL: postgresURL(password, loopback(port)), run: run}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	if err := awaitStreaming(ctx, primary.URL); err != nil {
		return nil, errors.Join(fmt.Errorf("the standby doesn't stream: %w", err), standby.Close(context.WithoutCancel(ctx)))
	}
	return standby, nil
}

// standbyName is the standbys' application_name, as synchronous_standby_names may list it.
const standbyName = "surepost_standby"

func awaitStreaming(ctx context.Context, primaryURL string) error {
	conn, err := pgx.Connect(ctx, primaryURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for streaming := false; !streaming; {
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')").Scan(&streaming); err != nil {
			return err
		}
		if !streaming {
			if err := pause(ctx, pollEvery); err != nil {
				return err
			}
		}
	}
	return nil
}

// Promote makes a standby the primary, and returns when it takes writes (PostgreSQL docs, "pg_promote").
func (s *Server) Promote(ctx context.Context) error {
	return s.exec(ctx, "SELECT pg_promote(true, 60)")
}

// Disconnect ends a standby's stream from its primary for good: what is committed there later, it never gets.
func (s *Server) Disconnect(ctx context.Context) error {
	err := s.exec(ctx, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for receiving := true; receiving; {
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)").Scan(&receiving); err != nil {
			return err
		}
		if receiving {
			if err := pause(ctx, pollEvery); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", strings.SplitN(statement, "\n", 2)[0], err)
		}
	}
	return nil
}
