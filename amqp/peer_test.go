package amqp

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// peer is a scripted AMQP 0-9-1 server: it answers the handshake, declarations and confirm.select by itself, and
// leaves what to answer to a message to the test. It knows just enough of the protocol for that.
type peer struct {
	listener net.Listener
	script   script

	mu    sync.Mutex
	conns []*peerConn
}

// script is what a peer does beyond its manners. Nil functions mean: nothing special.
type script struct {
	// published is called for each complete message, in the connection's reading goroutine.
	published func(c *peerConn, m peerMessage)
	// method is called first for each method but basic.publish; true means that it was answered.
	method   func(c *peerConn, class, method uint16, args []byte) bool
	frameMax uint32 // default 131072
	tls      *tls.Config
}

// peerMessage is a message as it came in.
type peerMessage struct {
	channel       uint16
	number        uint64 // delivery tag of its confirm
	exchange, key string
	mandatory     byte
	header        []byte // class, weight, size, flags, properties
	body          []byte
	messageID     string
}

// peerConn is one connection of a client.
type peerConn struct {
	net.Conn
	peer *peer
	read *bufio.Reader

	mu        sync.Mutex
	published uint64
}

// AMQP's numbers for the methods in use (§1.3).
const (
	classConnection, classChannel, classExchange, classBasic, classConfirm = 10, 20, 40, 60, 85
)

func newPeer(t testing.TB, s script) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if s.frameMax == 0 {
		s.frameMax = 131072
	}
	if s.tls != nil {
		l = tls.NewListener(l, s.tls)
	}
	p := &peer{listener: l, script: s}
	go p.accept()
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.conns {
			c.Close()
		}
	})
	return p
}

func (p *peer) url() string { return "amqp://user:secret@" + p.listener.Addr().String() + "/" }

func (p *peer) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		c := &peerConn{Conn: conn, peer: p, read: bufio.NewReader(conn)}
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
		go c.serve()
	}
}

func (c *peerConn) serve() {
	if _, err := io.ReadFull(c.read, make([]byte, 8)); err != nil { // "AMQP" 0 0 9 1
		return
	}
	c.method(0, classConnection, 10, []byte{0, 9}, table(), longstr("PLAIN"), longstr("en_US")) // start
	var m *peerMessage
	for {
		kind, channel, payload, err := c.frame()
		if err != nil {
			return
		}
		switch {
		case kind == 8:
		case kind == 1:
			class, method, args := u16(payload), u16(payload[2:]), payload[4:]
			if class == classBasic && method == 40 {
				m = &peerMessage{channel: channel}
				m.exchange, args = shortstr(args[2:])
				m.key, args = shortstr(args)
				m.mandatory = args[0]
			} else {
				c.answer(channel, class, method, args)
			}
		case kind == 2:
			m.header = payload
			m.messageID = messageID(payload)
			if binary.BigEndian.Uint64(payload[4:]) == 0 {
				c.complete(m)
			}
		case kind == 3:
			m.body = append(m.body, payload...)
			if uint64(len(m.body)) == binary.BigEndian.Uint64(m.header[4:]) {
				c.complete(m)
			}
		}
	}
}

func (c *peerConn) complete(m *peerMessage) {
	c.mu.Lock()
	c.published++
	m.number = c.published
	c.mu.Unlock()
	if f := c.peer.script.published; f != nil {
		f(c, *m)
	} else {
		c.ack(*m)
	}
}

// answer answers with the method that AMQP expects: its number is usually the request's + 1.
func (c *peerConn) answer(channel, class, method uint16, args []byte) {
	if f := c.peer.script.method; f != nil && f(c, class, method, args) {
		return
	}
	switch {
	case class == classConnection && method == 11: // start-ok → tune
		c.method(0, classConnection, 30, []byte{0, 0}, be32(c.peer.script.frameMax), []byte{0, 0})
	case class == classConnection && method == 31: // tune-ok
	case class == classConnection && method == 40: // open → open-ok
		c.method(0, classConnection, 41, []byte{0})
	case class == classConnection && method == 50: // close → close-ok
		c.method(0, classConnection, 51)
		c.Close()
	case class == classChannel && method == 10: // open → open-ok
		c.method(channel, classChannel, 11, be32(0))
	case method == 41 && class == classChannel, method == 51 && class == classConnection: // close-ok
	default:
		c.method(channel, class, method+1)
	}
}

func (c *peerConn) frame() (kind byte, channel uint16, payload []byte, err error) {
	var head [7]byte
	if _, err := io.ReadFull(c.read, head[:]); err != nil {
		return 0, 0, nil, err
	}
	payload = make([]byte, binary.BigEndian.Uint32(head[3:])+1)
	if _, err := io.ReadFull(c.read, payload); err != nil {
		return 0, 0, nil, err
	}
	return head[0], u16(head[1:]), payload[:len(payload)-1], nil
}

func (c *peerConn) method(channel, class, method uint16, args ...[]byte) {
	payload := binary.BigEndian.AppendUint16(nil, class)
	payload = binary.BigEndian.AppendUint16(payload, method)
	for _, a := range args {
		payload = append(payload, a...)
	}
	c.send(1, channel, payload)
}

func (c *peerConn) send(kind byte, channel uint16, payload []byte) {
	out := []byte{kind}
	out = binary.BigEndian.AppendUint16(out, channel)
	out = binary.BigEndian.AppendUint32(out, uint32(len(payload)))
	out = append(append(out, payload...), 206)
	c.Write(out) // an error shows to the client
}

func (c *peerConn) ack(m peerMessage)  { c.confirm(m, 80) }
func (c *peerConn) nack(m peerMessage) { c.confirm(m, 120) }

func (c *peerConn) confirm(m peerMessage, method uint16) {
	c.method(m.channel, classBasic, method, binary.BigEndian.AppendUint64(nil, m.number), []byte{0})
}

// giveBack sends basic.return with the message's own properties.
func (c *peerConn) giveBack(m peerMessage) {
	c.method(m.channel, classBasic, 50, []byte{1, 56}, short("NO_ROUTE"), short(m.exchange), short(m.key)) // 312
	c.send(2, m.channel, m.header)
	c.send(3, m.channel, m.body)
}

func (c *peerConn) closeChannel(channel, code uint16, text string) {
	c.method(channel, classChannel, 40, binary.BigEndian.AppendUint16(nil, code), short(text), []byte{0, 60, 0, 40})
}

func (c *peerConn) closeConnection(code uint16, text string) {
	c.method(0, classConnection, 50, binary.BigEndian.AppendUint16(nil, code), short(text), []byte{0, 0, 0, 0})
}

func (c *peerConn) blocked(reason string) { c.method(0, classConnection, 60, short(reason)) }
func (c *peerConn) unblocked()            { c.method(0, classConnection, 61) }

// last returns the newest connection.
func (p *peer) last() *peerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns[len(p.conns)-1]
}

// messageID finds the message-id in a content header, behind the properties that come before it in flag order.
func messageID(header []byte) string {
	flags, rest := u16(header[12:]), header[14:]
	skip := func(flag uint16, size func() int) {
		if flags&flag != 0 {
			rest = rest[size():]
		}
	}
	shortSize := func() int { return 1 + int(rest[0]) }
	skip(1<<15, shortSize)                                                    // content-type
	skip(1<<14, shortSize)                                                    // content-encoding
	skip(1<<13, func() int { return 4 + int(binary.BigEndian.Uint32(rest)) }) // headers
	skip(1<<12, func() int { return 1 })                                      // delivery-mode
	skip(1<<11, func() int { return 1 })                                      // priority
	skip(1<<10, shortSize)                                                    // correlation-id
	skip(1<<9, shortSize)                                                     // reply-to
	skip(1<<8, shortSize)                                                     // expiration
	if flags&(1<<7) == 0 {
		return ""
	}
	id, _ := shortstr(rest)
	return id
}

func u16(b []byte) uint16     { return binary.BigEndian.Uint16(b) }
func be32(n uint32) []byte    { return binary.BigEndian.AppendUint32(nil, n) }
func table() []byte           { return be32(0) }
func longstr(s string) []byte { return append(be32(uint32(len(s))), s...) }
func short(s string) []byte   { return append([]byte{byte(len(s))}, s...) }
func shortstr(b []byte) (string, []byte) {
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:]
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

// within fails the test if f takes longer than limit.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s: not within %s", what, limit)
	}
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q doesn't say %q", err, part)
		}
	}
}
