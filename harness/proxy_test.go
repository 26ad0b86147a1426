package harness

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
)

// wire is a proxy with a server behind it whose ends of the connections the test holds.
type wire struct {
	*Proxy
	accepted chan *net.TCPConn
}

func newWire(t *testing.T) *wire {
	t.Helper()
	l := must[net.Listener](t, "listen")(net.Listen("tcp", "127.0.0.1:0"))
	w := &wire{accepted: make(chan *net.TCPConn, 100)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.accepted <- conn.(*net.TCPConn)
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	w.Proxy = NewProxy(t, l.Addr().String())
	return w
}

// connect returns both ends of a connection through the proxy.
func (w *wire) connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	conn := must[net.Conn](t, "dial")(net.Dial("tcp", w.Address()))
	client, server = conn.(*net.TCPConn), <-w.accepted
	for _, c := range []*net.TCPConn{client, server} {
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	// It is the proxy's as soon as something has come through.
	say(t, client, "?")
	hear(t, server, "?")
	return client, server
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
}

func hear(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

// wantSilence gives what must not come a moment to come.
func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v, want silence", n, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
}

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
}

func wantEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v, want EOF", err)
	}
}

func TestProxyPassesOnWhatIsSentAndHowItEnds(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	for _, way := range [][2]*net.TCPConn{{c, s}, {s, c}} {
		go way[0].Write(big)
		got := make([]byte, len(big))
		if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("3 MiB arrived damaged: %v", err)
		}
	}
	_ = c.CloseWrite()
	wantEnd(t, s)
	say(t, s, "still here")
	hear(t, c, "still here")
	_ = s.Close()
	wantEnd(t, c)
	within(t, 5*time.Second, "the connection is forgotten", func() bool { return w.Connections() == 0 })

	c, s = w.connect(t)
	reset(s)
	wantReset(t, c)
	c, s = w.connect(t)
	reset(c)
	wantReset(t, s)
}

func TestCutResetsBothSidesAndAcceptsNewOnes(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	w.Cut()
	wantReset(t, c)
	wantReset(t, s)
	w.connect(t)
}

func TestACutSideIsNotNoticedByTheOther(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	w.CutClients()
	wantReset(t, c)
	for range 10 {
		say(t, s, strings.Repeat("unheard", 100_000)) // far more than fits any buffer
	}
	wantSilence(t, s)
	if n := w.Connections(); n != 0 {
		t.Errorf("%d clients, want none", n)
	}
	w.CutServers()
	wantReset(t, s)

	c, s = w.connect(t)
	w.CutServers()
	wantReset(t, s)
	for range 10 {
		say(t, c, strings.Repeat("unheard", 100_000))
	}
	wantSilence(t, c)
	w.CutClients()
	wantReset(t, c)
}

func TestAStalledDirectionPassesNothingUntilResumed(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	w.Stall(ToServer)
	say(t, c, "later")
	wantSilence(t, s)
	say(t, s, "now")
	hear(t, c, "now")
	_ = c.CloseWrite() // the end waits too
	wantSilence(t, s)
	w.Resume(ToServer)
	hear(t, s, "later")
	wantEnd(t, s)

	w.Stall()
	conn := must[net.Conn](t, "a stalled proxy accepts")(net.Dial("tcp", w.Address()))
	defer conn.Close()
	s = <-w.accepted
	defer s.Close()
	say(t, conn, "later")
	say(t, s, "later")
	wantSilence(t, s)
	wantSilence(t, conn)
	w.Resume()
	hear(t, s, "later")
	hear(t, conn, "later")
}

// The writer waits for a receiver who does not read. Stall breaks its write off, and must not lose the
// rest nor send it twice.
func TestStallInterruptsAWriteWithoutLoss(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	_ = s.SetReadBuffer(64 << 10)
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go c.Write(sent)
	var got []byte
	buffer := make([]byte, 64<<10)
	for len(got) < len(sent) {
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() { w.Stall() })
		}
		callers.Wait()
		w.Resume()
		n, err := s.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buffer[:n]...)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what arrived is not what was sent")
	}
}

func TestLatencyDelaysEachDirectionAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	took := func(from, to net.Conn) time.Duration {
		begin := time.Now()
		say(t, from, "x")
		hear(t, to, "x")
		return time.Since(begin)
	}
	const delay = 150 * time.Millisecond
	w.Latency(delay, 0, ToClient)
	if d := took(s, c); d < delay {
		t.Errorf("to the client: %v, want %v", d, delay)
	}
	if d := took(c, s); d >= delay {
		t.Errorf("to the server: %v, want no latency", d)
	}
	w.Latency(delay, 0)
	if d := took(c, s) + took(s, c); d < 2*delay {
		t.Errorf("a round trip took %v, want %v", d, 2*delay)
	}
	// It is latency and not a throttle: what is sent together arrives together.
	begin := time.Now()
	for range 20 {
		say(t, c, "x")
		time.Sleep(time.Millisecond)
	}
	hear(t, s, strings.Repeat("x", 20))
	if d := time.Since(begin); d < delay || d > 10*delay {
		t.Errorf("20 pieces took %v, want a little more than %v", d, delay)
	}

	w.Latency(0, 50*time.Millisecond)
	var text strings.Builder
	for i := range 50 {
		piece := fmt.Sprintf("%d,", i)
		text.WriteString(piece)
		say(t, c, piece)
		time.Sleep(time.Millisecond)
	}
	hear(t, s, text.String())
	w.Latency(0, 0)
	if d := took(c, s); d > delay {
		t.Errorf("after its end: %v", d)
	}
}

func TestBandwidthIsKept(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	const size, rate = 256 << 10, 512 << 10
	transfer := func(from, to net.Conn) time.Duration {
		begin := time.Now()
		go from.Write(make([]byte, size))
		if _, err := io.CopyN(io.Discard, to, size); err != nil {
			t.Fatal(err)
		}
		return time.Since(begin)
	}
	w.Bandwidth(rate, ToServer)
	if d := transfer(c, s); d < 400*time.Millisecond || d > 5*time.Second {
		t.Errorf("256 KiB at 512 KiB/s took %v, want half a second", d)
	}
	if d := transfer(s, c); d > 400*time.Millisecond {
		t.Errorf("the other direction took %v, want no limit", d)
	}
	w.Bandwidth(0)
	if d := transfer(c, s); d > 400*time.Millisecond {
		t.Errorf("after its end: %v", d)
	}
}

func TestHalfCloseEndsOneDirection(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	w.HalfClose(ToServer)
	wantEnd(t, s)
	say(t, c, "lost")
	say(t, s, "heard")
	hear(t, c, "heard")

	c, s = w.connect(t)
	w.HalfClose(ToClient)
	wantEnd(t, c)
	say(t, c, "heard")
	hear(t, s, "heard")
}

func TestRefuseIsTheSystemsRefusal(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	c, s := w.connect(t)
	address := w.Address()
	w.Refuse()
	w.Refuse()
	if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want connection refused", err)
	}
	say(t, c, "the old one stays")
	hear(t, s, "the old one stays")
	w.Accept()
	w.Accept()
	w.connect(t)
	if w.Address() != address {
		t.Errorf("the address changed from %s to %s", address, w.Address())
	}
}

func TestProxyToNobodyCutsItsClientsOff(t *testing.T) {
	t.Parallel()
	l := must[net.Listener](t, "listen")(net.Listen("tcp", "127.0.0.1:0"))
	p := NewProxy(t, l.Addr().String())
	_ = l.Close()
	c, err := net.Dial("tcp", p.Address())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestProxysTargetIsAURLOrHostAndPort(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"amqp://u:p@127.0.0.1/v":           "amqp://u:p@%s/v",
		"postgres://u:p@127.0.0.1:1/d?x=y": "postgres://u:p@%s/d?x=y",
		"127.0.0.1:1":                      "%s",
	} {
		p := NewProxy(t, target)
		if want = fmt.Sprintf(want, p.Address()); p.URL() != want {
			t.Errorf("%s through the proxy is %s, want %s", target, p.URL(), want)
		}
	}
	for _, target := range []string{"", "127.0.0.1", "http://u:secret@127.0.0.1/", "host=127.0.0.1"} {
		if p, err := OpenProxy(target); err == nil {
			_ = p.Close()
			t.Errorf("%q was accepted", target)
		} else if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "a URL, or host:port") {
			t.Errorf("%q: %v", target, err)
		}
	}
}

// Whatever is done by many at once, in the end the proxy works, and nothing of it is left when it ends.
func TestProxyIsSafeForConcurrentUseAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	acts := []func(){
		w.Cut, w.CutClients, w.CutServers, w.Refuse, w.Accept,
		func() { w.HalfClose(ToClient) },
		func() { w.Stall(ToServer) }, func() { w.Stall() }, func() { w.Resume() },
		func() { w.Latency(time.Millisecond, time.Millisecond) },
		func() { w.Bandwidth(1 << 20) },
		func() { w.Connections() },
	}
	end := time.Now().Add(time.Second)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case s := <-w.accepted:
				_ = s.SetDeadline(end.Add(time.Second)) // one that comes after the last cut meets a stalled proxy
				group.Go(func() { _, _ = io.Copy(s, s); _ = s.Close() })
			case <-time.After(time.Until(end) + 100*time.Millisecond):
				return
			}
		}
	})
	for range 4 {
		group.Go(func() {
			for time.Now().Before(end) {
				acts[rand.IntN(len(acts))]()
				time.Sleep(time.Millisecond)
			}
		})
		group.Go(func() {
			for time.Now().Before(end) {
				if c, err := net.Dial("tcp", w.Address()); err == nil {
					_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
					_, _ = c.Write(make([]byte, 100_000))
					_, _ = io.CopyN(io.Discard, c, 100_000)
					_ = c.Close()
				}
			}
		})
	}
	time.Sleep(time.Until(end))
	w.Cut()
	w.Stall()
	w.CutServers()
	group.Wait()
	w.Accept()
	w.Resume()
	w.Latency(0, 0)
	w.Bandwidth(0)
	c, s := w.connect(t)
	say(t, s, "works")
	hear(t, c, "works")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if addr := fmt.Sprintf("%p", w.Proxy); strings.Contains(string(stacks), "harness.(*Proxy).serve("+addr) {
		t.Errorf("a goroutine is left:\n%s", stacks)
	}
}

func TestServersAreReachedThroughTheirProxies(t *testing.T) {
	t.Parallel()
	env := Start(t, Postgres(), RabbitMQ(), MariaDB())

	proxy := env.Postgres.Proxy(t)
	conn := must[*pgx.Conn](t, "connect")(pgx.Connect(t.Context(), proxy.URL()))
	proxy.Cut()
	if conn.Ping(t.Context()) == nil {
		t.Error("PostgreSQL: a connection survived the cut")
	}

	proxy = env.RabbitMQ.Proxy(t)
	broker, _ := dial(t, proxy.URL())
	closed := broker.NotifyClose(make(chan *amqp.Error, 1))
	proxy.Cut()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("RabbitMQ: a connection survived the cut")
	}

	proxy = env.MariaDB.Proxy(t)
	session := must[*sql.Conn](t, "connect")(openDSN(t, MariaDBDSN(proxy.URL())).Conn(t.Context()))
	proxy.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if session.PingContext(ctx) == nil {
		t.Error("MariaDB: it answers through a stalled proxy")
	}
}
