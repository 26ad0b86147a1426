package amqp

import (
	"bytes"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/internal/sqlitecode"
	sqlite "github.com/surepost/surepost/internal/sqlitecode/testdata/modernc"
)

// TestOutagesAreToldFromFailures: an outage must not spend attempts, and a poison message must.
func TestOutagesAreToldFromFailures(t *testing.T) {
	expired, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	refused := func(dsn string) error {
		_, err := pgconn.Connect(t.Context(), dsn)
		return err
	}
	_, notStarted := (&net.Dialer{}).DialContext(expired, "tcp", "127.0.0.1:1")
	_, httpTimeout := (&http.Client{Timeout: time.Nanosecond}).Get("http://127.0.0.1:1")
	_, httpScheme := http.Get("gopher://127.0.0.1")
	op := func(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }

	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"pgx can't connect", refused("postgres://u@127.0.0.1:1/db"), true},
		{"pgx can't connect, joined", errors.Join(errors.New("work"), refused("postgres://u@127.0.0.1:1/db")), true},
		{"dial without time", notStarted, true},
		{"dial refused", op("dial", syscall.ECONNREFUSED), true},
		{"unknown host", &net.DNSError{Err: "no such host", Name: "db"}, true},
		{"read: reset", op("read", syscall.ECONNRESET), true},
		{"write: broken pipe", op("write", os.NewSyscallError("write", syscall.EPIPE)), true},
		{"read: timeout of the driver's", op("read", os.ErrDeadlineExceeded), true},
		{"reset, bare", syscall.ECONNRESET, true},
		{"bad connection", driver.ErrBadConn, true},
		{"EOF", io.EOF, true},
		{"cut in the middle", fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), true},
		{"closed connection", net.ErrClosed, true},
		{"never sent", safeToRetry{errors.New("conn closed")}, true},
		{"HTTP service is down", func() error { _, err := http.Get("http://127.0.0.1:1"); return err }(), true},
		{"connection exception", sqlError("08006"), true},
		{"too many connections", sqlError("53300"), true},
		{"disk full", sqlError("53100"), true},
		{"admin shutdown", &pgconn.PgError{Code: "57P01"}, true},
		{"crash shutdown", sqlError("57P02"), true},
		{"cannot connect now", sqlError("57P03"), true},
		{"read-only after a failover", sqlError("25006"), true},
		{"SQLite's disk is full", fmt.Errorf("insert: %w", &sqlite.Error{N: sqlitecode.Full}), true},
		{"SQLite's file is out of reach", &sqlite.Error{N: sqlitecode.CantOpen}, true},
		{"SQLite's disk fails, extended", &sqlite.Error{N: sqlitecode.IOErr | 3<<8}, true},
		{"joined with a failure", errors.Join(errors.New("no"), sqlError("57P01")), true},

		{"nil", nil, false},
		{"plain", errors.New("no stock"), false},
		{"time was up", context.DeadlineExceeded, false},
		{"called off", context.Canceled, false},
		{"time was up before sending", safeToRetry{context.DeadlineExceeded}, false},
		{"time was up while reading", errors.Join(op("read", os.ErrDeadlineExceeded), context.DeadlineExceeded), false},
		{"rows left open", safeToRetry{errors.New("conn busy")}, false},
		{"HTTP client's timeout", httpTimeout, false},
		{"HTTP mistake", httpScheme, false},
		{"statement timeout", sqlError("57014"), false},
		{"unique violation", sqlError("23505"), false},
		{"no such table", sqlError("42P01"), false},
		{"serialization failure", sqlError("40001"), false},
		{"odd state", sqlError("8"), false},
		{"SQLite's constraint", &sqlite.Error{N: 19}, false},
		{"SQLite's lock, in a handler", &sqlite.Error{N: sqlitecode.Busy}, false},
		{"JSON", json.Unmarshal([]byte("{"), new(int)), false},
		{"panic", &inbox.PanicError{Value: "boom"}, false},
	} {
		if got := IsOutage(test.err); got != test.want {
			t.Errorf("%s: IsOutage(%v) is %v, want %v", test.name, test.err, got, test.want)
		}
	}
	// The price, and the reason why the documentation asks for inbox.Permanent.
	if err := json.NewDecoder(bytes.NewReader([]byte("{"))).Decode(new(any)); !IsOutage(err) {
		t.Errorf("a decoder's %v is told from a cut connection now: change the documentation", err)
	}
}

func TestConflictsAreNeitherOutagesNorFailures(t *testing.T) {
	for state, want := range map[string]bool{"40001": true, "40P01": true, "55P03": true, "23505": false, "57P01": false} {
		if got := isConflict(fmt.Errorf("commit: %w", sqlError(state))); got != want {
			t.Errorf("%s: %v, want %v", state, got, want)
		}
	}
	for code, want := range map[int]bool{
		sqlitecode.Busy: true, sqlitecode.BusySnapshot: true, sqlitecode.LockedSharedCache: true, 6: false, sqlitecode.Full: false, 19: false,
	} {
		if got := isConflict(fmt.Errorf("commit: %w", &sqlite.Error{N: code})); got != want {
			t.Errorf("SQLite's %d: %v, want %v", code, got, want)
		}
	}
}
