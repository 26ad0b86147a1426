package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
)

// The test binary is also the program of orphan_test.go that gets killed.
func TestMain(m *testing.M) {
	switch os.Getenv(victimVar) {
	case "":
	case bare:
		onABareMachine()
		return
	default:
		victim()
		return
	}
	os.Exit(m.Run())
}

// fakeTB is a test that is expected to fail.
type fakeTB struct {
	testing.TB
	name     string
	failed   bool
	said     bytes.Buffer
	cleanups []func()
}

func (f *fakeTB) Helper()                         {}
func (f *fakeTB) Name() string                    { return "fake" + f.name }
func (f *fakeTB) Failed() bool                    { return f.failed }
func (f *fakeTB) Cleanup(c func())                { f.cleanups = append(f.cleanups, c) }
func (f *fakeTB) Logf(format string, args ...any) { fmt.Fprintf(&f.said, format+"\n", args...) }

func (f *fakeTB) Errorf(format string, args ...any) {
	f.failed = true
	f.Logf(format, args...)
}

func (f *fakeTB) Log(args ...any)   { fmt.Fprintln(&f.said, args...) }
func (f *fakeTB) Fatal(args ...any) { f.Fatalf("%s", fmt.Sprint(args...)) }

func (f *fakeTB) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// run runs a test with a fake and returns what it said, after its cleanups.
func (f *fakeTB) run(test func(testing.TB)) string {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for i := len(f.cleanups) - 1; i >= 0; i-- {
				f.cleanups[i]()
			}
		}()
		test(f)
	}()
	<-done
	return f.said.String()
}

func postgres(tb testing.TB, opts ...Option) *PostgresServer {
	tb.Helper()
	return Start(tb, Postgres(opts...)).Postgres
}

func rabbitMQ(tb testing.TB, opts ...Option) *RabbitMQServer {
	tb.Helper()
	return Start(tb, RabbitMQ(opts...)).RabbitMQ
}

func mariaDB(tb testing.TB, opts ...Option) *MariaDBServer {
	tb.Helper()
	return Start(tb, MariaDB(opts...)).MariaDB
}

func must[T any](t testing.TB, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn := must[*pgx.Conn](t, "connect")(pgx.Connect(t.Context(), url))
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func scalar[T any](t testing.TB, conn *pgx.Conn, sql string) (v T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func dial(t testing.TB, url string) (*amqp.Connection, *amqp.Channel) {
	t.Helper()
	conn := must[*amqp.Connection](t, "dial")(amqp.Dial(url))
	t.Cleanup(func() { _ = conn.Close() })
	return conn, must[*amqp.Channel](t, "open a channel")(conn.Channel())
}

func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

func wantContains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}
