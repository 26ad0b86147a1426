package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Connection says how to reach RabbitMQ. It is part of PublisherConfig and ConsumerConfig.
type Connection struct {
	// URLs are the addresses of the cluster's nodes, amqp:// or amqps://, with user, password and vhost. They are
	// tried in random order at each connect, so that clients spread over the nodes. Required, at least one. Of the
	// query parameters of RabbitMQ's URI specification only auth_mechanism is taken (plain, amqplain, external): the
	// others have fields here.
	URLs []string

	// TLS is how to speak to amqps:// URLs. Default: verify the node's certificate against the system's roots and
	// the URL's host. It is copied for each connect; versions below TLS 1.2 are never spoken.
	TLS *tls.Config

	// Name is shown for the connection in RabbitMQ's management pages. Default: the program's name and process id.
	Name string

	// Heartbeat is the interval at which both sides prove that they live, in whole seconds; the peer is given up
	// after two missed ones. Default 10 s, the client library's own. At least 1 s.
	Heartbeat time.Duration

	// ConnectTimeout bounds TCP connect, TLS and AMQP handshake of one attempt. Default 10 s.
	ConnectTimeout time.Duration

	// WriteTimeout bounds one write to the socket: a peer that accepts nothing for so long is given up. Default 60 s:
	// a broker under load stops reading for a while on purpose. It doesn't count while the broker says that it is
	// blocked.
	WriteTimeout time.Duration

	// RPCTimeout bounds one request to the broker (declare, bind, open a channel). Default 15 s: a cluster may need
	// seconds to elect a leader.
	RPCTimeout time.Duration
}

// frameBytes is the largest frame that is asked for: RabbitMQ's own default (frame_max), and the client library's.
// Larger messages are split.
const frameBytes = 128 << 10

// cutGrace is how long a call waits for the client library to return once its socket is closed. It takes well
// under a millisecond; the limit only makes sure that no call waits for ever.
const cutGrace = time.Second

func (c Connection) withDefaults() Connection {
	if c.Name == "" {
		c.Name = filepath.Base(os.Args[0]) + "[" + strconv.Itoa(os.Getpid()) + "]"
	}
	for _, d := range []struct {
		value     *time.Duration
		byDefault time.Duration
	}{
		{&c.Heartbeat, 10 * time.Second},
		{&c.ConnectTimeout, 10 * time.Second},
		{&c.WriteTimeout, 60 * time.Second},
		{&c.RPCTimeout, 15 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.byDefault
		}
	}
	return c
}

// validate checks a connection with its defaults filled in.
func (c Connection) validate() []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("amqp: "+format, args...)) }
	if len(c.URLs) == 0 {
		add(`no URL: set Connection.URLs, for example "amqp://guest:guest@localhost:5672/"`)
	}
	plain := 0
	for i, u := range c.URLs {
		n, err := parseNode(u)
		if err != nil {
			add("Connection.URLs[%d]: %w", i, err)
		} else if !n.tls {
			plain++
		}
	}
	if c.TLS != nil && plain > 0 {
		add("Connection.TLS is set, but %d of %d URLs are amqp://, which isn't encrypted: use amqps://",
			plain, len(c.URLs))
	}
	if len(c.Name) > 1024 {
		add("Connection.Name is %d bytes long, the limit is 1024: shorten it", len(c.Name))
	}
	if c.Heartbeat < time.Second || c.Heartbeat > 65535*time.Second || c.Heartbeat%time.Second != 0 {
		add("Connection.Heartbeat is %s: AMQP counts it in whole seconds from 1 to 65535", c.Heartbeat)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"ConnectTimeout", c.ConnectTimeout}, {"WriteTimeout", c.WriteTimeout}, {"RPCTimeout", c.RPCTimeout}} {
		if d.value < 0 {
			add("Connection.%s is %s: set a positive limit, or 0 for the default", d.name, d.value)
		}
	}
	return errs
}

// String shows the connection without its passwords, so that a config can be logged.
func (c Connection) String() string {
	nodes := make([]string, len(c.URLs))
	for i, u := range c.URLs {
		nodes[i] = "(bad URL)"
		if n, err := parseNode(u); err == nil {
			nodes[i] = n.redacted
		}
	}
	return c.Name + " to " + strings.Join(nodes, ", ")
}

// GoString is String: %#v doesn't show passwords either.
func (c Connection) GoString() string { return c.String() }

// node is one address of a cluster.
type node struct {
	uri      amqp091.URI
	tls      bool
	redacted string // the URL without its password, for messages
}

// parseNode reads one URL. Its errors never quote the URL: net/url's would show the password, or what it took for a
// port when the password contains a slash; what comes behind a slash it took for the vhost.
func parseNode(raw string) (node, error) {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil && strings.Contains(raw, "@") || strings.Contains(u.EscapedPath()+u.RawQuery+u.Fragment, "@") {
		return node{}, errors.New("can't be parsed (it isn't shown, since it may hold a password): " +
			"write amqp://user:password@host:port/vhost, with : / ? # @ % and spaces in user, password and vhost " +
			"percent-encoded, as net/url.UserPassword does")
	}
	if u.Scheme != "amqp" && u.Scheme != "amqps" {
		return node{}, fmt.Errorf("has the scheme %q: use amqp:// (port 5672) or amqps:// (TLS, port 5671)", u.Scheme)
	}
	if u.Hostname() == "" {
		return node{}, fmt.Errorf("%s names no host: write %s://user:password@host:port/vhost", redact(u), u.Scheme)
	}
	for name, values := range u.Query() {
		if name != "auth_mechanism" {
			return node{}, fmt.Errorf("%s has the parameter %s: remove it from the URL, and set it by a field of Connection "+
				"(TLS, Heartbeat, ConnectTimeout)", redact(u), name)
		}
		for _, v := range values {
			if !strings.EqualFold(v, "plain") && !strings.EqualFold(v, "amqplain") && !strings.EqualFold(v, "external") {
				return node{}, fmt.Errorf("%s has the auth_mechanism %q: use plain, amqplain or external", redact(u), v)
			}
		}
	}
	uri, err := amqp091.ParseURI(raw)
	if err != nil {
		return node{}, fmt.Errorf("%s isn't an AMQP URI: write amqp://user:password@host:port/vhost, without spaces",
			redact(u))
	}
	if len(uri.Vhost) > 255 {
		return node{}, fmt.Errorf("%s: the vhost's name is %d bytes long, the limit is 255", redact(u), len(uri.Vhost))
	}
	return node{uri: uri, tls: u.Scheme == "amqps", redacted: redact(u)}, nil
}

// redact shows a URL without its password and its query.
func redact(u *url.URL) string {
	bare := *u
	bare.RawQuery, bare.Fragment = "", ""
	return bare.Redacted()
}

func (n node) address() string { return net.JoinHostPort(n.uri.Host, strconv.Itoa(n.uri.Port)) }

// sasl returns fresh credentials: the library blanks the password of those that it was given.
func (n node) sasl() []amqp091.Authentication {
	if len(n.uri.AuthMechanism) == 0 {
		return []amqp091.Authentication{n.uri.PlainAuth()}
	}
	var auth []amqp091.Authentication
	for _, mechanism := range n.uri.AuthMechanism {
		switch strings.ToLower(mechanism) {
		case "plain":
			auth = append(auth, n.uri.PlainAuth())
		case "amqplain":
			auth = append(auth, n.uri.AMQPlainAuth())
		case "external":
			auth = append(auth, &amqp091.ExternalAuth{})
		}
	}
	return auth
}

// link is one connection to one node. It never reconnects: after an error a new one is dialled, so that nothing of an
// old session (a delivery tag, an unconfirmed message) can be taken for one of the new.
type link struct {
	*amqp091.Connection
	raw net.Conn // closing it ends everything on the connection at once

	guard      *guardedConn
	node       node
	rpcTimeout time.Duration
}

// dial connects to one of the nodes, the first that answers.
func dial(ctx context.Context, c Connection) (*link, error) {
	c = c.withDefaults()
	if err := errors.Join(c.validate()...); err != nil {
		return nil, err
	}
	var errs []error
	for _, i := range rand.Perm(len(c.URLs)) {
		n, err := parseNode(c.URLs[i])
		if err != nil {
			return nil, err // not reached: validate has parsed it
		}
		l, err := dialNode(ctx, c, n)
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, fmt.Errorf("amqp: none of %d nodes could be connected to: %w", len(errs), errors.Join(errs...))
}

// dialNode makes one attempt at one node. The library is handed a connection that is ready for AMQP, and a config of
// its own: it writes to what it is given.
func dialNode(ctx context.Context, c Connection, n node) (*link, error) {
	attempt, cancel := context.WithTimeoutCause(ctx, c.ConnectTimeout,
		fmt.Errorf("no answer within ConnectTimeout (%s): %w", c.ConnectTimeout, context.DeadlineExceeded))
	defer cancel()
	fail := func(during step, err error) (*link, error) {
		if attempt.Err() != nil {
			err = context.Cause(attempt)
		}
		return nil, explainConnect(n, during, err)
	}

	raw, err := (&net.Dialer{}).DialContext(attempt, "tcp", n.address())
	if err != nil {
		return fail(connecting, err)
	}
	conn := raw
	if n.tls {
		secured := tls.Client(raw, tlsConfig(c.TLS, n.uri.Host))
		if err := secured.HandshakeContext(attempt); err != nil {
			raw.Close()
			return fail(securing, err)
		}
		conn = secured
	}

	guarded := guard(conn, raw, c.WriteTimeout, c.ConnectTimeout+cutGrace) // attempt ends first, and says so
	stop := context.AfterFunc(attempt, func() { raw.Close() })
	properties := amqp091.NewConnectionProperties()
	properties.SetClientConnectionName(c.Name)
	opened, err := amqp091.Open(guarded, amqp091.Config{
		SASL: n.sasl(), Vhost: n.uri.Vhost, Heartbeat: c.Heartbeat, FrameSize: frameBytes, Locale: "en_US",
		Properties: properties,
		Recovery:   nil, // it acknowledges wrong messages: delivery tags of the old session are sent on the new one
	})
	if !stop() && err == nil {
		err = context.Cause(attempt) // the socket is being closed
	}
	if err != nil {
		cause := guarded.cause()
		raw.Close() // the library leaves it open after some errors
		return fail(handshaking, loginError{err, cause})
	}
	guarded.setIdleTimeout(2 * opened.Config.Heartbeat)
	return &link{Connection: opened, raw: raw, guard: guarded, node: n, rpcTimeout: c.RPCTimeout}, nil
}

func tlsConfig(base *tls.Config, host string) *tls.Config {
	config := &tls.Config{}
	if base != nil {
		config = base.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	return config
}

// vhost returns the virtual host's name, for messages.
func (l *link) vhost() string { return l.node.uri.Vhost }

// channel opens a channel within RPCTimeout.
func (l *link) channel(ctx context.Context) (*amqp091.Channel, error) {
	var ch *amqp091.Channel
	err := l.do(ctx, "open a channel", func() (err error) {
		ch, err = l.Connection.Channel()
		return err
	})
	if err != nil {
		return nil, err // ch may still be written to
	}
	return ch, nil
}

// do runs one RPC within RPCTimeout and ctx; when it runs out of time the socket is closed, which makes the RPC
// return. The library has no other way to end a call that has begun. After an error of do, what rpc writes to must
// not be read.
func (l *link) do(ctx context.Context, what string, rpc func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("amqp: %s: %w", what, context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, l.rpcTimeout,
		fmt.Errorf("no answer from %s within RPCTimeout (%s): %w", l.node.address(), l.rpcTimeout, context.DeadlineExceeded))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- rpc() }()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		if cause := l.guard.cause(); cause != nil && errors.Is(err, amqp091.ErrClosed) {
			err = fmt.Errorf("%w (the connection was lost: %w)", err, cause)
		}
		return fmt.Errorf("amqp: %s: %w", what, err)
	case <-ctx.Done():
		l.raw.Close()
		waitAtMost(done, cutGrace)
		return fmt.Errorf("amqp: %s: %w", what, context.Cause(ctx))
	}
}

// close closes the connection in good order until ctx ends, but no longer than RPCTimeout, then cuts it.
func (l *link) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.rpcTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	done := make(chan error, 1)
	go func() { done <- l.Connection.CloseDeadline(deadline) }()
	select {
	case err := <-done:
		l.raw.Close()
		if err != nil && !errors.Is(err, amqp091.ErrClosed) {
			return fmt.Errorf("amqp: close the connection to %s: %w", l.node.address(), err)
		}
		return nil
	case <-ctx.Done():
		// CloseDeadline may not even have got to its deadline: it first takes locks that a blocked publish holds.
		l.raw.Close()
		waitAtMost(done, cutGrace)
		return fmt.Errorf("amqp: close the connection to %s: it was cut: %w", l.node.address(), context.Cause(ctx))
	}
}

// waitAtMost waits for done, but not longer than d.
func waitAtMost(done <-chan error, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
