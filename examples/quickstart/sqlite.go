package main

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite", in Go alone

	"github.com/surepost/surepost/sqlstore/sqlitestore"
)

// openSQLite opens a service's database, a file.
func openSQLite(dsn string) (*sql.DB, store, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, nil, err
	}
	// One transaction writes at a time. With one connection those of this process take turns, in the order in which they
	// came; with several, SQLite's waiting is a lottery, in which a busy service can shut out its relay for seconds.
	db.SetMaxOpenConns(1)
	return db, sqlitestore.New(db), nil
}

// makeFolder makes a temporary folder with room for a file for each service. It returns a function that removes it.
func makeFolder() (dsns map[string]string, remove func() error, err error) {
	folder, err := os.MkdirTemp("", "surepost-quickstart-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for the databases: %w: set TMPDIR to one that can be written to", err)
	}
	dsns = map[string]string{}
	for _, service := range serviceNames {
		dsns[service] = sqliteDSN(filepath.Join(folder, service+".db"))
	}
	return dsns, func() error { return os.RemoveAll(folder) }, nil
}

// sqliteDSN says what Surepost needs of an SQLite file: a write-ahead log, so that the relay and the writers don't block
// each other, and writers that wait for each other, from the beginning of their transactions.
func sqliteDSN(path string) string {
	file := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path)}
	return file.String() + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate"
}
