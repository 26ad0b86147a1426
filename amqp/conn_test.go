package amqp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// countingConn counts writes, and holds them while held is locked.
type countingConn struct {
	net.Conn
	mu     sync.Mutex
	writes int
	got    bytes.Buffer
	held   sync.Mutex
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.held.Lock()
	defer c.held.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	return c.got.Write(p)
}

func (c *countingConn) SetWriteDeadline(time.Time) error { return nil }
func (c *countingConn) SetReadDeadline(time.Time) error  { return nil }

func TestWritesAreGroupedInOrder(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	counted := &countingConn{Conn: near}
	c := guard(counted, near, time.Minute, time.Minute)
	var want bytes.Buffer
	counted.held.Lock()
	for i := range 1000 {
		p := bytes.Repeat([]byte{byte(i)}, 100)
		want.Write(p)
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	counted.held.Unlock()
	c.Close()
	if !bytes.Equal(counted.got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes arrived that differ from the %d written", counted.got.Len(), want.Len())
	}
	if counted.writes > 2 {
		t.Errorf("1000 writes during one blocked write made %d, want 2 at most", counted.writes)
	}
}

func TestWriteWaitsForRoomAndIsReleasedByAnError(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := guard(near, near, time.Minute, time.Minute)
	written := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 64<<10))
		}
		written <- err
	}()
	select {
	case err := <-written:
		t.Fatalf("a peer that reads nothing took everything, then %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	near.Close()
	within(t, time.Second, "Write after the socket was closed", func() { <-written })
}

func TestAReadErrorClosesTheSocket(t *testing.T) {
	near, far := net.Pipe()
	far.SetDeadline(time.Now().Add(5 * time.Second))
	c := guard(near, near, time.Minute, 20*time.Millisecond)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading from a silent peer: %v, want a timeout", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the error of a later write is %v, want the first one", err)
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer sees %v, want EOF", err)
	}
	within(t, time.Second, "Close", func() { c.Close() })
}

func TestAWriteThatTakesTooLongClosesTheSocket(t *testing.T) {
	near, far := net.Pipe()
	far.SetDeadline(time.Now().Add(5 * time.Second))
	c := guard(near, near, 20*time.Millisecond, time.Minute)
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the reader was told %v, want the write's timeout", err)
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer sees %v, want EOF", err)
	}
}

func TestAPausedWriteHasNoDeadline(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := guard(near, near, 400*time.Millisecond, time.Minute)
	c.Write([]byte("x"))
	eventually(t, "the write begins", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.writing })
	c.pauseDeadline(true)
	time.Sleep(800 * time.Millisecond)
	if err := c.cause(); err != nil {
		t.Fatalf("the write failed while it was paused: %v", err)
	}
	c.pauseDeadline(false)
	eventually(t, "the deadline is back", func() bool { return errors.Is(c.cause(), os.ErrDeadlineExceeded) })
}

func TestCloseIsBoundedWhenThePeerReadsNothing(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := guard(near, near, time.Minute, time.Minute)
	c.Write([]byte("x"))
	within(t, drainTimeout+time.Second, "Close", func() { c.Close() })
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a write after Close succeeds")
	}
}
