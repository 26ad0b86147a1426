package harness

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"github.com/surepost/surepost/harness/internal/server"
)

// NewStandby starts a hot standby of a private server, which streams all of its databases, and returns when it does.
// It is a server like the first: it can be killed, stopped and paused by itself, its URL leads to the same database,
// and it ends with the test. Both must be of this machine's binaries: add harness.Image("none").
//
// It streams asynchronously. For a standby that has what the primary has confirmed, set synchronous_standby_names to *
// on the primary afterwards: ALTER SYSTEM, then pg_reload_conf().
func (p *PostgresServer) NewStandby(tb testing.TB) *PostgresServer {
	tb.Helper()
	standby := &PostgresServer{powerSwitch: p.powerSwitch}
	p.flip(tb, "copy", func(s *server.Server, ctx context.Context) (err error) {
		standby.server, err = server.StartStandby(ctx, s)
		return err
	})
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Log("the standby: " + standby.log())
		}
		if err := standby.end(); err != nil {
			tb.Errorf("harness: clean up the standby: %v", err)
		}
	})
	own, err := url.Parse(p.URL())
	if err != nil {
		tb.Fatal(err)
	}
	at, err := url.Parse(standby.server.URL)
	if err != nil {
		tb.Fatal(err)
	}
	own.Host = at.Host
	standby.url = own.String()
	return standby
}

// Promote makes a standby the primary and returns when it takes writes. Nothing else happens: the old primary, if it
// lives, takes writes, too.
func (p *PostgresServer) Promote(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "promote", (*server.Server).Promote)
}

// Disconnect ends a standby's stream for good, and returns when it has ended. What the primary commits from then on is
// missing after a promotion: the tail that an asynchronous standby may lose, as long as a test likes.
func (p *PostgresServer) Disconnect(tb testing.TB) {
	tb.Helper()
	p.flip(tb, "disconnect", (*server.Server).Disconnect)
}

// FailoverURL returns the address of the owner's database on whichever of the two servers takes writes, as libpq and
// pgx understand it: both hosts, and target_session_attrs=read-write.
func (p *PostgresServer) FailoverURL(standby *PostgresServer) string {
	a, b := parsed(p.URL()), parsed(standby.URL())
	query := a.Query()
	query.Set("target_session_attrs", "read-write")
	return fmt.Sprintf("%s://%s@%s,%s%s?%s", a.Scheme, a.User, a.Host, b.Host, a.Path, query.Encode())
}

// parsed is for URLs of our own making.
func parsed(raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		panic("harness: " + err.Error())
	}
	return u
}
