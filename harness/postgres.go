package harness

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost/harness/internal/server"
)

// PostgresServer is a PostgreSQL server and a database on it that belongs to one test or program.
type PostgresServer struct {
	powerSwitch
	url string

	mu        sync.Mutex
	databases []string // to be dropped
}

// Postgres asks for a database of the test's own on PostgreSQL. It is dropped when the test ends.
func Postgres(opts ...Option) Service { return newService(server.PostgreSQL, opts) }

func (p *PostgresServer) open(ctx context.Context, owner string) (err error) {
	if err := p.acquire(ctx); err != nil {
		return err
	}
	p.url, err = p.CreateDatabase(ctx, owner)
	return err
}

// URL returns the address of the owner's database: postgres://user:password@host:port/database.
func (p *PostgresServer) URL() string {
	p.use()
	return p.url
}

// AdminURL returns the address of the server's maintenance database, for work that concerns the whole
// server or that must go on while URL's database has no connections.
func (p *PostgresServer) AdminURL() string { return p.use().URL }

// Proxy starts a proxy to the server, whose URL is that of the owner's database. It ends with the
// test.
func (p *PostgresServer) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	return NewProxy(tb, p.URL())
}

// NewDatabase creates a further empty database and returns its URL. It is dropped with the first.
func (p *PostgresServer) NewDatabase(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	databaseURL, err := p.CreateDatabase(ctx, tb.Name())
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	return databaseURL
}

// CreateDatabase creates a further empty database, whose name begins like the given one, and returns
// its URL. [Env.Close] drops it. It is safe for concurrent use.
func (p *PostgresServer) CreateDatabase(ctx context.Context, like string) (string, error) {
	u, err := url.Parse(p.AdminURL())
	if err != nil {
		return "", err
	}
	name := uniqueName(like)
	if err := p.admin(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create a database on %s (the user needs the right CREATEDB): %w", p.use().Origin, err)
	}
	p.mu.Lock()
	p.databases = append(p.databases, name)
	p.mu.Unlock()
	u.Path = "/" + name
	return u.String(), nil
}

// end drops the databases, or ends the server with them where it was started for this owner.
func (p *PostgresServer) end() error {
	if p.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if p.exclusive() {
		return p.server.Close(ctx)
	}
	var problems []error
	for _, name := range p.databases {
		problems = append(problems, p.drop(ctx, name))
	}
	return errors.Join(problems...)
}

// drop removes a database with whatever a test left in it. FORCE ends its sessions, but prepared
// transactions block the drop and can only be rolled back from inside.
func (p *PostgresServer) drop(ctx context.Context, name string) error {
	u, err := url.Parse(p.AdminURL())
	if err != nil {
		return err
	}
	u.Path = "/" + name
	if err := rollbackPrepared(ctx, u.String()); err != nil {
		return err
	}
	return p.admin(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

func rollbackPrepared(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil // a test may have dropped or locked its database: DROP will tell
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
	if err != nil {
		return err
	}
	prepared, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, gid := range prepared {
		_, e := conn.Exec(ctx, "ROLLBACK PREPARED '"+strings.ReplaceAll(gid, "'", "''")+"'")
		err = errors.Join(err, e)
	}
	return err
}

// admin runs one statement on a connection of its own: a pool kept for it would look to a test like
// a leak.
func (p *PostgresServer) admin(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, p.AdminURL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}
