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

// Postgres returns a database of this test's own, on a server that the tests of this process share,
// or on its own with Private. The database is dropped when the test ends.
func Postgres(tb testing.TB, opts ...Option) *PostgresServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	p, err := openPostgres(ctx, tb.Name(), sharedPostgres, opts)
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	p.closeAfter(tb, p.Close)
	return p
}

// StartPostgres is Postgres for a program that is not a test: it returns a server for this program,
// which Close ends. Its methods that take a testing.TB are for tests.
func StartPostgres(ctx context.Context, opts ...Option) (*PostgresServer, error) {
	return openPostgres(ctx, "main", nil, opts)
}

func openPostgres(ctx context.Context, name string, shared sharedServer, opts []Option) (*PostgresServer, error) {
	power, err := acquire(ctx, server.PostgreSQL, shared, opts)
	if err != nil {
		return nil, err
	}
	p := &PostgresServer{powerSwitch: power}
	if p.url, err = p.CreateDatabase(ctx, name); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// URL returns the address of the owner's database: postgres://user:password@host:port/database.
func (p *PostgresServer) URL() string { return p.url }

// AdminURL returns the address of the server's maintenance database, for work that concerns the whole
// server or that must go on while URL's database has no connections.
func (p *PostgresServer) AdminURL() string { return p.server.URL }

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
// its URL. Close drops it. It is safe for concurrent use.
func (p *PostgresServer) CreateDatabase(ctx context.Context, like string) (string, error) {
	u, err := url.Parse(p.AdminURL())
	if err != nil {
		return "", err
	}
	name := uniqueName(like)
	if err := p.admin(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create a database on %s (the user needs the right CREATEDB): %w", p.server.Origin, err)
	}
	p.mu.Lock()
	p.databases = append(p.databases, name)
	p.mu.Unlock()
	u.Path = "/" + name
	return u.String(), nil
}

// Close drops the databases and ends the server if it was started for this owner. It has its own
// time limit, so it may be deferred after an interrupt. Call it once.
func (p *PostgresServer) Close() error {
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
