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

// MariaDB asks for a database of the test's own on MariaDB. It is dropped when the test ends.
func MariaDB(opts ...Option) Service { return newService(server.MariaDB, opts) }

func (m *MariaDBServer) open(ctx context.Context, owner string) (err error) {
	if err := m.acquire(ctx); err != nil {
		return err
	}
	m.url, err = m.CreateDatabase(ctx, owner)
	return err
}

// URL returns the address of the owner's database: mysql://user:password@host:port/database.
func (m *MariaDBServer) URL() string {
	m.use()
	return m.url
}

// DSN returns the same address as github.com/go-sql-driver/mysql wants it, with the one parameter
// that Go programs need, parseTime: user:password@tcp(host:port)/database?parseTime=true.
func (m *MariaDBServer) DSN() string { return MariaDBDSN(m.URL()) }

// AdminURL returns the address of the server without a database, for work that concerns the whole
// server.
func (m *MariaDBServer) AdminURL() string { return m.use().URL }

// MariaDBDSN returns the data source name of a URL that this package gave, as for DSN. It panics
// where it is not one.
func MariaDBDSN(databaseURL string) string {
	cfg, err := server.MariaDBConfig(databaseURL)
	if err != nil {
		panic("harness: " + err.Error())
	}
	return cfg.FormatDSN()
}

// Proxy starts a proxy to the server, whose URL is that of the owner's database. [MariaDBDSN] makes a
// data source name of it. It ends with the test.
func (m *MariaDBServer) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	return NewProxy(tb, m.URL())
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
// its URL. [Env.Close] drops it. It is safe for concurrent use.
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
		return "", fmt.Errorf("create a database on %s (the user needs all rights on *.*): %w", m.use().Origin, err)
	}
	m.mu.Lock()
	m.databases = append(m.databases, name)
	m.mu.Unlock()
	u.Path = "/" + name
	return u.String(), nil
}

// end drops the databases, or ends the server with them where it was started for this owner.
func (m *MariaDBServer) end() error {
	if m.server == nil {
		return nil
	}
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
