package surepost

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"
)

// NewID returns a UUIDv7 (RFC 9562 §5.7) as its 36 characters. Ids of one process are strictly increasing, so that
// they land at the right edge of every index: rand_a carries a fraction of the millisecond (§6.2, method 3) and
// is stepped on where the clock hasn't moved. Safe for concurrent use.
func NewID() string {
	return ids.next(time.Now())
}

var ids idClock

// idClock makes ids of one process increase. Its tick is a 4096th of a millisecond since 1970.
type idClock struct {
	mu   sync.Mutex
	last uint64
}

func (c *idClock) next(now time.Time) string {
	const perMilli = 1 << 12
	ns := uint64(now.UnixNano())
	tick := ns/1e6*perMilli + ns%1e6*perMilli/1e6

	c.mu.Lock()
	if tick <= c.last {
		tick = c.last + 1
	}
	c.last = tick
	c.mu.Unlock()

	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], tick/perMilli<<16|0x7000|tick%perMilli)
	rand.Read(b[8:]) // never fails: crypto/rand crashes the program instead (since Go 1.24)
	b[8] = b[8]&0x3f | 0x80

	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}
