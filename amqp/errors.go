package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/relay"
)

// ConnectError says why a node couldn't be connected to.
type ConnectError struct {
	URL     string // without its password
	Problem string
	Remedy  string
	Err     error // the cause
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("amqp: connect to %s: %s: %s (%v)", e.URL, e.Problem, e.Remedy, e.Err)
}

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// step is how far an attempt to connect had come.
type step int

const (
	connecting  step = iota // TCP
	securing                // TLS
	handshaking             // AMQP
)

// loginError is an error of the AMQP handshake with what happened to the socket meanwhile, which is often the better
// explanation: the library takes any loss of the socket during login for wrong credentials.
type loginError struct {
	err    error
	socket error // nil if the socket was fine
}

func (e loginError) Error() string {
	if e.socket != nil && !errors.Is(e.socket, net.ErrClosed) {
		return e.err.Error() + "; socket: " + e.socket.Error()
	}
	return e.err.Error()
}

func (e loginError) Unwrap() []error {
	if e.socket == nil {
		return []error{e.err}
	}
	return []error{e.err, e.socket}
}

// explainConnect turns what happened during an attempt to connect into what is wrong and what to change.
func explainConnect(n node, during step, err error) error {
	problem, remedy := diagnoseTCP(err)
	switch during {
	case securing:
		problem, remedy = diagnoseTLS(n, err)
	case handshaking:
		problem, remedy = diagnoseLogin(n, err)
	}
	switch {
	case errors.Is(err, context.Canceled):
		problem, remedy = "it was called off", "nothing to do, if the program is stopping"
	case errors.Is(err, context.DeadlineExceeded):
		problem, remedy = "the time was up", "check the host, the network and the firewall, or raise Connection.ConnectTimeout"
	}
	return &ConnectError{URL: n.redacted, Problem: problem, Remedy: remedy, Err: err}
}

func diagnoseTCP(err error) (problem, remedy string) {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there", "start RabbitMQ, or correct host and port (5672, with TLS 5671)"
	case errors.As(err, &dns):
		return fmt.Sprintf("the host %q isn't known", dns.Name), "correct the host, or its DNS entry"
	}
	return "the network refused", "check the host, the network and the firewall"
}

func diagnoseTLS(n node, err error) (problem, remedy string) {
	var (
		notTLS    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &notTLS):
		return "the port doesn't speak TLS", "use the TLS port (5671), or amqp:// for the plain one"
	case errors.As(err, &authority):
		return "its certificate is signed by an unknown authority", "put the authority into Connection.TLS.RootCAs"
	case errors.As(err, &name):
		return fmt.Sprintf("its certificate isn't for %q", n.uri.Host),
			"use a host that it names, or set Connection.TLS.ServerName to one"
	case errors.As(err, &invalid):
		return "its certificate isn't valid", "renew it, or check this machine's clock"
	case isAlert(err):
		return "it ended the TLS handshake", "it may want a client certificate: set Connection.TLS.Certificates"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "it hung up during the TLS handshake", "use the TLS port (5671), and see RabbitMQ's log"
	}
	return "TLS failed", "see the cause, and RabbitMQ's log"
}

// isAlert reports whether the node has ended the connection by an alert of TLS. In TLS 1.3 it judges the client's certificate
// when the handshake is over for the client (RFC 8446, §4.4.3), so that this comes while AMQP is spoken already. crypto/tls has
// no type for it: tls.AlertError is QUIC's.
func isAlert(err error) bool {
	var remote *net.OpError
	return errors.As(err, &remote) && remote.Op == "remote error"
}

func diagnoseLogin(n node, err error) (problem, remedy string) {
	if isAlert(err) {
		return diagnoseTLS(n, err)
	}
	var e *amqp091.Error
	if !errors.As(err, &e) {
		return "the AMQP handshake failed", "see the cause, and RabbitMQ's log"
	}
	switch {
	case e == amqp091.ErrCredentials, e.Server && e.Code == amqp091.AccessRefused:
		return fmt.Sprintf("it refused the login of user %q", n.uri.Username), credentialsRemedy(n)
	case e == amqp091.ErrVhost, e.Server && e.Code == amqp091.NotAllowed && strings.Contains(e.Reason, "vhost"):
		return fmt.Sprintf("it refused the vhost %q to user %q", n.uri.Vhost, n.uri.Username),
			"correct the vhost in the URL (/ is written %2f), create it (rabbitmqctl add_vhost), " +
				"or give the user its permissions (rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*')"
	case e == amqp091.ErrSASL:
		return "it offers none of the login mechanisms that were tried",
			"enable PLAIN at the broker, or choose another by auth_mechanism in the URL"
	case e.Server:
		return "it refused the connection", "see the cause, and RabbitMQ's log"
	case n.tls && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		// Its alert is lost where it hangs up while the client still writes.
		return "it hung up after the TLS handshake, before it said anything",
			"it may want a client certificate, or another one: set Connection.TLS.Certificates, and see RabbitMQ's log"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		// A proxy, of which a container's published port is one, accepts connections before RabbitMQ does.
		return "it hung up before it said anything", "wait, if RabbitMQ is just starting behind a proxy, " +
			"or correct the port (5672, with TLS 5671)"
	}
	return "it doesn't speak AMQP 0-9-1 there",
		"use the AMQP port (5672), amqps:// for the TLS port (5671); 15672 is the management pages'"
}

func credentialsRemedy(n node) string {
	remedy := "correct user and password in the URL; RabbitMQ's log says more"
	if n.uri.Username == "guest" {
		remedy += ` (by default "guest" may only log in from the broker's own machine)`
	}
	return remedy
}

// errClosed is the error of a session that Close ended with nothing outstanding.
var errClosed = errors.New("amqp: the session was closed")

// refusedError says that the broker ended a session because of a message that it was sent.
type refusedError struct {
	node   string
	answer *amqp091.Error
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("amqp: %s ended the session because of a message: %v: %s", e.node, e.answer, e.remedy())
}

func (e *refusedError) remedy() string {
	switch e.answer.Code {
	case amqp091.NotFound:
		return "the exchange isn't there (any more): create it, or use Mode Declare"
	case amqp091.AccessRefused:
		return "grant the user the write permission on the exchange, and on the routing key where topic permissions are set"
	case amqp091.PreconditionFailed:
		return "the message breaks a rule of the broker, such as max_message_size: " +
			"lower PublisherConfig.MaxMessageBytes to the broker's limit"
	}
	return "see RabbitMQ's log"
}

func (e *refusedError) Unwrap() error { return e.answer }

// Is matches relay.ErrUnpublishable where the broker blames the message: its size, its properties, its bytes. An exchange
// that is missing (404) and a permission that isn't granted (403) may only seem to be its fault.
func (e *refusedError) Is(target error) bool {
	switch target {
	case relay.ErrRefused:
		return true
	case relay.ErrUnpublishable:
		switch e.answer.Code {
		case amqp091.PreconditionFailed, amqp091.ContentTooLarge, amqp091.FrameError, amqp091.SyntaxError:
			return true
		}
	}
	return false
}

// confirmTimeoutError says that a confirm didn't come in time.
type confirmTimeoutError struct {
	node, eventID string
	after         time.Duration
}

func (e *confirmTimeoutError) Error() string {
	return fmt.Sprintf("amqp: %s didn't confirm event %s within ConfirmTimeout (%s): "+
		"look for a queue without its leader, or a full disk, or raise PublisherConfig.ConfirmTimeout",
		e.node, e.eventID, e.after)
}

// Is makes it match [context.DeadlineExceeded].
func (e *confirmTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// channelEnded explains an exception on the publishing channel. Since nothing but messages goes through it, a message
// was the cause.
func (s *session) channelEnded(e *amqp091.Error) error {
	if !e.Server {
		return s.lost(e)
	}
	return &refusedError{s.link.node.address(), e}
}

// connectionEnded explains the end of the connection; e is nil where it was closed in good order. A message is the
// cause only where the broker complains of bytes that a message may have brought: a frame that is too large (501
// FRAME_ERROR) or a field that it can't read (502 SYNTAX_ERROR). Everything else is the broker's own affair (320
// CONNECTION_FORCED, 541 INTERNAL_ERROR), or, like 505 UNEXPECTED_FRAME, the fault of no single message: to blame one
// would park a sound event. The library itself says 501 for any loss of the socket, but not in the server's name.
func (s *session) connectionEnded(e *amqp091.Error) error {
	switch {
	case e == nil:
		return errors.New("amqp: the connection was closed")
	case e.Server && (e.Code == amqp091.FrameError || e.Code == amqp091.SyntaxError):
		return &refusedError{s.link.node.address(), e}
	case e.Server:
		return fmt.Errorf("amqp: %s closed the connection: %w", s.link.node.address(), e)
	}
	return s.lost(e)
}

// lost says that the connection is gone, with the first error of its socket where there is one: the library's own
// errors then only say that something is closed.
func (s *session) lost(err error) error {
	if cause := s.link.guard.cause(); cause != nil && !errors.Is(cause, net.ErrClosed) {
		err = cause
	}
	return fmt.Errorf("amqp: the connection to %s was lost: %w", s.link.node.address(), err)
}
