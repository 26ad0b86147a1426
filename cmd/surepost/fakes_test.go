package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	wire "encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// certifier signs certificates.
type certifier struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // the certificate in PEM
}

func newCertifier(t *testing.T) *certifier {
	t.Helper()
	a := &certifier{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := a.sign(template, template, nil)
	write(t, a.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der.Certificate[0]})))
	a.cert, a.key = der.Leaf, der.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// sign makes a key and its certificate; without a signer's key it is signed by itself.
func (a *certifier) sign(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server returns a server's certificate for a name and no address.
func (a *certifier) server(name string) *tls.Config {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	return &tls.Config{Certificates: []tls.Certificate{a.sign(template, a.cert, a.key)}}
}

// server is one that refuses every login, and remembers what it was told.
type server struct {
	address string

	mu    sync.Mutex
	heard bytes.Buffer // without what was encrypted on its way
	plain bytes.Buffer // what came unencrypted
}

// told reports whether the server has been told the text, and whether anybody could have read it on the way.
func (s *server) told(text string) (heard, plain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.heard.Bytes(), []byte(text)), bytes.Contains(s.plain.Bytes(), []byte(text))
}

// listen serves connections one by one until the test ends.
func listen(t *testing.T, serve func(s *server, c net.Conn)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &server{address: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				serve(s, c)
			}()
		}
	}()
	return s
}

// read reads so many bytes.
func (s *server) read(c net.Conn, n int) []byte {
	b := make([]byte, min(n, 1<<16))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard.Write(b)
	if _, encrypted := c.(*tls.Conn); !encrypted {
		s.plain.Write(b)
	}
	return b
}

// postgresLike speaks as much of PostgreSQL's protocol (manual §55.2) as it takes to ask for the password in clear and refuse it;
// with a certificate it speaks TLS, and without it says that it doesn't.
func postgresLike(t *testing.T, secured *tls.Config) *server {
	return listen(t, func(s *server, c net.Conn) {
		for {
			head := s.read(c, 4)
			if head == nil {
				return
			}
			body := s.read(c, int(wire.BigEndian.Uint32(head))-4)
			if len(body) == 4 && wire.BigEndian.Uint32(body) == 80877103 { // SSLRequest
				if secured == nil {
					c.Write([]byte("N"))
					continue
				}
				c.Write([]byte("S"))
				c = tls.Server(c, secured)
				continue
			}
			break
		}
		c.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3})
		if head := s.read(c, 5); head != nil {
			s.read(c, int(wire.BigEndian.Uint32(head[1:]))-4)
		}
		fields := "SFATAL\x00C28P01\x00Mpassword authentication failed for user\x00\x00"
		c.Write(append(wire.BigEndian.AppendUint32([]byte{'E'}, uint32(len(fields)+4)), fields...))
	})
}

// mysqlLike greets as MySQL 8 does (documentation of the client/server protocol, "Protocol::HandshakeV10"), asks for the password in
// clear, and refuses it.
func mysqlLike(t *testing.T, secured *tls.Config) *server {
	return listen(t, func(s *server, c net.Conn) {
		packet := func(sequence byte, body []byte) {
			n := len(body)
			c.Write(append([]byte{byte(n), byte(n >> 8), byte(n >> 16), sequence}, body...))
		}
		capabilities := uint32(1<<9 | 1<<15 | 1<<19 | 1) // protocol 4.1, secure connection, plugin auth, long password
		if secured != nil {
			capabilities |= 1 << 11
		}
		greeting := append([]byte{10}, "8.0.30\x00\x01\x00\x00\x0012345678\x00"...)
		greeting = wire.LittleEndian.AppendUint16(greeting, uint16(capabilities))
		greeting = append(greeting, 45, 2, 0)
		greeting = wire.LittleEndian.AppendUint16(greeting, uint16(capabilities>>16))
		greeting = append(append(greeting, 21), make([]byte, 10)...)
		greeting = append(greeting, "123456789012\x00mysql_native_password\x00"...)
		packet(0, greeting)
		read := func() (sequence byte, body []byte) {
			head := s.read(c, 4)
			if head == nil {
				return 0, nil
			}
			return head[3], s.read(c, int(head[0])|int(head[1])<<8|int(head[2])<<16)
		}
		sequence, body := read()
		if secured != nil && len(body) == 32 { // SSLRequest
			c = tls.Server(c, secured)
			sequence, body = read()
		}
		if body == nil {
			return
		}
		packet(sequence+1, append([]byte{0xff, 0x15, 0x04, '#'}, "28000Access denied for user (using password: YES)"...))
	})
}

// httpLike is what one reaches by a wrong port.
func httpLike(t *testing.T) *server {
	return listen(t, func(s *server, c net.Conn) {
		c.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
	})
}

// front speaks TLS in front of a server.
func front(t *testing.T, behind string, secured *tls.Config) *server {
	return listen(t, func(_ *server, c net.Conn) {
		back, err := net.Dial("tcp", behind)
		if err != nil {
			return
		}
		defer back.Close()
		clear := tls.Server(c, secured)
		go func() {
			io.Copy(clear, back) // either end shows to the client
			c.Close()
		}()
		io.Copy(back, clear)
	})
}
