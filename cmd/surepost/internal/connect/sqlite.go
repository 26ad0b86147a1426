package connect

import (
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite", in Go alone, so that the binary is static

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

func openSQLite(c *config.Config, raw string, create bool) (*Database, error) {
	path, parameters := sqlitePath(raw)
	if path == "" {
		return nil, kept{"names no file", "write sqlite:///path/of/the/file.db"}
	}
	// A file that isn't there is a wrong path more often than a new database.
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && !create {
		return nil, kept{"the SQLite file " + path + " is not there", "correct database.url, or create it: surepost migrate up"}
	}
	file := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path)}
	query := "_pragma=busy_timeout(5000)&_txlock=immediate"
	if create {
		query = "_pragma=journal_mode(WAL)&" + query // kept in the file; Store.Check demands it of one that others made
	} else {
		query += "&mode=rw"
	}
	if parameters != "" {
		query += "&" + parameters
	}
	db, err := sql.Open("sqlite", file.String()+"?"+query)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite has one writer, and database/sql queues better than SQLite's lock
	store, err := sqlitestore.NewWithConfig(db, sqlitestore.Config{Prefix: c.Database.Prefix})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &Database{Store: store, Kind: SQLite, close: func() { db.Close() }}, nil
}

// sqlitePath returns the path of sqlite:///absolute/path, sqlite://relative/path, sqlite:path, file:path or a path alone.
func sqlitePath(raw string) (path, parameters string) {
	path = raw
	if scheme, rest, found := strings.Cut(raw, ":"); found && (strings.EqualFold(scheme, "sqlite") || strings.EqualFold(scheme, "file")) {
		path = strings.TrimPrefix(rest, "//")
		path, parameters, _ = strings.Cut(path, "?")
		if unescaped, err := url.PathUnescape(path); err == nil {
			path = unescaped
		}
	}
	return path, parameters
}

// tryPrefix asks the store whether the tables' names are possible.
func tryPrefix(c *config.Config, kind Kind) (err error) {
	switch kind {
	case PostgreSQL:
		_, err = pgxstore.NewWithConfig(nil, sqlstore.Config{Schema: c.Database.Schema, Prefix: c.Database.Prefix})
	case MySQL:
		_, err = mysqlstore.NewWithConfig(nil, mysqlstore.Config{Prefix: c.Database.Prefix})
	case SQLite:
		_, err = sqlitestore.NewWithConfig(nil, sqlitestore.Config{Prefix: c.Database.Prefix})
	}
	return err
}
