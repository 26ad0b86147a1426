package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/amqp/amqptest"
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
	b := startBroker(t, amqptest.Config{Users: map[string]string{"user": "right"}})
	good := b.URL()
	wrong := strings.Replace(good, "right", "secret", 1)
	silentLogin := startBroker(t, amqptest.Config{Users: map[string]string{"user": "secret"}})
	// What RabbitMQ does for a client that can't be told why.
	silentLogin.Inject(amqptest.Fault{When: amqptest.Received("connection.start-ok"), Do: amqptest.Drop()})
	for name, test := range map[string]struct {
		url  string
		want []string
	}{
		"refused":          {"amqp://user:secret@" + closed.Addr().String(), []string{"nothing listens there", "start RabbitMQ"}},
		"silent":           {"amqp://user:secret@" + silent, []string{"ConnectTimeout (200ms)"}},
		"not AMQP":         {"amqp://user:secret@" + garbled, []string{"doesn't speak AMQP", "15672"}},
		"hangs up":         {"amqp://user:secret@" + hangsUp, []string{"hung up", "just starting behind a proxy", "5672"}},
		"TLS to plain":     {strings.Replace(wrong, "amqp:", "amqps:", 1), []string{"doesn't speak TLS", "5671"}},
		"TLS to HTTP":      {"amqps://user:secret@" + garbled, []string{"doesn't speak TLS", "5671"}},
		"password":         {wrong, []string{`login of user "user"`, "correct user and password"}},
		"password, no why": {silentLogin.URL(), []string{`login of user "user"`, "correct user and password"}},
		"vhost":            {strings.TrimSuffix(good, "/") + "/shop", []string{`vhost "shop"`, `user "user"`, "add_vhost"}},
		"host":             {"amqp://user:secret@surepost.invalid", []string{"surepost.invalid"}},
		"no such auth way": {good + "?auth_mechanism=external", []string{"none of the login mechanisms"}},
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
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "right") {
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
	b := startBroker(t, amqptest.Config{})
	for range 10 {
		l, err := dial(testContext(t), Connection{URLs: []string{"amqp://127.0.0.1:1/", b.URL()}})
		if err != nil {
			t.Fatal(err)
		}
		l.close(testContext(t))
	}
}

func TestTLSIsSpokenAndVerified(t *testing.T) {
	borrowed := httptest.NewTLSServer(nil) // for its certificate, which is valid for 127.0.0.1
	defer borrowed.Close()
	url := tlsFront(t, startBroker(t, amqptest.Config{}), &tls.Config{Certificates: borrowed.TLS.Certificates})
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

// In TLS 1.3 a server refuses a client's certificate when the client takes the handshake to be over.
func TestACertificateThatTheBrokerWantsIsAskedFor(t *testing.T) {
	borrowed := httptest.NewTLSServer(nil)
	defer borrowed.Close()
	roots := x509.NewCertPool()
	roots.AddCert(borrowed.Certificate())
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		url := tlsFront(t, startBroker(t, amqptest.Config{}), &tls.Config{
			Certificates: borrowed.TLS.Certificates, ClientAuth: tls.RequireAnyClientCert, MinVersion: version, MaxVersion: version})
		_, err := dial(testContext(t), Connection{URLs: []string{url}, TLS: &tls.Config{RootCAs: roots}})
		wantText(t, err, "client certificate", "Connection.TLS.Certificates")
	}
}

// tlsFront speaks TLS in front of a broker, and returns the URL.
func tlsFront(t *testing.T, b *amqptest.Broker, config *tls.Config) string {
	t.Helper()
	u, err := url.Parse(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	behind := u.Host
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", behind)
			if err != nil {
				front.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				io.Copy(to, from) // either end shows to the client
				to.Close()
				from.Close()
			}
			go pass(front, back)
			go pass(back, front)
		}
	}()
	u.Scheme, u.Host = "amqps", l.Addr().String()
	return u.String()
}

func TestAFailedConnectLeavesNothingBehind(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	before := runtime.NumGoroutine()
	for range 5 {
		if _, err := dial(testContext(t), Connection{URLs: []string{b.URL() + "?auth_mechanism=external"}}); err == nil {
			t.Fatal("a mechanism that isn't offered works")
		}
	}
	eventually(t, "all goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}
