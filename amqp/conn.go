package amqp

import (
	"bufio"
	"net"
	"sync"
	"time"
)

const (
	// readBufferBytes is how much one read from the socket may bring. The client library reads 4 KiB at a time, which
	// is a syscall for every few dozen confirms.
	readBufferBytes = 64 << 10

	// writeBufferBytes is how much may wait to be written before Write blocks. It is a few times what one syscall
	// moves, and little enough that a cut connection leaves few events of unknown outcome.
	writeBufferBytes = 256 << 10

	// drainTimeout bounds how long Close waits for what is still to be written: the last frames of an orderly close.
	drainTimeout = time.Second
)

// guardedConn is the net.Conn that the client library gets to see. It does three things that the library doesn't:
//
//   - It never lets a write wait for ever. The library closes its socket only after it got locks that a blocked
//     write holds (Connection.shutdown → Channel.shutdown wants Channel.m, which a publish holds: amqp091-go issues
//     111, 178, 225), so a peer that stops reading would block publish, close and every pending confirm for as long
//     as the kernel tries. Here any error, read or write, closes the raw socket at once, which releases all of them.
//   - It judges by itself whether the peer lives: by bytes received. The library's heartbeater would extend the read
//     deadline, but stands still while a write is blocked, and would give up a broker that stops reading on purpose
//     (a resource alarm) though it goes on sending heartbeats.
//   - It groups writes. Write appends to a buffer, and one goroutine writes whatever has gathered meanwhile. There is no
//     timer: an idle connection writes at once, a busy one sends many messages with one syscall.
type guardedConn struct {
	net.Conn          // the socket, or TLS above it
	raw      net.Conn // the socket: closing it takes no lock and sends nothing
	reads    *bufio.Reader

	mu      sync.Mutex
	room    sync.Cond // Write waits for it: the buffer was taken
	pending sync.Cond // flush waits for it: there is something to write, or an end
	buf     []byte    // waits to be written
	writing bool      // a write to the socket is under way
	paused  bool      // the broker said that it doesn't read for now
	closing bool
	err     error // the first error of any kind; nothing is read or written after it

	writeTimeout time.Duration
	idleTimeout  time.Duration // without a byte received
	limit        time.Time     // set by SetDeadline: no read or write may last longer

	flushed chan struct{} // closed when flush has returned
}

// guard wraps a connection. Its raw socket must be given apart, since closing TLS takes locks and writes an alert.
func guard(conn, raw net.Conn, writeTimeout, idleTimeout time.Duration) *guardedConn {
	c := &guardedConn{
		Conn: conn, raw: raw, writeTimeout: writeTimeout, idleTimeout: idleTimeout, flushed: make(chan struct{}),
	}
	c.reads = bufio.NewReaderSize(idleReader{c}, readBufferBytes)
	c.room.L, c.pending.L = &c.mu, &c.mu
	go c.flush()
	return c
}

// idleReader reads from the connection with a deadline that starts anew at each read.
type idleReader struct{ c *guardedConn }

func (r idleReader) Read(p []byte) (int, error) {
	r.c.mu.Lock()
	deadline := earlier(time.Now().Add(r.c.idleTimeout), r.c.limit)
	err := r.c.Conn.SetReadDeadline(deadline) // under the lock, so that it can't undo a SetDeadline
	r.c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return r.c.Conn.Read(p)
}

// Read is called by one goroutine, the library's reader.
func (c *guardedConn) Read(p []byte) (int, error) {
	n, err := c.reads.Read(p)
	if err != nil {
		err = c.fail(err)
	}
	return n, err
}

// Write appends p to what waits to be written. It waits only while that is too much. A nil error means "buffered",
// which is all that it means for a socket too: only a confirm says that a message arrived.
func (c *guardedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) >= writeBufferBytes && c.err == nil && !c.closing {
		c.room.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closing:
		return 0, net.ErrClosed
	}
	c.buf = append(c.buf, p...)
	c.pending.Signal()
	return len(p), nil
}

// flush writes what has gathered until the connection fails or closes.
func (c *guardedConn) flush() {
	defer close(c.flushed)
	var spare []byte // takes turns with buf, so that nothing is allocated
	for {
		c.mu.Lock()
		for len(c.buf) == 0 && c.err == nil && !c.closing {
			c.pending.Wait()
		}
		if c.err != nil || len(c.buf) == 0 {
			c.mu.Unlock()
			return
		}
		out := c.buf
		c.buf, spare = spare[:0], nil
		c.writing = true
		err := c.setWriteDeadline()
		c.mu.Unlock()
		c.room.Broadcast()

		if err == nil {
			_, err = c.Conn.Write(out)
		}

		c.mu.Lock()
		c.writing = false
		c.mu.Unlock()
		if err != nil {
			c.fail(err)
			return
		}
		spare = out
	}
}

// setWriteDeadline sets the deadline of a write that is under way or about to be. The caller holds mu.
func (c *guardedConn) setWriteDeadline() error {
	var deadline time.Time
	if !c.paused {
		deadline = time.Now().Add(c.writeTimeout)
	}
	return c.Conn.SetWriteDeadline(earlier(deadline, c.limit))
}

// pauseDeadline lifts the write deadline while the broker has asked to send nothing (connection.blocked): it doesn't
// read then, for as long as its alarm lasts. Whether it lives is seen from its heartbeats.
func (c *guardedConn) pauseDeadline(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
	if c.writing {
		c.setWriteDeadline() // of a closed socket: the write has failed already
	}
}

// setIdleTimeout sets how long the peer may send nothing; it counts from the next read on.
func (c *guardedConn) setIdleTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idleTimeout = d
}

// fail notes the first error, closes the socket and releases everybody. It returns the first error, which says why;
// later ones only say that the socket is closed.
func (c *guardedConn) fail(err error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	err = c.err
	c.mu.Unlock()
	c.raw.Close()
	c.room.Broadcast()
	c.pending.Broadcast()
	return err
}

// cause returns the first error of the connection, nil if there was none.
func (c *guardedConn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close writes what is still to be written, for at most drainTimeout, and closes the connection.
func (c *guardedConn) Close() error {
	c.mu.Lock()
	if !c.closing {
		c.closing = true
		c.limit = earlier(time.Now().Add(drainTimeout), c.limit)
		if c.writing {
			c.setWriteDeadline()
		}
	}
	c.mu.Unlock()
	c.room.Broadcast()
	c.pending.Broadcast()
	<-c.flushed // bounded by the deadline above
	err := c.Conn.Close()
	c.fail(net.ErrClosed)
	return err
}

// SetDeadline is called by the library's CloseDeadline, and with the zero time after its handshake.
func (c *guardedConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	if c.writing {
		c.setWriteDeadline()
	}
	return c.Conn.SetReadDeadline(earlier(time.Now().Add(c.idleTimeout), t))
}

// SetReadDeadline does nothing: see the type's second point.
func (c *guardedConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: each write has its own.
func (c *guardedConn) SetWriteDeadline(time.Time) error { return nil }

// earlier returns the earlier of two deadlines, of which zero means none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
