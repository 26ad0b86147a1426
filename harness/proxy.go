package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

// Proxy passes TCP connections on to a server, and disturbs them on demand: it is the network between
// a test's client and its server. All disturbances hold for connections that exist and for those to
// come, except that Cut, CutClients, CutServers and HalfClose do something to those that exist.
//
// All methods are safe for concurrent use.
type Proxy struct {
	target  string // host:port
	address string // host:port, the proxy's own
	through *url.URL

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil while connections are refused
	links    map[*link]struct{}
	faults   [2]faults     // by Direction
	resumed  chan struct{} // closed and replaced by Resume
	cuts     int           // so far, for those who are just being connected

	dialing context.Context // ends with the proxy
	end     context.CancelFunc
	running sync.WaitGroup
}

// Direction is one of a connection's two ways. Where a method takes several, none means both.
type Direction int

const (
	ToServer Direction = iota // what the client sends
	ToClient                  // what the server sends
)

func (d Direction) String() string {
	if d == ToServer {
		return "to server"
	}
	return "to client"
}

// faults is what one direction suffers.
type faults struct {
	stalled         bool
	latency, jitter time.Duration
	bandwidth       int // bytes per second; 0 is no limit
}

// NewProxy starts a proxy to a server, which is given by its URL or by host:port. It ends with the
// test. While the server does not answer, clients are accepted and cut off at once.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p, err := OpenProxy(target)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.Close() })
	return p
}

// OpenProxy is [NewProxy] for a program that is not a test. Close ends it.
func OpenProxy(target string) (*Proxy, error) {
	p := &Proxy{target: target, links: map[*link]struct{}{}, resumed: make(chan struct{})}
	p.dialing, p.end = context.WithCancel(context.Background())
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		p.through, p.target = u, u.Host
		if port := defaultPorts[u.Scheme]; u.Port() == "" && port != "" {
			p.target = net.JoinHostPort(u.Hostname(), port)
		}
	}
	if _, port, err := net.SplitHostPort(p.target); err != nil || port == "" {
		return nil, errors.New("harness: a proxy's target is a URL, or host:port") // not quoted: it may have a password in it
	}
	// A port that nobody is given for outgoing connections, or Accept could not have it again.
	port, err := server.FreePort()
	if err != nil {
		return nil, err
	}
	p.address = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	if err := p.listen(); err != nil {
		return nil, fmt.Errorf("harness: proxy: %w", err)
	}
	return p, nil
}

var defaultPorts = map[string]string{
	"postgres": "5432", "postgresql": "5432", "amqp": "5672", "amqps": "5671", "mysql": "3306", "mariadb": "3306",
}

// URL returns the URL that the proxy was made for, with the proxy's address in it, or for host:port
// the proxy's host:port.
func (p *Proxy) URL() string {
	if p.through == nil {
		return p.address
	}
	u := *p.through
	u.Host = p.address
	return u.String()
}

// Address returns the proxy's host:port.
func (p *Proxy) Address() string { return p.address }

// Connections returns how many clients are connected.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for l := range p.links {
		if l.open(clientSide) {
			n++
		}
	}
	return n
}

// Cut resets all connections, to both sides (RST). New ones are accepted.
func (p *Proxy) Cut() { p.cut(clientSide, serverSide) }

// CutClients resets all connections to the clients. The server is not told, and keeps its ends until
// CutServers or Cut: to it the clients are there and silent, as after a power failure of theirs.
func (p *Proxy) CutClients() { p.cut(clientSide) }

// CutServers resets all connections to the server. The clients are not told, and keep their ends.
func (p *Proxy) CutServers() { p.cut(serverSide) }

func (p *Proxy) cut(sides ...side) {
	p.mu.Lock()
	p.cuts++
	p.mu.Unlock()
	for _, l := range p.all() {
		for _, s := range sides {
			l.cut(s)
		}
	}
}

// HalfClose ends the existing connections in one direction: the side that is sent to sees the end of
// the stream (FIN), and what the other one sends is lost. The other direction goes on.
func (p *Proxy) HalfClose(in Direction) {
	for _, l := range p.all() {
		l.halfClose(in)
	}
}

// Stall passes nothing on until Resume. Connections are accepted and stay, and what is sent waits, in
// the end by TCP's own back-pressure. When it returns, nothing is under way any more.
func (p *Proxy) Stall(in ...Direction) {
	p.set(in, func(f *faults) { f.stalled = true })
	for _, l := range p.all() {
		for _, d := range both(in) {
			l.interrupt(d)
		}
	}
}

// Resume passes on what waits since Stall, and all that follows.
func (p *Proxy) Resume(in ...Direction) {
	p.set(in, func(f *faults) { f.stalled = false })
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.resumed)
	p.resumed = make(chan struct{})
}

// Latency passes on what arrives from now on after that time, and a random part of jitter more. The
// order of the bytes stays. A round trip suffers it twice, where no direction is given. Zero ends it.
func (p *Proxy) Latency(d, jitter time.Duration, in ...Direction) {
	p.set(in, func(f *faults) { f.latency, f.jitter = d, jitter })
}

// Bandwidth limits each connection to that many bytes a second. Zero ends it.
func (p *Proxy) Bandwidth(bytesPerSecond int, in ...Direction) {
	p.set(in, func(f *faults) { f.bandwidth = bytesPerSecond })
}

// Refuse lets nobody connect any more, until Accept: clients see "connection refused". Connections
// that exist stay.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// Accept ends Refuse, on the same port. It panics where another program has taken the port meanwhile,
// which the choice of the port makes unlikely.
func (p *Proxy) Accept() {
	p.mu.Lock()
	listening := p.listener != nil || p.closed
	p.mu.Unlock()
	if listening {
		return
	}
	if err := p.listen(); err != nil {
		panic("harness: proxy: " + err.Error())
	}
}

// Close ends the proxy and its connections, and returns when nothing of it is left.
func (p *Proxy) Close() error {
	p.Refuse()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end()
	p.Cut()
	p.running.Wait()
	return nil
}

func (p *Proxy) set(in []Direction, change func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range both(in) {
		change(&p.faults[d])
	}
}

func both(in []Direction) []Direction {
	if len(in) == 0 {
		return []Direction{ToServer, ToClient}
	}
	return in
}

func (p *Proxy) suffers(d Direction) (f faults, resumed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults[d], p.resumed
}

func (p *Proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*link, 0, len(p.links))
	for l := range p.links {
		all = append(all, l)
	}
	return all
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	})
	return nil
}

// serve connects a client to the server, until both are through with each other.
func (p *Proxy) serve(c *net.TCPConn) {
	p.mu.Lock()
	cuts := p.cuts
	p.mu.Unlock()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(p.dialing, "tcp", p.target)
	if err != nil {
		reset(c)
		return
	}
	l := newLink(p, c, conn.(*net.TCPConn))
	p.mu.Lock()
	cut := p.closed || p.cuts != cuts
	if !cut {
		p.links[l] = struct{}{}
	}
	p.mu.Unlock()
	if cut {
		reset(c)
		reset(l.conns[serverSide])
		return
	}
	l.run()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}
