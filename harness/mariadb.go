package harness

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/surepost/surepost/harness/internal/server"
)

// MariaDBServer is a MariaDB server and a database on it that belongs to one test or program.
type MariaDBServer struct {
	powerSwitch
	url string

	mu        sync.Mutex
	databases []string // to be dropped
}

// MariaDB returns a database of this test's own, on a server that the tests of this process share,
// or on its own with Private. The database is dropped when the test ends.
func MariaDB(tb testing.TB, opts ...Option) *MariaDBServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	m, err := openMariaDB(ctx, tb.Name(), sharedMariaDB, opts)
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	m.closeAfter(tb, m.Close)
	return m
}

// StartMariaDB is MariaDB for a program that is not a test: it returns a server for this program,
// which Close ends. Its methods that take a testing.TB are for tests.
func StartMariaDB(ctx context.Context, opts ...Option) (*MariaDBServer, error) {
	return openMariaDB(ctx, "main", nil, opts)
}

func openMariaDB(ctx context.Context, name string, shared sharedServer, opts []Option) (*MariaDBServer, error) {
	power, err := acquire(ctx, server.MariaDB, shared, opts)
	if err != nil {
		return nil, err
	}
	m := &MariaDBServer{powerSwitch: power}
	if m.url, err = m.CreateDatabase(ctx, name); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// URL returns the address of the owner's database: mysql://user:password@host:port/database.
func (m *MariaDBServer) URL() string { return m.url }

// DSN returns the same address as github.com/go-sql-driver/mysql wants it, with the one parameter
// that Go programs need, parseTime: user:password@tcp(host:port)/database?parseTime=true.
func (m *MariaDBServer) DSN() string { return MariaDBDSN(m.url) }

// AdminURL returns the address of the server without a database, for work that concerns the whole
// server.
func (m *MariaDBServer) AdminURL() string { return m.server.URL }

// MariaDBDSN returns the data source name of a URL that this package gave, as for DSN. It panics
// where it is not one.
func MariaDBDSN(databaseURL string) string {
	cfg, err := server.MariaDBConfig(databaseURL)
	if err != nil {
		panic("harness: " + err.Error())
	}
	return cfg.FormatDSN()
}

// NewDatabase creates a further empty database and returns its URL. It is dropped with the first.
func (m *MariaDBServer) NewDatabase(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	databaseURL, err := m.CreateDatabase(ctx, tb.Name())
	if err != nil {
		tb.Fatalf("harness: %v", err)
	}
	return databaseURL
}

// CreateDatabase creates a further empty database, whose name begins like the given one, and returns
// its URL. Close drops it. It is safe for concurrent use.
func (m *MariaDBServer) CreateDatabase(ctx context.Context, like string) (string, error) {
	u, err := url.Parse(m.AdminURL())
	if err != nil {
		return "", err
	}
	name := uniqueName(like)
	err = m.admin(func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "CREATE DATABASE "+name)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("create a database on %s (the user needs all rights on *.*): %w", m.server.Origin, err)
	}
	m.mu.Lock()
	m.databases = append(m.databases, name)
	m.mu.Unlock()
	u.Path = "/" + name
	return u.String(), nil
}

// Close drops the databases and ends the server if it was started for this owner. It has its own
// time limit, so it may be deferred after an interrupt. Call it once.
func (m *MariaDBServer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if m.exclusive() {
		return m.server.Close(ctx)
	}
	var problems []error
	for _, name := range m.databases {
		problems = append(problems, m.admin(func(db *sql.DB) error { return dropDatabase(ctx, db, name) }))
	}
	return errors.Join(problems...)
}

// dropDatabase removes a database with whatever a test left in it. A session that holds a lock there
// would block the drop for as long as it lives, so the database's sessions are ended first. One that
// came by another way holds it up for lock_wait_timeout.
func dropDatabase(ctx context.Context, db *sql.DB, name string) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	rows, err := conn.QueryContext(ctx, "SELECT id FROM information_schema.processlist WHERE db = ?", name)
	if err != nil {
		return err
	}
	defer rows.Close()
	var sessions []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		sessions = append(sessions, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range sessions {
		_, _ = conn.ExecContext(ctx, fmt.Sprintf("KILL %d", id)) // it may have gone by itself
	}
	if _, err := conn.ExecContext(ctx, "SET SESSION lock_wait_timeout = 20"); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name)
	return err
}

// admin works on connections of its own: what is kept would look to a test like a leak.
func (m *MariaDBServer) admin(work func(*sql.DB) error) error {
	db, err := server.OpenMariaDB(m.AdminURL())
	if err != nil {
		return err
	}
	return errors.Join(work(db), db.Close())
}
