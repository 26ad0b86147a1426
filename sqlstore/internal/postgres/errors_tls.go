package postgres

import (
	"crypto/x509"
	"errors"
	"net"
	"strings"
)

// tlsHint returns the remedy where a connection's encryption is to blame; "" if it isn't. What the server says of it has one
// code for all (28000) and is known by its words only (PostgreSQL, src/backend/libpq/auth.c), in English.
func (e *Engine) tlsHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		alert     *net.OpError // crypto/tls has no type for it
		says      = err.Error()
		refused   = sqlState(err) == "28000"
	)
	switch {
	case errors.As(err, &authority):
		return "the server's certificate isn't signed by a CA that is trusted: name the one that has signed it (sslrootcert)"
	case errors.As(err, &name):
		return "the server's certificate is of another name: use that one as the host in the URL, or have a certificate made for this one"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's certificate has expired, or one of the two clocks is wrong: renew it"
	case errors.As(err, &invalid), strings.Contains(says, "failed to verify certificate"):
		return "the server's certificate isn't valid for a server: have another one made"
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "the server refused this program's certificate: name one that is signed by the CA in the server's ssl_ca_file, with its key (sslcert, sslkey)"
	case strings.Contains(says, "server refused TLS connection"):
		return "the server has no TLS: set ssl = on there, or, where nobody listens on the way, sslmode=disable in the URL"
	case refused && strings.Contains(says, "no encryption"):
		return "if pg_hba.conf has the user for encrypted connections only (hostssl): sslmode=verify-full and sslrootcert; otherwise add a line for user, database and address"
	case refused && strings.Contains(says, "client certificate"), refused && strings.Contains(says, "certificate authentication failed"):
		return "the server wants a certificate that is made out to this user and signed by the CA in its ssl_ca_file, and one of another CA isn't even sent: " +
			"name it and its key (sslcert, sslkey)"
	}
	return ""
}
