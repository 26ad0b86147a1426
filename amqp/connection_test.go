package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestEveryProblemOfAConnectionIsNamedAtOnce(t *testing.T) {
	c := Connection{
		URLs:           []string{"http://host/", "amqp://user:p#ss@host/", "amqp://host/?heartbeat=5", "amqp:///", "amqp://host/"},
		TLS:            &tls.Config{},
		Heartbeat:      1500 * time.Millisecond,
		ConnectTimeout: -1,
	}.withDefaults()
	wantText(t, errors.Join(c.validate()...), "URLs[0]", `scheme "http"`, "URLs[1]", "percent-encoded", "URLs[2]", "heartbeat",
		"URLs[3]", "names no host", "TLS is set", "Heartbeat is 1.5s", "ConnectTimeout is -1ns")
	wantText(t, errors.Join(Connection{}.withDefaults().validate()...), "set Connection.URLs")
	if errs := (Connection{URLs: []string{"amqp://localhost"}}).withDefaults().validate(); len(errs) != 0 {
		t.Errorf("the defaults have problems: %v", errs)
	}
}

func TestNoPasswordIsEverShown(t *testing.T) {
	for _, u := range []string{
		"amqp://user:hunter2@host:1/v", "http://user:hunter2@host", "amqp://user:hunter2#x@host", "amqp://user:hunter2/x@host",
		"amqp://user:hunter2?x@host", "amqp://user:1234/hunter2@host", "amqp://user:12?hunter2@host", "amqp://user:12#hunter2@host",
		"amqp://user:hunter2@host/%zz", "amqp://user:hunter2@host/?heartbeat=5", "amqp://:hunter2@/v", "amqp://user:hunter2@ho st/",
	} {
		c := Connection{URLs: []string{u}}.withDefaults()
		shown := fmt.Sprint(c, c.validate()) + fmt.Sprintf("%+v %#v", c, PublisherConfig{Connection: c})
		if strings.Contains(shown, "hunter2") {
			t.Errorf("%s shows its password: %s", u, shown)
		}
	}
}

func TestConnectErrorsNameTheRemedy(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent := newSilentServer(t, nil)
	hangsUp := newHangUpServer(t)
	garbled := newSilentServer(t, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	loginFails := newPeer(t, script{method: func(c *peerConn, class, method uint16, _ []byte) bool {
		if class == classConnection && method == 11 {
			c.Close() // what RabbitMQ does for a client that can't be told
			return true
		}
		return false
	}})
	noVhost := newPeer(t, script{method: func(c *peerConn, class, method uint16, _ []byte) bool {
		if class == classConnection && method == 40 {
			c.closeConnection(530, "NOT_ALLOWED - vhost shop not found")
			return true
		}
		return false
	}})
	for name, test := range map[string]struct {
		url  string
		want []string
	}{
		"refused":          {"amqp://user:secret@" + closed.Addr().String(), []string{"nothing listens there", "start RabbitMQ"}},
		"silent":           {"amqp://user:secret@" + silent, []string{"ConnectTimeout (200ms)"}},
		"not AMQP":         {"amqp://user:secret@" + garbled, []string{"doesn't speak AMQP", "15672"}},
		"hangs up":         {"amqp://user:secret@" + hangsUp, []string{"hung up", "just starting behind a proxy", "5672"}},
		"TLS to plain":     {strings.Replace(loginFails.url(), "amqp:", "amqps:", 1), []string{"doesn't speak TLS", "5671"}},
		"TLS to HTTP":      {"amqps://user:secret@" + garbled, []string{"doesn't speak TLS", "5671"}},
		"password":         {loginFails.url(), []string{`login of user "user"`, "correct user and password"}},
		"vhost":            {strings.TrimSuffix(noVhost.url(), "/") + "/shop", []string{`vhost "shop"`, `user "user"`, "add_vhost"}},
		"host":             {"amqp://user:secret@surepost.invalid", []string{"surepost.invalid"}},
		"no such auth way": {loginFails.url() + "?auth_mechanism=external", []string{"none of the login mechanisms"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Connection{URLs: []string{test.url}}
			if name == "silent" {
				c.ConnectTimeout = 200 * time.Millisecond
			}
			l, err := dial(testContext(t), c)
			if err == nil {
				l.close(testContext(t))
			}
			wantText(t, err, test.want...)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
			var ce *ConnectError
			if !errors.As(err, &ce) {
				t.Errorf("%T isn't a *ConnectError", err)
			}
		})
	}
}

// newSilentServer accepts connections, answers with greeting and then nothing.
func newSilentServer(t *testing.T, greeting []byte) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write(greeting)
			defer c.Close()
		}
	}()
	return l.Addr().String()
}

// newHangUpServer accepts connections and closes them, as a published port of a container does before the server in
// it listens.
func newHangUpServer(t *testing.T) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

func TestADeadNodeIsSkipped(t *testing.T) {
	p := newPeer(t, script{})
	for range 10 {
		l, err := dial(testContext(t), Connection{URLs: []string{"amqp://127.0.0.1:1/", p.url()}})
		if err != nil {
			t.Fatal(err)
		}
		l.close(testContext(t))
	}
}

func TestAnRPCWithoutAnswerCutsTheConnection(t *testing.T) {
	p := newPeer(t, script{method: func(_ *peerConn, class, _ uint16, _ []byte) bool { return class == classChannel }})
	l, err := dial(testContext(t), Connection{URLs: []string{p.url()}, RPCTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ended := l.NotifyClose(make(chan *amqp091.Error, 1))
	_, err = l.channel(testContext(t))
	wantText(t, err, "open a channel", "RPCTimeout (50ms)")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v doesn't match context.DeadlineExceeded", err)
	}
	within(t, time.Second, "end of the connection", func() { <-ended })
}

func TestTLSIsSpokenAndVerified(t *testing.T) {
	borrowed := httptest.NewTLSServer(nil) // for its certificate, which is valid for 127.0.0.1
	defer borrowed.Close()
	p := newPeer(t, script{tls: &tls.Config{Certificates: borrowed.TLS.Certificates}})
	url := strings.Replace(p.url(), "amqp:", "amqps:", 1)
	_, err := dial(testContext(t), Connection{URLs: []string{url}})
	wantText(t, err, "unknown authority", "Connection.TLS.RootCAs")

	roots := x509.NewCertPool()
	roots.AddCert(borrowed.Certificate())
	_, err = dial(testContext(t), Connection{URLs: []string{url}, TLS: &tls.Config{RootCAs: roots, ServerName: "elsewhere"}})
	wantText(t, err, "certificate isn't for", "Connection.TLS.ServerName")

	publisher, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{url}, TLS: &tls.Config{RootCAs: roots}}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := publisher.Open(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for tag := range uint64(100) {
		send(t, s.(*session), tag, testEvent("e"))
	}
	if err := s.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	if got := receive(t, s.(*session), 100); len(got) != 100 {
		t.Errorf("%d of 100 outcomes", len(got))
	}
}

func TestAFailedConnectLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPeer(t, script{})
	for range 5 {
		if _, err := dial(testContext(t), Connection{URLs: []string{p.url() + "?auth_mechanism=external"}}); err == nil {
			t.Fatal("a mechanism that isn't offered works")
		}
	}
	p.listener.Close()
	eventually(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
}

func TestConnectingSharesNothingWithTheCaller(t *testing.T) {
	base := &tls.Config{}
	first, second := tlsConfig(base, "one"), tlsConfig(base, "two")
	if base.ServerName != "" || first.ServerName != "one" || second.ServerName != "two" {
		t.Errorf("server names: caller's %q, %q, %q", base.ServerName, first.ServerName, second.ServerName)
	}
	if first.MinVersion != tls.VersionTLS12 {
		t.Errorf("the oldest TLS is %x", first.MinVersion)
	}
}
