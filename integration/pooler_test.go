package integration

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
)

// pooler stands in for a connection pooler: its clients don't notice that the server behind it was replaced.
type pooler struct {
	url    string
	server driver.Conn
}

func (p *pooler) Driver() driver.Driver { return nil }

func (p *pooler) Connect(context.Context) (driver.Conn, error) {
	if p.server == nil {
		if err := p.dial(); err != nil {
			return nil, err
		}
	}
	return pooled{p}, nil
}

func (p *pooler) dial() (err error) {
	p.server, err = stdlib.GetDefaultDriver().Open(p.url)
	return err
}

func (p *pooler) reconnect(t *testing.T) {
	t.Helper()
	if err := p.dial(); err != nil {
		t.Fatal(err)
	}
}

type pooled struct{ p *pooler }

func (c pooled) Prepare(query string) (driver.Stmt, error) { return c.p.server.Prepare(query) }
func (c pooled) Close() error                              { return nil }
func (c pooled) Begin() (driver.Tx, error)                 { return nil, errors.New("not needed") }

func (c pooled) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.p.server.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c pooled) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.p.server.(driver.ExecerContext).ExecContext(ctx, query, args)
}
