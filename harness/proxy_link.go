package harness

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// side is an end of the proxy's connection.
type side int

const (
	clientSide side = iota
	serverSide
)

// link is a client's connection and the one to the server that it is passed on to.
type link struct {
	proxy *Proxy
	conns [2]*net.TCPConn  // by side
	gone  [2]chan struct{} // closed when that side was cut or has failed
	ways  [2]*way          // by Direction

	mu   sync.Mutex
	dead [2]bool // gone is closed
}

// way is one direction of a link.
type way struct {
	from, to side
	queue    chan parcel

	writing      sync.Mutex // held while something is being passed on
	ended        bool       // by HalfClose; under writing
	interrupting sync.Mutex // one interrupt at a time: the first to end takes the deadline away
}

// parcel is what arrived in one piece, or the end of the stream.
type parcel struct {
	bytes []byte
	due   time.Time
	err   error
}

const (
	parcelBytes = 16 << 10
	queueLength = 64 // so a way with latency has at most 1 MiB under way
)

func newLink(p *Proxy, c, b *net.TCPConn) *link {
	l := &link{proxy: p, conns: [2]*net.TCPConn{c, b}}
	l.gone = [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	l.ways = [2]*way{
		ToServer: {from: clientSide, to: serverSide, queue: make(chan parcel, queueLength)},
		ToClient: {from: serverSide, to: clientSide, queue: make(chan parcel, queueLength)},
	}
	return l
}

// run returns when neither side has anything to say any more.
func (l *link) run() {
	var group sync.WaitGroup
	for d, w := range l.ways {
		group.Go(func() { l.receive(Direction(d), w) })
		group.Go(func() { l.send(Direction(d), w) })
	}
	group.Wait()
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// receive reads what one side sends and stamps it with the time from which on the other may have it.
// The queue keeps the order.
func (l *link) receive(d Direction, w *way) {
	defer close(w.queue)
	for {
		buffer := make([]byte, parcelBytes)
		n, err := l.conns[w.from].Read(buffer)
		f, _ := l.proxy.suffers(d)
		due := time.Now().Add(f.latency)
		if f.jitter > 0 {
			due = due.Add(rand.N(f.jitter))
		}
		select {
		case w.queue <- parcel{buffer[:n], due, err}:
		case <-l.gone[w.from]:
			return
		}
		if err != nil {
			return
		}
	}
}

// send passes on what receive has read. What it can't pass on it drops, so that the sender, who does
// not know, can go on sending.
func (l *link) send(d Direction, w *way) {
	for p := range w.queue {
		if !l.sleep(w, time.Until(p.due)) {
			continue
		}
		for rest := p.bytes; len(rest) > 0; {
			f, resumed := l.proxy.suffers(d)
			if f.stalled && !l.await(w, resumed) {
				break
			}
			piece := rest
			if f.bandwidth > 0 { // a twentieth of a second's worth at a time
				piece = rest[:min(len(rest), max(1, f.bandwidth/20))]
			}
			n, ok := l.pass(d, w, piece)
			if rest = rest[n:]; !ok {
				break
			}
			if f.bandwidth > 0 && !l.sleep(w, time.Duration(n)*time.Second/time.Duration(f.bandwidth)) {
				break
			}
		}
		if p.err != nil {
			l.end(d, w, p.err)
		}
	}
}

// pass writes bytes, unless the direction is stalled by now. A Stall that comes meanwhile interrupts it.
func (l *link) pass(d Direction, w *way, piece []byte) (n int, ok bool) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if f, _ := l.proxy.suffers(d); f.stalled {
		return 0, true
	}
	if w.ended {
		return len(piece), true
	}
	n, err := l.conns[w.to].Write(piece)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return n, true
	}
	// The receiver is gone. The sender hears of it, as it would without us, unless we cut the receiver.
	if l.lose(w.to) {
		l.cut(w.from)
	}
	return n, false
}

// end passes the end of the stream on: an orderly one as such, another as a reset. That of a side
// that was cut is not passed on.
func (l *link) end(d Direction, w *way, err error) {
	for {
		w.writing.Lock()
		f, resumed := l.proxy.suffers(d)
		if !f.stalled {
			break
		}
		w.writing.Unlock() // a stalled direction ends when it is resumed
		if !l.await(w, resumed) {
			return
		}
	}
	defer w.writing.Unlock()
	switch {
	case !errors.Is(err, io.EOF):
		if l.lose(w.from) {
			l.cut(w.to)
		}
	case !w.ended:
		_ = l.conns[w.to].CloseWrite()
	}
}

// halfClose ends one direction from the middle.
func (l *link) halfClose(d Direction) {
	w := l.ways[d]
	l.interrupt(d)
	w.writing.Lock()
	defer w.writing.Unlock()
	w.ended = true
	_ = l.conns[w.to].CloseWrite()
}

// interrupt returns when a write that is under way has ended. One that waits for a receiver who does
// not read is broken off; its rest is not lost.
func (l *link) interrupt(d Direction) {
	w := l.ways[d]
	to := l.conns[w.to]
	w.interrupting.Lock()
	defer w.interrupting.Unlock()
	_ = to.SetWriteDeadline(time.Unix(1, 0))
	w.writing.Lock()
	_ = to.SetWriteDeadline(time.Time{})
	w.writing.Unlock()
}

// cut resets one side, and the other is not told.
func (l *link) cut(s side) {
	l.lose(s)
	reset(l.conns[s])
}

// lose marks a side as gone, and reports whether it was not before.
func (l *link) lose(s side) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead[s] {
		return false
	}
	l.dead[s] = true
	close(l.gone[s])
	return true
}

func (l *link) open(s side) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.dead[s]
}

// sleep and await report whether there is still somebody to pass something on to, and from.
func (l *link) sleep(w *way, d time.Duration) bool {
	if d <= 0 {
		return l.open(w.to)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.gone[w.to]:
	case <-l.gone[w.from]:
	}
	return false
}

func (l *link) await(w *way, resumed <-chan struct{}) bool {
	select {
	case <-resumed:
		return true
	case <-l.gone[w.to]:
	case <-l.gone[w.from]:
	}
	return false
}

// reset closes a connection so that its other end sees a reset and not an end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
